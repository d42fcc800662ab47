// Random cases for the native tests: sizes, options and values, including NaN, infinity and extreme values.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <set>
#include <utility>
#include <vector>

#include "random.h"
#include "retinasdk/ops.h"

// The largest sizes of a case. A fuzzer runs small ones more often.
struct Most {
  int side = 60;  // Of a level, in cells.
  int classes = 91;
  int top_k = 2500;
  int candidates = 6000;  // Of an image, for the suppressions alone.
};

// -- preprocess ------------------------------------------------------------------------------------------------------

struct PreprocessCase {
  std::vector<uint8_t> pixels;
  retinasdk::ImageView view;
  retinasdk::PreprocessOptions options;
};

inline PreprocessCase make_preprocess(Random& random, int height, int width, int resized_height, int resized_width) {
  PreprocessCase made;
  const std::ptrdiff_t row_bytes = 3 * width + (random.chance(2) ? 0 : random.integer(1, 9));
  made.pixels.resize(static_cast<size_t>(row_bytes * (height - 1) + 3 * width));
  for (uint8_t& pixel : made.pixels) pixel = static_cast<uint8_t>(random.integer(0, 255));
  const bool upside_down = random.chance(4);
  made.view = {made.pixels.data() + (upside_down ? row_bytes * (height - 1) : 0), height, width,
               upside_down ? -row_bytes : row_bytes};
  made.options = {resized_height,
                  resized_width,
                  resized_height + random.integer(0, 3),
                  resized_width + random.integer(0, 33),
                  {123.675f, 116.28f, 103.53f},
                  {58.395f, 57.12f, 57.375f},
                  random.chance(2),
                  random.chance(2)};
  if (!made.options.antialias && random.chance(2)) made.options.source_step = random.real(0.01f, 70000.0f) / 1000.0f;
  made.options.eight_bit = random.chance(2);
  return made;
}

// A camera or decoder frame whose planes end with their last sample.
struct FrameCase {
  std::vector<uint8_t> luma, chroma;
  retinasdk::YuvView view;
};

inline FrameCase make_frame(Random& random) {
  const int height = 2 * random.integer(1, 20), width = 2 * random.integer(1, 20);
  const bool is_wide = random.chance(2);
  const std::ptrdiff_t row = is_wide ? 2 * width : width;
  const std::ptrdiff_t row_bytes = row + 2 * random.integer(0, 4), chroma_row_bytes = row + 2 * random.integer(0, 4);
  FrameCase made;
  made.luma.resize(static_cast<size_t>(row_bytes * (height - 1) + row));
  made.chroma.resize(static_cast<size_t>(chroma_row_bytes * (height / 2 - 1) + row));
  for (auto* plane : {&made.luma, &made.chroma}) {
    for (uint8_t& sample : *plane) sample = static_cast<uint8_t>(random.integer(0, 255));
  }
  made.view = {is_wide ? retinasdk::PixelFormat::kP010 : retinasdk::PixelFormat::kNv12,
               made.luma.data(),
               row_bytes,
               made.chroma.data(),
               chroma_row_bytes,
               height,
               width,
               static_cast<retinasdk::ColorMatrix>(random.integer(0, 2)),
               random.chance(2)};
  return made;
}

// -- decode and NMS --------------------------------------------------------------------------------------------------

// Options of soft NMS and fusion, besides those of NMS.
struct OverlapRules {
  retinasdk::Decay decay;
  float sigma;
  std::vector<float> score_thresholds;
  retinasdk::FusedScore fused_score;
  retinasdk::ScoreScale scale;
  int models;
  int classes;

  retinasdk::SoftNmsOptions soft(const retinasdk::NmsOptions& nms) const {
    return {nms, decay, sigma, score_thresholds.data(), classes};
  }
  retinasdk::FusionOptions fusion(const retinasdk::NmsOptions& nms) const {
    return {nms, fused_score, scale, models, classes};
  }
};

inline OverlapRules make_rules(Random& random, int classes) {
  OverlapRules rules{random.chance(2) ? retinasdk::Decay::kLinear : retinasdk::Decay::kGaussian,
                     random.real(0.001f, 1.0f),
                     {},
                     random.chance(2) ? retinasdk::FusedScore::kMean : retinasdk::FusedScore::kBest,
                     random.chance(3) ? retinasdk::ScoreScale::kProbability : retinasdk::ScoreScale::kLogit,
                     random.integer(1, 4),
                     classes};
  for (int k = 0; k < classes; ++k) rules.score_thresholds.push_back(random.real(0.0f, 0.6f));
  return rules;
}

struct HeadsCase {
  HeadsCase() = default;
  HeadsCase(HeadsCase&&) = default;  // No copies, because the levels point into the arrays.
  std::vector<std::vector<float>> logits, deltas, base_anchors;
  std::vector<retinasdk::HeadLevel> levels;
  std::vector<float> clip_sizes;
  std::vector<float> class_thresholds, ignored;
  retinasdk::DecodeOptions options;
  retinasdk::NmsOptions nms;
  OverlapRules rules;
};

inline retinasdk::BoxCoder make_coder(Random& random) {
  retinasdk::BoxCoder coder;
  if (!random.chance(3)) coder.clamp_max = 4.135167f;
  if (random.chance(3)) coder.clamp_min = random.real(-5.0f, 0.0f);
  if (random.chance(3)) coder.coding = retinasdk::BoxCoding::kCorner;
  if (random.chance(3)) {
    for (float& weight : coder.weights) weight = random.real(0.5f, 10.0f);
    for (float& mean : coder.means) mean = random.real(-0.5f, 0.5f);
  }
  coder.inclusive_pixels = random.chance(3);
  return coder;
}

inline HeadsCase make_heads(Random& random, const Most& most = {}) {
  HeadsCase made;
  made.options = {random.integer(1, 3),
                  random.integer(1, 9),
                  random.integer(1, random.chance(8) ? most.classes : 6),
                  random.chance(6) ? -kInfinity : random.real(-4.0f, 1.0f),
                  random.integer(1, random.chance(3) ? most.top_k : std::min(60, most.top_k)),
                  make_coder(random),
                  {},
                  random.chance(3),
                  random.chance(3)};
  made.options.top_k_anchors = random.chance(4);
  if (made.options.top_k_anchors) made.options.top_k = random.integer(1, std::min(60, most.top_k));
  made.nms = {random.real(0.0f, 1.0f), random.integer(1, 400),
              random.chance(3),        made.options.coder.inclusive_pixels,
              random.chance(3),        random.chance(3) ? random.integer(1, 30) : retinasdk::kMaxPerImage};
  made.rules = make_rules(random, made.options.classes);
  if (random.chance(3)) {
    for (int k = 0; k < made.options.classes; ++k) {
      made.class_thresholds.push_back(random.chance(4) ? random.hostile() : random.real(-4.0f, 1.0f));
    }
  }
  made.options.ignored_regions = random.chance(3) ? random.integer(1, 4) : 0;
  for (int i = 0; i < made.options.batch * made.options.ignored_regions; ++i) {
    const float x = random.real(-100.0f, 500.0f), y = random.real(-100.0f, 500.0f);
    made.ignored.insert(made.ignored.end(), {x, y, x + random.real(-5.0f, 300.0f), y + random.real(-5.0f, 300.0f)});
  }
  made.options.class_thresholds = made.class_thresholds.empty() ? nullptr : made.class_thresholds.data();
  made.options.ignored = made.ignored.data();
  // The kind of logits: 0 random, 1 all equal, 2 few different values, 3 hostile, 4 random with hostile deltas.
  const int kind = random.integer(0, 4);
  const int level_count = random.integer(1, 5);
  for (int level = 0; level < level_count; ++level) {
    const int side = random.chance(10) ? most.side : std::min(12, most.side);
    const int height = random.integer(1, side);
    const int width = random.integer(1, side);
    const auto cells = static_cast<size_t>(height * width);
    const auto anchors = static_cast<size_t>(made.options.anchors);
    std::vector<float> logits(static_cast<size_t>(made.options.batch * made.options.classes) * anchors * cells);
    std::vector<float> deltas(static_cast<size_t>(made.options.batch * 4) * anchors * cells);
    std::vector<float> base(4 * anchors);
    for (float& value : logits) {
      value = kind == 1 ? 1.0f : kind == 2 ? static_cast<float>(random.integer(-2, 2)) : random.real(-6.0f, 4.0f);
      if (kind == 3 && random.chance(3)) value = random.hostile();
    }
    for (float& value : deltas) value = kind >= 3 && random.chance(5) ? random.hostile() : random.real(-1.0f, 1.0f);
    for (size_t i = 0; i < base.size(); ++i)
      base[i] = i % 4 < 2 ? random.real(-90.0f, -1.0f) : random.real(1.0f, 90.0f);
    made.logits.push_back(std::move(logits));
    made.deltas.push_back(std::move(deltas));
    made.base_anchors.push_back(std::move(base));
    made.levels.push_back({nullptr, nullptr, nullptr, height, width, random.real(1.0f, 130.0f), 8.0f});
    if (random.chance(4)) made.levels.back().clip_height = random.real(0.0f, 300.0f);
    if (random.chance(4)) made.levels.back().clip_width = random.real(0.0f, 300.0f);
  }
  for (size_t i = 0; i < made.levels.size(); ++i) {
    made.levels[i].logits = made.logits[i].data();
    made.levels[i].deltas = made.deltas[i].data();
    made.levels[i].base_anchors = made.base_anchors[i].data();
  }
  for (int i = 0; i < 2 * made.options.batch; ++i)
    made.clip_sizes.push_back(random.chance(4) ? -1.0f : random.real(0, 900));
  if (random.chance(3)) {
    std::set<int32_t> some;
    for (int i = 0; i < 3; ++i) some.insert(random.integer(0, made.options.classes - 1));
    made.options.class_ids.assign(some.rbegin(), some.rend());
  }
  return made;
}

// Heads of one level for rotated boxes, some of their values hostile.
struct RotatedCase {
  std::vector<float> logits, deltas, base_anchors;
  int height, width;
  float clip_sizes[2];
  retinasdk::RotatedCoder coder;
  retinasdk::DecodeOptions options;  // Without its pointer to the coder.

  retinasdk::HeadLevel level() const {
    return {logits.data(), deltas.data(), base_anchors.data(), height, width, 8.0f, 8.0f};
  }
};

inline RotatedCase make_rotated(Random& random) {
  RotatedCase made{};
  made.options.batch = 1;
  made.options.anchors = random.integer(1, 3);
  made.options.classes = random.integer(1, 3);
  made.options.top_k = random.integer(1, 40);
  made.options.logit_threshold = -1.0f;
  retinasdk::RotatedCoder& coder = made.coder;
  coder.coding = random.chance(2) ? retinasdk::AngleCoding::kSinCos : retinasdk::AngleCoding::kDelta;
  coder.limits_angle = random.chance(2);
  coder.swaps_edges = random.chance(2);
  coder.turns_offsets = random.chance(2);
  coder.inclusive_pixels = random.chance(2);
  if (random.chance(3)) coder.first_angle = random.real(-4.0f, 4.0f);
  if (random.chance(3)) coder.angle_unit = random.real(-4.0f, 4.0f);
  made.height = random.integer(1, 9);
  made.width = random.integer(1, 9);
  made.clip_sizes[0] = random.chance(3) ? -1.0f : 60.0f;
  made.clip_sizes[1] = random.chance(3) ? -1.0f : 60.0f;
  const auto cells = static_cast<size_t>(made.options.anchors * made.height * made.width);
  const auto number = [&] { return random.chance(4) ? random.hostile() : random.real(-2.0f, 2.0f); };
  made.logits.resize(cells * static_cast<size_t>(made.options.classes));
  made.deltas.resize(cells * static_cast<size_t>(retinasdk::deltas_of(coder.coding)));
  made.base_anchors.resize(static_cast<size_t>(made.options.anchors * retinasdk::kRotatedAnchorValues));
  for (float& value : made.logits) value = number();
  for (float& value : made.deltas) value = number();
  for (float& value : made.base_anchors) value = random.real(1.0f, 60.0f);
  return made;
}

// -- NMS -------------------------------------------------------------------------------------------------------------

// Candidates for NMS, as many that they need more than one batch on a GPU.
struct CandidatesCase {
  int batch, capacity;
  bool rotated, shares_angle;
  std::vector<float> boxes, logits;
  std::vector<int32_t> class_ids, counts;
  retinasdk::NmsOptions nms;

  retinasdk::Candidates candidates() {
    return {boxes.data(), logits.data(), class_ids.data(), counts.data(), capacity};
  }
};

constexpr int kManyClasses = 91;  // All classes of a CandidatesCase are below.

inline CandidatesCase make_candidates(Random& random, const Most& most = {}) {
  CandidatesCase made{};
  made.batch = random.integer(1, 3);
  made.capacity = std::min(random.integer(1, random.chance(4)   ? 6000
                                             : random.chance(2) ? 2600
                                                                : 1100),
                           most.candidates);
  made.rotated = random.chance(3);
  made.shares_angle = random.chance(2);
  made.nms = {random.chance(8) ? -0.5f : random.real(0.0f, 1.0f),
              random.integer(1, random.chance(2) ? 3000 : 300),
              random.chance(3),
              !made.rotated && random.chance(3),
              random.chance(3),
              random.chance(3) ? random.integer(1, 200) : retinasdk::kMaxPerImage};
  const int classes = random.integer(1, random.chance(3) ? kManyClasses : 4);
  // How much room the boxes have: few of them overlap, or most do.
  const float extent = random.chance(3) ? 20000.0f : random.chance(2) ? 2000.0f : 150.0f;
  for (int image = 0; image < made.batch; ++image) {
    made.counts.push_back(random.chance(4) ? random.integer(0, made.capacity) : made.capacity);
    // The kind of logits: 0 random, 1 all equal, 2 a few best ones and many equal ones, 3 few different values, 4 all
    // of them close together, 5 beyond the range of trained networks, 6 hostile.
    const int kind = random.integer(0, 6);
    const bool has_hostile_boxes = random.chance(4);
    const int best = random.integer(1, 700);
    for (int i = 0; i < made.capacity; ++i) {
      float logit = random.real(-6.0f, 4.0f);
      if (kind == 1 || (kind == 2 && !random.chance(made.capacity / best + 1))) logit = -6.0f;
      if (kind == 3) logit = static_cast<float>(random.integer(-2, 2));
      if (kind == 4) logit = 1.0f + 1e-3f * logit;
      if (kind == 5) logit *= 1000.0f;
      if (kind == 6 && random.chance(3)) logit = random.hostile();
      made.logits.push_back(logit);
      made.class_ids.push_back(random.integer(0, classes - 1));
      const float x = random.real(0.0f, extent), y = random.real(0.0f, extent);
      const float width = random.real(1.0f, 60.0f), height = random.real(1.0f, 60.0f);
      if (made.rotated) {
        const float sin = random.real(-1.0f, 1.0f);
        made.boxes.insert(made.boxes.end(), {x, y, width, height, sin, std::sqrt(1.0f - sin * sin)});
      } else {
        made.boxes.insert(made.boxes.end(), {x, y, x + width, y + height});
      }
      if (has_hostile_boxes && random.chance(5)) made.boxes.back() = random.hostile();
    }
  }
  return made;
}
