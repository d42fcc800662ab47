// Translates the spec and the options of a call to the arguments of the operations in retinasdk/ops.h. The counterpart
// of retinasdk/pipeline/rules.py, for both devices.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "retinasdk/ops.h"
#include "runtime/errors.h"
#include "runtime/spec.h"
#include "runtime/transform.h"

namespace retinasdk::runtime {

constexpr int kMaxRegions = 64;  // Of a call: the GPU path has memory for so many.

// How overlapping boxes are resolved. The counterpart of Suppression in retinasdk/pipeline/suppression.py.
struct Suppression {
  std::string rule = "greedy";  // "greedy", "soft_linear", "soft_gaussian" or "fusion".
  bool across_classes = false;
  std::optional<double> iou_threshold;  // None: that of the spec.
  double sigma = 0.5;
  std::string fused_score = "mean";  // "mean" or "best".
  std::optional<int> max_per_class, max_detections;

  // Throws std::invalid_argument if a value is not valid, or does not work with the spec.
  void check(const ModelSpec& spec) const;
};

enum class SuppressionOp { kNms, kRotatedNms, kSoftNms, kFuse };

// The operation that resolves overlapping boxes, and its arguments.
struct SuppressionRules {
  SuppressionOp op;
  NmsOptions nms;
  Decay decay{};
  float sigma = 0.5f;
  FusedScore fused_score{};
  bool shares_angle = false;
};

SuppressionRules suppression_rules(const Suppression& suppression, const ModelSpec& spec);

// The inverse of the sigmoid. It is -infinity for scores up to 0 and infinity for scores from 1.
double logit(double score);
// Computed in double and rounded once.
float sigmoid(float logit);

PreprocessOptions preprocess_options(const ModelSpec& spec, const Transform& transform);

// The options of decode() that depend on the spec alone. `batch`, the thresholds, the classes, `ignored` and `rotated`
// are left to the caller.
DecodeOptions decode_rules(const ModelSpec& spec);
// None for upright boxes.
std::optional<RotatedCoder> rotated_coder(const ModelSpec& spec);

// The stride of a feature level, and where its boxes are clipped (negative: as the image), in network-input pixels.
struct LevelPlace {
  float stride_y, stride_x;
  float clip_height = -1.0f, clip_width = -1.0f;
};

using Shape = std::array<int64_t, 4>;

// Checks the shapes of the head outputs of each level, (N, C, h, w). Throws ModelError if they do not fit the spec.
std::vector<LevelPlace> place_levels(const std::vector<Shape>& logits, const std::vector<Shape>& deltas,
                                     const ModelSpec& spec, Size padded);

// The largest y and x of an image's boxes before NMS. -1: no limit.
std::array<float, 2> clip_size(const Transform& transform, const ModelSpec& spec);
// The largest y and x of boxes that are clipped to a size.
Size clip_limit(Size size, const ModelSpec& spec);

// Converts regions (R, 4) to network-input pixels of an image. Those that rounding has left without area come last.
std::vector<float> ignored_regions(const std::vector<float>& regions, const Transform& transform);

}  // namespace retinasdk::runtime
