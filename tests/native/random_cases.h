// Random, seeded cases for the native tests: sizes, options and values, including NaN, infinity and extreme values.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <random>
#include <set>
#include <utility>
#include <vector>

#include "retinasdk/ops.h"

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kLargest = std::numeric_limits<float>::max();

class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed) {}

  int integer(int low, int high) { return low + static_cast<int>(engine_() % static_cast<uint64_t>(high - low + 1)); }
  // Returns true in one of `one_in` cases.
  bool chance(int one_in) { return integer(1, one_in) == 1; }
  float real(float low, float high) {
    return low + (high - low) * static_cast<float>(engine_() >> 40) * (1.0f / 16777216.0f);
  }
  // Returns NaN, infinity, zero, or a value near a limit of float or of exp().
  float hostile() {
    static const float values[] = {kNan,   kInfinity, -kInfinity, 0.0f,  -0.0f, kLargest, -kLargest,
                                   1e-42f, 1e30f,     -1e30f,     88.0f, 89.0f, -104.0f,  1e-30f};
    return values[integer(0, static_cast<int>(std::size(values)) - 1)];
  }

 private:
  std::mt19937_64 engine_;
};

// -- preprocess ------------------------------------------------------------------------------------------------------

struct PreprocessCase {
  std::vector<uint8_t> pixels;
  retinasdk::ImageView view;
  retinasdk::PreprocessOptions options;
};

PreprocessCase make_preprocess(Random& random, int height, int width, int resized_height, int resized_width) {
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

// -- decode and NMS --------------------------------------------------------------------------------------------------

struct HeadsCase {
  std::vector<std::vector<float>> logits, deltas, base_anchors;
  std::vector<retinasdk::HeadLevel> levels;
  std::vector<float> clip_sizes;
  std::vector<float> class_thresholds, ignored;
  retinasdk::DecodeOptions options;
  retinasdk::NmsOptions nms;
  // Options of soft NMS and fusion. Their other options are those in `nms`.
  retinasdk::Decay decay;
  float sigma;
  std::vector<float> score_thresholds;
  retinasdk::FusedScore fused_score;
  int models;
};

retinasdk::BoxCoder make_coder(Random& random) {
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

HeadsCase make_heads(Random& random) {
  HeadsCase made;
  made.options = {random.integer(1, 3),
                  random.integer(1, 9),
                  random.integer(1, random.chance(8) ? 91 : 6),
                  random.chance(6) ? -kInfinity : random.real(-4.0f, 1.0f),
                  random.integer(1, random.chance(3) ? 2500 : 60),
                  make_coder(random),
                  {},
                  random.chance(3),
                  random.chance(3)};
  made.options.top_k_anchors = random.chance(4);
  if (made.options.top_k_anchors) made.options.top_k = random.integer(1, 60);
  made.nms = {random.real(0.0f, 1.0f), random.integer(1, 400),
              random.chance(3),        made.options.coder.inclusive_pixels,
              random.chance(3),        random.chance(3) ? random.integer(1, 30) : retinasdk::kMaxPerImage};
  made.decay = random.chance(2) ? retinasdk::Decay::kLinear : retinasdk::Decay::kGaussian;
  made.sigma = random.real(0.001f, 1.0f);
  for (int k = 0; k < made.options.classes; ++k) made.score_thresholds.push_back(random.real(0.0f, 0.6f));
  made.fused_score = random.chance(2) ? retinasdk::FusedScore::kMean : retinasdk::FusedScore::kBest;
  made.models = random.integer(1, 4);
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
    const int side = random.chance(10) ? 60 : 12;
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

// -- NMS -------------------------------------------------------------------------------------------------------------

// Candidates for NMS, as many that they need more than one batch on a GPU.
struct CandidatesCase {
  int batch, capacity;
  bool rotated, shares_angle;
  std::vector<float> boxes, logits;
  std::vector<int32_t> class_ids, counts;
  retinasdk::NmsOptions nms;
};

CandidatesCase make_candidates(Random& random) {
  CandidatesCase made{};
  made.batch = random.integer(1, 3);
  made.capacity = random.integer(1, random.chance(4) ? 6000 : random.chance(2) ? 2600 : 1100);
  made.rotated = random.chance(3);
  made.shares_angle = random.chance(2);
  made.nms = {random.chance(8) ? -0.5f : random.real(0.0f, 1.0f),
              random.integer(1, random.chance(2) ? 3000 : 300),
              random.chance(3),
              !made.rotated && random.chance(3),
              random.chance(3),
              random.chance(3) ? random.integer(1, 200) : retinasdk::kMaxPerImage};
  const int classes = random.integer(1, random.chance(3) ? 91 : 4);
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
