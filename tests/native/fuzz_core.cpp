// Runs the native core with seeded, hostile inputs, without Python: fuzz_core [seed [rounds]].
//
// Buffers are exactly as large as ops.h requires, so that the address sanitizer detects any access beyond them. The
// test checks properties that hold for every input. Some cases are run again by eight threads at the same time.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "cpu/kernels_cpu.h"
#include "math/box_math.h"
#include "math/divisor.h"
#include "random_cases.h"
#include "retinasdk/ops.h"

namespace {

using retinasdk::Box;

void check(bool condition, const char* what) {
  if (condition) return;
  std::fprintf(stderr, "fuzz_core: this property does not hold: %s\n", what);
  std::exit(1);
}

// Preprocesses an image and checks the result.
std::vector<float> run(const PreprocessCase& made) {
  const retinasdk::PreprocessOptions& options = made.options;
  std::vector<float> canvas(size_t{3} * static_cast<size_t>(options.padded_height * options.padded_width), kNan);
  retinasdk::preprocess(made.view, options, canvas.data());
  size_t at = 0;
  for (int c = 0; c < 3; ++c) {
    const float lowest = -options.mean[c] / options.std[c] - 1e-4f;
    const float highest = (255.0f - options.mean[c]) / options.std[c] + 1e-4f;
    for (int y = 0; y < options.padded_height; ++y) {
      for (int x = 0; x < options.padded_width; ++x, ++at) {
        const bool inside = y < options.resized_height && x < options.resized_width;
        if (inside) check(canvas[at] >= lowest && canvas[at] <= highest, "outputs lie in the range of the pixels");
        if (!inside) check(canvas[at] == 0.0f, "padding is 0");
      }
    }
  }
  return canvas;
}

// -- decode and NMS --------------------------------------------------------------------------------------------------

// The candidates and the kept ones of a batch.
struct Detected {
  std::vector<float> boxes, logits;
  std::vector<int32_t> class_ids, counts, kept, kept_counts;

  bool operator==(const Detected& other) const {  // No value here is NaN.
    return boxes == other.boxes && logits == other.logits && class_ids == other.class_ids && counts == other.counts &&
           kept == other.kept && kept_counts == other.kept_counts;
  }
};

Box box_at(const Detected& detected, size_t i) {
  const float* box = detected.boxes.data() + 4 * i;
  return {box[0], box[1], box[2], box[3]};
}

// Returns the highest limit of any level on one axis, or a negative number if some boxes are not clipped.
float highest_clip(const HeadsCase& made, int image, float retinasdk::HeadLevel::* own, size_t axis) {
  const float whole = made.clip_sizes[2 * static_cast<size_t>(image) + axis];
  float highest = 0.0f;
  for (const retinasdk::HeadLevel& level : made.levels) {
    const float limit = level.*own >= 0.0f ? level.*own : whole;
    if (limit < 0.0f) return limit;
    highest = std::max(highest, limit);
  }
  return highest;
}

void check_candidates(const HeadsCase& made, const Detected& detected, int image, size_t first) {
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

void check_kept(const HeadsCase& made, const Detected& detected, int image, size_t first) {
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
Scored run_overlap_rules(const HeadsCase& made, const retinasdk::Candidates& candidates, retinasdk::ScoreScale scale) {
  const auto batch = static_cast<size_t>(made.options.batch);
  const auto room = static_cast<size_t>(made.nms.max_detections);
  Scored scored{std::vector<float>(4 * batch * room), std::vector<float>(2 * batch * room),
                std::vector<int32_t>(batch * room), std::vector<int32_t>(batch * room, -1),
                std::vector<int32_t>(2 * batch)};
  float* soft_scores = scored.scores.data() + batch * room;
  int32_t* soft_counts = scored.counts.data() + batch;
  retinasdk::fuse(made.options.batch, candidates,
                  {made.nms, made.fused_score, scale, made.models, made.options.classes},
                  {scored.boxes.data(), scored.scores.data(), scored.class_ids.data(), scored.counts.data()});
  retinasdk::soft_nms(made.options.batch, candidates,
                      {made.nms, made.decay, made.sigma, made.score_thresholds.data(), made.options.classes},
                      scored.kept.data(), soft_counts, soft_scores);
  const auto check_scores = [&](const float* scores, int count, int image) {
    check(count >= 0 && count <= std::min(made.nms.max_detections, candidates.counts[image]), "counts are in range");
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
Detected run(const HeadsCase& made) {
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
  const auto scale = retinasdk::ScoreScale::kLogit;
  check(run_overlap_rules(made, candidates, scale) == run_overlap_rules(made, candidates, scale),
        "two runs give the same result");
  return detected;
}

// Runs NMS with boxes that decode() never returns. A caller may use NMS alone.
void run_hostile_nms(Random& random) {
  const int count = random.integer(0, 300);
  std::vector<float> boxes, logits;
  std::vector<int32_t> class_ids;
  for (int i = 0; i < count; ++i) {
    for (int side = 0; side < 4; ++side) boxes.push_back(random.chance(8) ? random.hostile() : random.real(-50, 50));
    logits.push_back(random.chance(6) ? random.hostile() : static_cast<float>(random.integer(-3, 3)));
    class_ids.push_back(random.chance(20) ? 65535 : random.integer(0, 3));
  }
  std::vector<int32_t> counts{count};
  const retinasdk::NmsOptions options{random.real(0, 1), random.integer(1, 320), random.chance(2), random.chance(2)};
  std::vector<int32_t> kept(static_cast<size_t>(options.max_detections), -1);
  int32_t kept_count = -1;
  retinasdk::nms(1, {boxes.data(), logits.data(), class_ids.data(), counts.data(), count}, options, kept.data(),
                 &kept_count);
  check(kept_count >= 0 && kept_count <= std::min(count, options.max_detections), "kept counts are in range");
  HeadsCase made = make_heads(random);
  made.options.batch = 1;
  made.options.classes = 65536;
  made.score_thresholds.assign(65536, random.real(0, 1));
  run_overlap_rules(made, {boxes.data(), logits.data(), class_ids.data(), counts.data(), count},
                    random.chance(2) ? retinasdk::ScoreScale::kLogit : retinasdk::ScoreScale::kProbability);
  for (int place = 0; place < kept_count; ++place) {
    const auto i = static_cast<size_t>(kept[static_cast<size_t>(place)]);
    check(i < static_cast<size_t>(count) && !std::isnan(logits[i]), "kept logits are not NaN");
    for (size_t side = 0; side < 4; ++side) check(std::isfinite(boxes[4 * i + side]), "kept boxes are finite");
  }
}

// Decodes rotated boxes from hostile numbers and suppresses them: the boxes are finite, and the kept ones ordered.
void run_rotated(Random& random) {
  const int anchors = random.integer(1, 3), classes = random.integer(1, 3), top_k = random.integer(1, 40);
  retinasdk::RotatedCoder coder;
  coder.coding = random.chance(2) ? retinasdk::AngleCoding::kSinCos : retinasdk::AngleCoding::kDelta;
  coder.limits_angle = random.chance(2);
  coder.swaps_edges = random.chance(2);
  coder.turns_offsets = random.chance(2);
  coder.inclusive_pixels = random.chance(2);
  const int height = random.integer(1, 9), width = random.integer(1, 9);
  const auto number = [&] { return random.chance(4) ? random.hostile() : random.real(-2.0f, 2.0f); };
  std::vector<float> logits(static_cast<size_t>(anchors * classes * height * width));
  std::vector<float> deltas(static_cast<size_t>(anchors * retinasdk::deltas_of(coder.coding) * height * width));
  std::vector<float> base(static_cast<size_t>(anchors * retinasdk::kRotatedAnchorValues));
  for (float& value : logits) value = number();
  for (float& value : deltas) value = number();
  for (float& value : base) value = random.real(1.0f, 60.0f);
  retinasdk::DecodeOptions options{};
  options.batch = 1;
  options.anchors = anchors;
  options.classes = classes;
  options.logit_threshold = -1.0f;
  options.top_k = top_k;
  options.rotated = &coder;
  const float clip_sizes[] = {random.chance(3) ? -1.0f : 60.0f, random.chance(3) ? -1.0f : 60.0f};
  std::vector<float> boxes(static_cast<size_t>(top_k * retinasdk::kRotatedValues)), found(static_cast<size_t>(top_k));
  std::vector<int32_t> class_ids(static_cast<size_t>(top_k)), kept(static_cast<size_t>(top_k));
  int32_t count = 0, kept_count = 0;
  const retinasdk::Candidates candidates{boxes.data(), found.data(), class_ids.data(), &count, top_k};
  retinasdk::decode({{logits.data(), deltas.data(), base.data(), height, width, 8.0f, 8.0f}}, options, clip_sizes,
                    candidates);
  for (int i = 0; i < count * retinasdk::kRotatedValues; ++i) {
    check(std::isfinite(boxes[static_cast<size_t>(i)]), "rotated boxes are finite");
  }
  for (int i = 0; i < count; ++i) {  // The NMS also takes boxes that decoding never gives.
    if (random.chance(6)) boxes[static_cast<size_t>(i * retinasdk::kRotatedValues + random.integer(0, 5))] = number();
  }
  if (random.chance(20)) count = 0;
  const retinasdk::NmsOptions nms{random.real(-0.1f, 1.0f), top_k, random.chance(2)};
  retinasdk::rotated_nms(1, candidates, nms, random.chance(2), kept.data(), &kept_count);
  check(kept_count <= count, "as many rotated boxes are kept as there are, or fewer");
  for (int i = 1; i < kept_count; ++i) {
    check(found[static_cast<size_t>(kept[static_cast<size_t>(i - 1)])] >=
              found[static_cast<size_t>(kept[static_cast<size_t>(i)])],
          "kept rotated boxes are ordered");
  }
}

// Merges the boxes of random tiles. Some boxes could not come from a tile.
void run_merge(Random& random) {
  const int extent = random.integer(1, 400);
  const int length = random.integer(1, extent);
  std::vector<int32_t> starts{0};
  while (starts.back() + length < extent) {
    starts.push_back(std::min(starts.back() + random.integer(1, length), extent - length));
  }
  const retinasdk::TileAxis axis{starts.data(), static_cast<int>(starts.size()), length, extent};
  const int tiles = axis.count * axis.count;
  const int count = random.integer(0, 300);
  std::vector<float> boxes, logits;
  std::vector<int32_t> class_ids, numbers;
  for (int i = 0; i < count; ++i) {
    for (int side = 0; side < 4; ++side) {
      boxes.push_back(random.chance(20) ? random.hostile() : random.real(-50, static_cast<float>(extent)));
    }
    logits.push_back(random.chance(6) ? random.hostile() : static_cast<float>(random.integer(-3, 3)));
    class_ids.push_back(random.chance(20) ? 65535 : random.integer(0, 1));
    numbers.push_back(random.integer(0, tiles));
  }
  const retinasdk::MergeOptions options{random.real(0, 1), random.chance(2),  random.chance(2),
                                        random.real(0, 9), random.real(0, 9), random.real(0, 1)};
  std::vector<int32_t> kept(static_cast<size_t>(count), -1), joined(static_cast<size_t>(count), -2);
  const retinasdk::TileBoxes given{boxes.data(), logits.data(), class_ids.data(), numbers.data(), count};
  const int kept_count = retinasdk::merge_tiles(given, {axis, axis}, options, kept.data(), joined.data());
  check(kept_count >= 0 && kept_count <= count, "merged counts are in range");
  std::set<int32_t> seen;
  for (int place = 0; place < kept_count; ++place) {
    const auto i = static_cast<size_t>(kept[static_cast<size_t>(place)]);
    check(i < static_cast<size_t>(count) && seen.insert(static_cast<int32_t>(i)).second, "merged indices are unique");
    check(!std::isnan(logits[i]), "merged logits are not NaN");
    for (size_t side = 0; side < 4; ++side) check(std::isfinite(boxes[4 * i + side]), "merged boxes are finite");
    if (place > 0) check(logits[static_cast<size_t>(kept[static_cast<size_t>(place) - 1])] >= logits[i], "best first");
    check(joined[i] == static_cast<int32_t>(i), "a kept box is joined to itself");
  }
  std::vector<int32_t> alone(static_cast<size_t>(count), -1);
  check(retinasdk::merge_tiles(given, {axis, axis}, options, alone.data()) == kept_count && alone == kept,
        "the kept boxes do not depend on whether the joined ones are wanted");
  for (const int32_t leader : joined) check(leader == -1 || seen.count(leader) == 1, "boxes are joined to kept boxes");
}

// Checks that a call throws std::invalid_argument with the given text in its message.
void check_refused(const std::string& message, const std::function<void()>& call) {
  try {
    call();
  } catch (const std::invalid_argument& error) {
    check(std::string(error.what()).find(message) != std::string::npos, error.what());
    return;
  }
  check(false, message.c_str());
}

void check_bad_arguments() {
  Random random(0);
  PreprocessCase small = make_preprocess(random, 4, 4, 2, 2);
  small.options.padded_width = 1;
  check_refused("padded width must be 2 to 65536, got 1", [&] { run(small); });
  HeadsCase heads = make_heads(random);
  const retinasdk::Candidates no_room{nullptr, nullptr, nullptr, nullptr, 0};
  check_refused("the capacity of the candidates must be at least",
                [&] { retinasdk::decode(heads.levels, heads.options, heads.clip_sizes.data(), no_room); });
  check_refused("at least one feature level", [&] { retinasdk::decode({}, heads.options, nullptr, no_room); });
  heads.options.class_ids = {heads.options.classes};
  check_refused("class id must be 0 to", [&] { run(heads); });
  heads.options.class_ids.clear();
  heads.sigma = 0.0f;
  check_refused("sigma must be above 0", [&] { run(heads); });
  heads.sigma = 0.5f;
  heads.models = 0;
  check_refused("models must be 1 to", [&] { run(heads); });
  heads.levels[0].height = 60000;
  heads.levels[0].width = 60000;
  check_refused("pairs, but at most 2147483647 pairs are supported", [&] { run(heads); });
  std::vector<uint8_t> samples(64);
  check_refused("frames must have an even height and width, got 2 x 3", [&] {
    retinasdk::yuv_to_rgb({retinasdk::PixelFormat::kNv12, samples.data(), 4, samples.data(), 4, 2, 3, {}, false},
                          samples.data());
  });
  const std::vector<int32_t> apart{0, 9, 8};
  const retinasdk::TileAxis gap{apart.data(), 3, 8, 16};
  check_refused("must ascend from 0 and cover the image without gaps, got 3 tiles of length 8 from 0 to 16",
                [&] { retinasdk::merge_tiles({}, {gap, gap}, {}, nullptr, nullptr); });
  // The largest number, whose sum with the length of a tile has more than 32 bits.
  const std::vector<int32_t> starts{0, 0x7fffffff, 0x7fffffff};
  const retinasdk::TileAxis beyond{starts.data(), static_cast<int>(starts.size()), 8, 16};
  check_refused("from 0 to 2147483655 for an image of size 16",
                [&] { retinasdk::merge_tiles({}, {beyond, beyond}, {}, nullptr, nullptr); });
}

// Compares the filter of this machine with passes(), at random lengths and alignments.
void run_filter(Random& random) {
  const int count = random.integer(0, 200);
  const int skipped = random.integer(0, count);
  std::vector<float> values;
  for (int i = 0; i < count; ++i) values.push_back(random.chance(4) ? random.hostile() : random.real(-2, 2));
  const float threshold = random.chance(8) ? random.hostile() : random.real(-2, 2);
  std::vector<int32_t> expected;
  for (int i = skipped; i < count; ++i) {
    if (retinasdk::passes(values[static_cast<size_t>(i)], threshold)) expected.push_back(i - skipped);
  }
  std::vector<int32_t> found(static_cast<size_t>(count - skipped));
  found.resize(static_cast<size_t>(
      retinasdk::cpu::positions_above(values.data() + skipped, count - skipped, threshold, found.data())));
  check(found == expected, "the filter finds the values that pass");
}

// Compares the division of the CUDA kernels with that of the language, mostly around multiples of the divisor.
void run_division(Random& random) {
  constexpr uint32_t kEnd = uint32_t{1} << 31;
  const auto number = [&] { return static_cast<uint32_t>(random.integer(0, 0x7ffffffe)) >> random.integer(0, 30); };
  const uint32_t divisor = random.chance(8) ? kEnd : number() + 1;
  const retinasdk::Divisor prepared = retinasdk::make_divisor(divisor);
  const uint32_t multiple = number() / divisor * divisor;
  for (const uint32_t value : {number(), multiple, multiple + divisor - 1, (kEnd - 1) / divisor * divisor, kEnd - 1}) {
    if (value >= kEnd) continue;
    check(retinasdk::divide(value, prepared) == value / divisor, "a division by multiplication is exact");
  }
}

// Runs a case in eight threads at the same time.
template <typename Case>
void run_in_threads(const Case& made) {
  const auto alone = run(made);
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&] { check(run(made) == alone, "every thread gets the same answer"); });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace

int main(int argc, char** argv) {
  const uint64_t seed = argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 1;
  const int rounds = argc > 2 ? std::atoi(argv[2]) : 200;
  Random random(seed);
  check_bad_arguments();
  const int shapes[][4] = {{1, 1, 1, 1},    {1, 1, 90, 70},    {5000, 3, 1, 1},
                           {3, 5000, 1, 2}, {5000, 3, 7, 300}, {2, 2, 1, 1}};
  for (const auto& shape : shapes) {
    for (int i = 0; i < 4; ++i) run(make_preprocess(random, shape[0], shape[1], shape[2], shape[3]));
  }
  for (int round = 0; round < rounds; ++round) {
    run(make_preprocess(random, random.integer(1, 90), random.integer(1, 90), random.integer(1, 90),
                        random.integer(1, 90)));
    run(make_heads(random));
    run_hostile_nms(random);
    run_rotated(random);
    run_merge(random);
    run_filter(random);
    for (int i = 0; i < 50; ++i) run_division(random);
    if (round % 20 == 0) {
      run_in_threads(make_preprocess(random, 70, 50, 60, 90));
      run_in_threads(make_heads(random));
    }
  }
  std::printf("fuzz_core: %d rounds with seed %llu, filter %s: all properties hold\n", rounds,
              static_cast<unsigned long long>(seed), retinasdk::simd_name());
}
