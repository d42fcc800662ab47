// Runs decode() and the suppressions of the CPU and checks what holds for every input.
#pragma once

#include <algorithm>
#include <cmath>
#include <set>
#include <vector>

#include "check.h"
#include "math/box_math.h"
#include "random_cases.h"

using retinasdk::Box;

// The candidates and the kept ones of a batch.
struct Detected {
  std::vector<float> boxes, logits;
  std::vector<int32_t> class_ids, counts, kept, kept_counts;

  bool operator==(const Detected& other) const {  // No value here is NaN.
    return boxes == other.boxes && logits == other.logits && class_ids == other.class_ids && counts == other.counts &&
           kept == other.kept && kept_counts == other.kept_counts;
  }
};

inline Box box_at(const Detected& detected, size_t i) {
  const float* box = detected.boxes.data() + 4 * i;
  return {box[0], box[1], box[2], box[3]};
}

// Returns the highest limit of any level on one axis, or a negative number if some boxes are not clipped.
inline float highest_clip(const HeadsCase& made, int image, float retinasdk::HeadLevel::* own, size_t axis) {
  const float whole = made.clip_sizes[2 * static_cast<size_t>(image) + axis];
  float highest = 0.0f;
  for (const retinasdk::HeadLevel& level : made.levels) {
    const float limit = level.*own >= 0.0f ? level.*own : whole;
    if (limit < 0.0f) return limit;
    highest = std::max(highest, limit);
  }
  return highest;
}

inline void check_candidates(const HeadsCase& made, const Detected& detected, int image, size_t first) {
  const int count = detected.counts[static_cast<size_t>(image)];
  check(count >= 0 && count <= retinasdk::candidate_limit(made.levels.size(), made.options), "counts are in range");
  int climbs = 0;
  for (size_t i = first; i < first + static_cast<size_t>(count); ++i) {
    const Box box = box_at(detected, i);
    check(retinasdk::is_finite(box), "boxes are finite");
    const float height = highest_clip(made, image, &retinasdk::HeadLevel::clip_height, 0);
    const float width = highest_clip(made, image, &retinasdk::HeadLevel::clip_width, 1);
    check(width < 0 || (box.x1 >= 0 && box.x1 <= width && box.x2 >= 0 && box.x2 <= width), "boxes are clipped in x");
    check(height < 0 || (box.y1 >= 0 && box.y1 <= height && box.y2 >= 0 && box.y2 <= height), "boxes are clipped in y");
    const retinasdk::BoxCoder& coder = made.options.coder;
    if (coder.coding == retinasdk::BoxCoding::kCenter && !coder.inclusive_pixels) {
      check(box.x1 <= box.x2 && box.y1 <= box.y2, "corners are in order");
    }
    if (made.options.drop_empty) {
      check(!retinasdk::is_empty(retinasdk::continuous_box(box, coder.inclusive_pixels)), "no box is empty");
    }
    check(detected.logits[i] > made.options.logit_threshold ||
              (made.options.or_equal && detected.logits[i] == made.options.logit_threshold),
          "logits are above the threshold");
    const std::vector<int32_t>& wanted = made.options.class_ids;
    const int32_t class_id = detected.class_ids[i];
    check(class_id >= 0 && class_id < made.options.classes, "classes are in range");
    check(wanted.empty() || std::find(wanted.begin(), wanted.end(), class_id) != wanted.end(),
          "classes are wanted ones");
    if (!made.class_thresholds.empty()) {
      const float threshold = made.class_thresholds[static_cast<size_t>(class_id)];
      check(detected.logits[i] > threshold || (made.options.or_equal && detected.logits[i] == threshold),
            "logits are above the threshold of their class");
    }
    if (i > first && detected.logits[i] > detected.logits[i - 1]) ++climbs;
  }
  // With top_k_anchors, the candidates of an anchor are ordered by class.
  check(climbs < static_cast<int>(made.levels.size()) || made.options.top_k_anchors,
        "logits do not rise inside a level");
}

inline void check_kept(const HeadsCase& made, const Detected& detected, int image, size_t first) {
  const auto room = static_cast<size_t>(made.nms.max_detections);
  const int32_t* kept = detected.kept.data() + static_cast<size_t>(image) * room;
  const auto kept_count = static_cast<size_t>(detected.kept_counts[static_cast<size_t>(image)]);
  const auto count = static_cast<size_t>(detected.counts[static_cast<size_t>(image)]);
  check(kept_count <= std::min(room, count), "kept counts are in range");
  check(std::set<int32_t>(kept, kept + kept_count).size() == kept_count, "kept indices are unique");
  std::vector<bool> is_kept(count, false);
  for (size_t place = 0; place < kept_count; ++place) {
    check(kept[place] >= 0 && static_cast<size_t>(kept[place]) < count, "kept indices are in range");
    is_kept[static_cast<size_t>(kept[place])] = true;
    if (place == 0) continue;
    const float before = detected.logits[first + static_cast<size_t>(kept[place - 1])];
    const float here = detected.logits[first + static_cast<size_t>(kept[place])];
    check(before > here || (before == here && kept[place - 1] < kept[place]), "best first, then the lower index");
  }
  const auto suppressed_by_kept = [&](size_t i) {
    int better_of_class = 0;
    for (size_t place = 0; place < kept_count; ++place) {
      const size_t other = first + static_cast<size_t>(kept[place]);
      const bool better =
          detected.logits[other] > detected.logits[i] || (detected.logits[other] == detected.logits[i] && other < i);
      const bool same_class = detected.class_ids[other] == detected.class_ids[i];
      if (better && same_class && ++better_of_class == made.nms.max_per_class) return true;
      if (!better || !(same_class || made.nms.across_classes)) continue;
      const float overlap =
          retinasdk::iou(retinasdk::continuous_box(box_at(detected, other), made.nms.inclusive_pixels),
                         retinasdk::continuous_box(box_at(detected, i), made.nms.inclusive_pixels));
      if (overlap > made.nms.iou_threshold || (made.nms.or_equal && overlap == made.nms.iou_threshold)) return true;
    }
    return false;
  };
  for (size_t i = 0; i < count; ++i) {
    if (is_kept[i]) check(!suppressed_by_kept(first + i), "no kept box overlaps a better kept one of its class");
    if (!is_kept[i] && kept_count < room) check(suppressed_by_kept(first + i), "no box is dropped without a reason");
  }
}

// The results of fusion and soft NMS: the second half of `scores` and `counts` belongs to soft NMS.
struct Scored {
  std::vector<float> boxes, scores;
  std::vector<int32_t> class_ids, kept, counts;

  bool operator==(const Scored& other) const {
    return boxes == other.boxes && scores == other.scores && class_ids == other.class_ids && kept == other.kept &&
           counts == other.counts;
  }
};

// Runs fusion and soft NMS and checks the results.
inline Scored run_overlap_rules(int images, const retinasdk::Candidates& candidates, const retinasdk::NmsOptions& nms,
                                const OverlapRules& rules) {
  const auto batch = static_cast<size_t>(images);
  const auto room = static_cast<size_t>(nms.max_detections);
  Scored scored{std::vector<float>(4 * batch * room), std::vector<float>(2 * batch * room),
                std::vector<int32_t>(batch * room), std::vector<int32_t>(batch * room, -1),
                std::vector<int32_t>(2 * batch)};
  float* soft_scores = scored.scores.data() + batch * room;
  int32_t* soft_counts = scored.counts.data() + batch;
  retinasdk::fuse(images, candidates, rules.fusion(nms),
                  {scored.boxes.data(), scored.scores.data(), scored.class_ids.data(), scored.counts.data()});
  retinasdk::soft_nms(images, candidates, rules.soft(nms), scored.kept.data(), soft_counts, soft_scores);
  const auto check_scores = [&](const float* scores, int count, int image) {
    check(count >= 0 && count <= std::min(nms.max_detections, candidates.counts[image]), "counts are in range");
    for (int i = 0; i < count; ++i) {
      check(scores[i] >= 0.0f && scores[i] <= 1.0f, "scores are from 0 to 1");
      check(i == 0 || scores[i] <= scores[i - 1], "scores are in order");
    }
  };
  for (size_t image = 0; image < batch; ++image) {
    check_scores(scored.scores.data() + image * room, scored.counts[image], static_cast<int>(image));
    check_scores(soft_scores + image * room, soft_counts[image], static_cast<int>(image));
    for (size_t i = 0; i < 4 * static_cast<size_t>(scored.counts[image]); ++i) {
      check(std::isfinite(scored.boxes[4 * image * room + i]), "fused boxes are finite");
    }
    const int32_t* kept = scored.kept.data() + image * room;
    check(std::set<int32_t>(kept, kept + soft_counts[image]).size() == static_cast<size_t>(soft_counts[image]),
          "kept indices are unique");
  }
  return scored;
}

// Decodes heads, suppresses, and checks the results.
inline Detected run(const HeadsCase& made) {
  const auto batch = static_cast<size_t>(made.options.batch);
  const auto capacity = static_cast<size_t>(retinasdk::candidate_limit(made.levels.size(), made.options));
  Detected detected{std::vector<float>(batch * capacity * 4),
                    std::vector<float>(batch * capacity),
                    std::vector<int32_t>(batch * capacity),
                    std::vector<int32_t>(batch, -1),
                    std::vector<int32_t>(batch * static_cast<size_t>(made.nms.max_detections), -1),
                    std::vector<int32_t>(batch, -1)};
  const retinasdk::Candidates candidates{detected.boxes.data(), detected.logits.data(), detected.class_ids.data(),
                                         detected.counts.data(), static_cast<int>(capacity)};
  retinasdk::decode(made.levels, made.options, made.clip_sizes.data(), candidates);
  retinasdk::nms(made.options.batch, candidates, made.nms, detected.kept.data(), detected.kept_counts.data());
  for (int image = 0; image < made.options.batch; ++image) {
    check_candidates(made, detected, image, static_cast<size_t>(image) * capacity);
    check_kept(made, detected, image, static_cast<size_t>(image) * capacity);
  }
  const auto overlap = [&] { return run_overlap_rules(made.options.batch, candidates, made.nms, made.rules); };
  check(overlap() == overlap(), "two runs give the same result");
  return detected;
}

// Runs NMS with boxes that decode() never returns. A caller may use NMS alone.
inline void run(const CandidatesCase& made, const OverlapRules& rules) {
  std::vector<float> boxes = made.boxes, logits = made.logits;
  std::vector<int32_t> class_ids = made.class_ids, counts = made.counts;
  const retinasdk::Candidates candidates{boxes.data(), logits.data(), class_ids.data(), counts.data(), made.capacity};
  const auto batch = static_cast<size_t>(made.batch), capacity = static_cast<size_t>(made.capacity);
  const auto room = static_cast<size_t>(made.nms.max_detections);
  std::vector<int32_t> kept(batch * room, -1), kept_counts(batch, -1);
  if (made.rotated) {
    retinasdk::rotated_nms(made.batch, candidates, made.nms, made.shares_angle, kept.data(), kept_counts.data());
  } else {
    retinasdk::nms(made.batch, candidates, made.nms, kept.data(), kept_counts.data());
    run_overlap_rules(made.batch, candidates, made.nms, rules);
  }
  const size_t values = boxes.size() / (batch * capacity);
  for (size_t image = 0; image < batch; ++image) {
    const int kept_count = kept_counts[image];
    check(kept_count >= 0 && kept_count <= std::min(counts[image], made.nms.max_detections),
          "kept counts are in range");
    for (size_t place = 0; place < static_cast<size_t>(kept_count); ++place) {
      const auto i = static_cast<size_t>(kept[image * room + place]);
      check(i < static_cast<size_t>(counts[image]), "kept indices are in range");
      check(!std::isnan(logits[image * capacity + i]), "kept logits are not NaN");
      const float* box = boxes.data() + (image * capacity + i) * values;
      for (size_t k = 0; k < values; ++k) check(std::isfinite(box[k]), "kept boxes are finite");
      if (place == 0) continue;
      const auto before = static_cast<size_t>(kept[image * room + place - 1]);
      check(logits[image * capacity + before] >= logits[image * capacity + i], "best first");
    }
  }
}

// Decodes rotated boxes and suppresses them: the boxes are finite, and the kept ones ordered.
inline void run_rotated(const RotatedCase& made, Random& random) {
  const auto room = static_cast<size_t>(made.options.top_k);
  std::vector<float> boxes(room * retinasdk::kRotatedValues), found(room);
  std::vector<int32_t> class_ids(room), kept(room);
  int32_t count = 0, kept_count = 0;
  const retinasdk::Candidates candidates{boxes.data(), found.data(), class_ids.data(), &count, made.options.top_k};
  retinasdk::DecodeOptions options = made.options;
  options.rotated = &made.coder;
  retinasdk::decode({made.level()}, options, made.clip_sizes, candidates);
  for (int i = 0; i < count * retinasdk::kRotatedValues; ++i) {
    check(std::isfinite(boxes[static_cast<size_t>(i)]), "rotated boxes are finite");
  }
  for (int i = 0; i < count; ++i) {  // The NMS also takes boxes that decoding never gives.
    if (random.chance(6))
      boxes[static_cast<size_t>(i * retinasdk::kRotatedValues + random.integer(0, 5))] = random.hostile();
  }
  if (random.chance(20)) count = 0;
  const retinasdk::NmsOptions nms{random.real(-0.1f, 1.0f), random.integer(1, made.options.top_k), random.chance(2)};
  retinasdk::rotated_nms(1, candidates, nms, random.chance(2), kept.data(), &kept_count);
  check(kept_count <= count, "as many rotated boxes are kept as there are, or fewer");
  for (int i = 1; i < kept_count; ++i) {
    check(found[static_cast<size_t>(kept[static_cast<size_t>(i - 1)])] >=
              found[static_cast<size_t>(kept[static_cast<size_t>(i)])],
          "kept rotated boxes are ordered");
  }
}
