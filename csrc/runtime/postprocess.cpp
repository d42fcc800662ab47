#include "runtime/postprocess.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>

namespace retinasdk::runtime {
namespace {

// Memory of a call, not initialized: most of the room for candidates is never touched.
template <typename T>
std::unique_ptr<T[]> room_for(size_t count) {
  return std::unique_ptr<T[]>(new T[count]);
}

// The candidates of a call.
struct CandidateMemory {
  CandidateMemory(size_t batch, size_t capacity, size_t values_of_box)
      : values(values_of_box),
        boxes(room_for<float>(batch * capacity * values)),
        logits(room_for<float>(batch * capacity)),
        class_ids(room_for<int32_t>(batch * capacity)),
        counts(room_for<int32_t>(batch)),
        view{boxes.get(), logits.get(), class_ids.get(), counts.get(), static_cast<int>(capacity)} {}

  size_t values;
  std::unique_ptr<float[]> boxes, logits;
  std::unique_ptr<int32_t[]> class_ids, counts;
  Candidates view;
};

CandidateMemory decode_heads(const HeadOutputs& heads, const ModelSpec& spec, const std::vector<Transform>& transforms,
                             const DetectOptions& options) {
  const auto places = place_levels(heads.logit_shapes, heads.delta_shapes, spec, transforms[0].padded);
  std::vector<HeadLevel> levels;
  for (size_t i = 0; i < places.size(); ++i) {
    levels.push_back({heads.logits[i], heads.deltas[i], spec.levels[i].base_anchors.data(),
                      static_cast<int>(heads.logit_shapes[i][2]), static_cast<int>(heads.logit_shapes[i][3]),
                      places[i].stride_y, places[i].stride_x, places[i].clip_height, places[i].clip_width});
  }
  DecodeOptions rules = decode_rules(spec);
  rules.batch = static_cast<int>(transforms.size());
  const auto rotated = rotated_coder(spec);
  rules.rotated = rotated ? &*rotated : nullptr;
  rules.class_ids = options.class_ids;
  double lowest = options.score_thresholds[0];
  std::vector<float> class_thresholds;
  if (options.score_thresholds.size() > 1) {
    lowest = std::numeric_limits<double>::infinity();
    for (size_t i = 0; i < options.score_thresholds.size(); ++i) {
      const double threshold = options.score_thresholds[i];
      const auto& ids = options.class_ids;
      const bool is_wanted = ids.empty() || std::find(ids.begin(), ids.end(), static_cast<int32_t>(i)) != ids.end();
      if (is_wanted) lowest = std::min(lowest, threshold);
      class_thresholds.push_back(static_cast<float>(logit(threshold)));
    }
    rules.class_thresholds = class_thresholds.data();
  }
  rules.logit_threshold = static_cast<float>(logit(lowest));
  std::vector<float> clip_sizes, ignored;
  for (const Transform& transform : transforms) {
    const auto size = clip_size(transform, spec);
    clip_sizes.insert(clip_sizes.end(), size.begin(), size.end());
    const auto regions = ignored_regions(options.ignore, transform);
    ignored.insert(ignored.end(), regions.begin(), regions.end());
  }
  rules.ignored = ignored.empty() ? nullptr : ignored.data();
  rules.ignored_regions = static_cast<int>(options.ignore.size() / 4);
  const int64_t capacity = candidate_limit(levels.size(), rules);
  if (capacity > std::numeric_limits<int32_t>::max()) {
    throw std::invalid_argument("top_k over anchors must leave at most 2147483647 candidates per image, got " +
                                std::to_string(capacity));
  }
  CandidateMemory candidates(transforms.size(), static_cast<size_t>(capacity),
                             spec.is_rotated() ? size_t{kRotatedValues} : 4);
  decode(levels, rules, clip_sizes.data(), candidates.view);
  return candidates;
}

std::vector<Kept> fused(const CandidateMemory& candidates, const SuppressionRules& rules, const ModelSpec& spec,
                        size_t batch) {
  const auto room = static_cast<size_t>(rules.nms.max_detections);
  const auto boxes = room_for<float>(batch * room * 4), scores = room_for<float>(batch * room);
  const auto class_ids = room_for<int32_t>(batch * room), counts = room_for<int32_t>(batch);
  fuse(static_cast<int>(batch), candidates.view,
       {rules.nms, rules.fused_score, ScoreScale::kLogit, 1, static_cast<int>(spec.labels.size())},
       {boxes.get(), scores.get(), class_ids.get(), counts.get()});
  std::vector<Kept> results(batch);
  for (size_t image = 0; image < batch; ++image) {
    const size_t first = image * room, end = first + static_cast<size_t>(counts[image]);
    results[image].boxes.assign(&boxes[first * 4], &boxes[0] + end * 4);
    results[image].scores.assign(&scores[first], &scores[0] + end);
    results[image].class_ids.assign(&class_ids[first], &class_ids[0] + end);
  }
  return results;
}

}  // namespace

std::vector<Kept> decode_and_suppress(const HeadOutputs& heads, const ModelSpec& spec, const Suppression& suppression,
                                      const std::vector<Transform>& transforms, const DetectOptions& options) {
  const CandidateMemory candidates = decode_heads(heads, spec, transforms, options);
  SuppressionRules rules = suppression_rules(suppression, spec);
  rules.nms.max_detections = std::max(1, std::min(rules.nms.max_detections, candidates.view.capacity));
  const size_t batch = transforms.size();
  if (rules.op == SuppressionOp::kFuse) return fused(candidates, rules, spec, batch);
  const auto room = static_cast<size_t>(rules.nms.max_detections);
  const auto capacity = static_cast<size_t>(candidates.view.capacity);
  const auto kept = room_for<int32_t>(batch * room), counts = room_for<int32_t>(batch);
  std::unique_ptr<float[]> decayed;
  if (rules.op == SuppressionOp::kSoftNms) {
    std::vector<float> thresholds(options.score_thresholds.begin(), options.score_thresholds.end());
    thresholds.resize(spec.labels.size(), thresholds[0]);
    decayed = room_for<float>(batch * room);
    soft_nms(static_cast<int>(batch), candidates.view,
             {rules.nms, rules.decay, rules.sigma, thresholds.data(), static_cast<int>(thresholds.size())}, kept.get(),
             counts.get(), decayed.get());
  } else if (rules.op == SuppressionOp::kRotatedNms) {
    rotated_nms(static_cast<int>(batch), candidates.view, rules.nms, rules.shares_angle, kept.get(), counts.get());
  } else {
    nms(static_cast<int>(batch), candidates.view, rules.nms, kept.get(), counts.get());
  }
  std::vector<Kept> results(batch);
  for (size_t image = 0; image < batch; ++image) {
    Kept& result = results[image];
    for (size_t i = image * room; i < image * room + static_cast<size_t>(counts[image]); ++i) {
      const size_t best = image * capacity + static_cast<size_t>(kept[i]);
      const float* box = &candidates.boxes[best * candidates.values];
      result.boxes.insert(result.boxes.end(), box, box + candidates.values);
      result.scores.push_back(decayed != nullptr ? decayed[i] : sigmoid(candidates.logits[best]));
      result.class_ids.push_back(candidates.class_ids[best]);
    }
  }
  return results;
}

namespace {

// Appends the upright box around a rotated one.
void append_enclosing(std::vector<float>& xyxy, const float* xywhr) {
  const double x = xywhr[0], y = xywhr[1], width = xywhr[2], height = xywhr[3], angle = xywhr[4];
  const double right_x = std::cos(angle) * width / 2, right_y = std::sin(angle) * width / 2;
  const double down_x = -std::sin(angle) * height / 2, down_y = std::cos(angle) * height / 2;
  const auto xs = {static_cast<float>(x - right_x - down_x), static_cast<float>(x + right_x - down_x),
                   static_cast<float>(x + right_x + down_x), static_cast<float>(x - right_x + down_x)};
  const auto ys = {static_cast<float>(y - right_y - down_y), static_cast<float>(y + right_y - down_y),
                   static_cast<float>(y + right_y + down_y), static_cast<float>(y - right_y + down_y)};
  xyxy.insert(xyxy.end(), {std::min(xs), std::min(ys), std::max(xs), std::max(ys)});
}

Found rotated_to_original(Kept kept, const Transform& transform) {
  Found found{{}, std::move(kept.scores), std::move(kept.class_ids), {}};
  for (size_t i = 0; i < kept.boxes.size(); i += kRotatedValues) {
    float* box = &kept.boxes[i];
    transform.to_original(box, 1);
    const auto angle = static_cast<float>(std::atan2(static_cast<double>(box[4]), static_cast<double>(box[5])));
    found.xywhr.insert(found.xywhr.end(), {box[0], box[1], std::fabs(box[2]), std::fabs(box[3]), angle});
    append_enclosing(found.xyxy, &found.xywhr[found.xywhr.size() - 5]);
  }
  return found;
}

}  // namespace

Found to_original(Kept kept, const ModelSpec& spec, const Transform& transform) {
  if (spec.is_rotated()) return rotated_to_original(std::move(kept), transform);
  Found found;
  transform.to_original(kept.boxes.data(), kept.scores.size());
  const Size limit = clip_limit(transform.original, spec);
  for (size_t i = 0; i < kept.scores.size(); ++i) {
    float* box = &kept.boxes[i * 4];
    if (spec.clip == "original") {
      for (size_t k = 0; k < 4; ++k) {
        const auto highest = static_cast<float>(k % 2 == 0 ? limit.width : limit.height);
        box[k] = std::min(std::max(box[k], 0.0f), highest);
      }
    }
    if (spec.drop_empty == "after_nms") {
      const float extra = spec.inclusive_pixels ? 1.0f : 0.0f;
      if (!(box[2] - box[0] + extra > 0.0f && box[3] - box[1] + extra > 0.0f)) continue;
    }
    found.xyxy.insert(found.xyxy.end(), box, box + 4);
    found.scores.push_back(kept.scores[i]);
    found.class_ids.push_back(kept.class_ids[i]);
  }
  return found;
}

}  // namespace retinasdk::runtime
