#include "runtime/rules.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "runtime/json_text.h"

namespace retinasdk::runtime {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr double kPi = 3.141592653589793;

[[noreturn]] void refuse(const std::string& expected, const std::string& given) {
  throw std::invalid_argument(expected + "; got " + given);
}

void check_limit(const char* name, std::optional<int> limit) {
  if (limit && (*limit < 1 || *limit > kMaxPerImage)) {
    refuse(std::string(name) + " must be an integer from 1 to 1048576, or None", std::to_string(*limit));
  }
}

std::string in_words(const Shape& shape) {
  std::string text;
  for (const int64_t side : shape) text += (text.empty() ? "" : ", ") + std::to_string(side);
  return "(" + text + ")";
}

}  // namespace

void Suppression::check(const ModelSpec& spec) const {
  if (rule != "greedy" && rule != "soft_linear" && rule != "soft_gaussian" && rule != "fusion") {
    refuse("rule must be one of greedy, soft_linear, soft_gaussian, fusion", python_repr(rule));
  }
  if (iou_threshold && !(*iou_threshold >= 0.0 && *iou_threshold <= 1.0)) {
    refuse("iou_threshold must be a number from 0 to 1, or None for the value of the model's spec",
           python_repr(*iou_threshold));
  }
  if (!(sigma >= 1e-30 && sigma <= 1e30)) {  // Smaller values become 0 in float32.
    refuse("sigma must be a number above 0, such as 0.5", python_repr(sigma));
  }
  if (fused_score != "mean" && fused_score != "best") {
    refuse("fused_score must be mean or best", python_repr(fused_score));
  }
  check_limit("max_per_class", max_per_class);
  check_limit("max_detections", max_detections);
  if (spec.is_rotated() && rule != "greedy") {
    throw std::invalid_argument("Suppression(" + python_repr(rule) +
                                ") does not work with rotated boxes; leave it out, or use Suppression('greedy') with "
                                "iou_threshold, across_classes or max_per_class");
  }
}

SuppressionRules suppression_rules(const Suppression& suppression, const ModelSpec& spec) {
  SuppressionRules rules{};
  rules.op = spec.is_rotated()              ? SuppressionOp::kRotatedNms
             : suppression.rule == "greedy" ? SuppressionOp::kNms
             : suppression.rule == "fusion" ? SuppressionOp::kFuse
                                            : SuppressionOp::kSoftNms;
  rules.nms.iou_threshold = static_cast<float>(suppression.iou_threshold.value_or(spec.nms_iou_threshold));
  rules.nms.max_detections = suppression.max_detections.value_or(spec.max_detections);
  rules.nms.or_equal = spec.nms_comparison == ">=";
  rules.nms.inclusive_pixels = spec.inclusive_pixels && !spec.is_rotated();
  rules.nms.across_classes = suppression.across_classes || spec.nms_across_classes;
  rules.nms.max_per_class = suppression.max_per_class.value_or(spec.max_per_class.value_or(kMaxPerImage));
  rules.decay = suppression.rule == "soft_linear" ? Decay::kLinear : Decay::kGaussian;
  rules.sigma = static_cast<float>(suppression.sigma);
  rules.fused_score = suppression.fused_score == "best" ? FusedScore::kBest : FusedScore::kMean;
  rules.shares_angle = spec.nms_angle == "lower_score";
  return rules;
}

double logit(double score) {
  if (score <= 0.0) return -std::numeric_limits<double>::infinity();
  return score < 1.0 ? std::log(score) - std::log1p(-score) : std::numeric_limits<double>::infinity();
}

float sigmoid(float logit) { return static_cast<float>(1.0 / (1.0 + std::exp(-static_cast<double>(logit)))); }

PreprocessOptions preprocess_options(const ModelSpec& spec, const Transform& transform) {
  PreprocessOptions options{};
  options.resized_height = transform.resized.height;
  options.resized_width = transform.resized.width;
  options.padded_height = transform.padded.height;
  options.padded_width = transform.padded.width;
  for (size_t i = 0; i < 3; ++i) {
    options.mean[i] = static_cast<float>(spec.normalise.mean[i]);
    options.std[i] = static_cast<float>(spec.normalise.std[i]);
  }
  options.reverse_channels = spec.normalise.channels == "BGR";
  options.antialias = spec.resize.antialias;
  options.source_step = transform.source_step;
  options.eight_bit = spec.resize.eight_bit;
  return options;
}

DecodeOptions decode_rules(const ModelSpec& spec) {
  DecodeOptions options{};
  options.anchors = spec.anchors_per_cell();
  options.classes = static_cast<int>(spec.labels.size());
  options.top_k = spec.top_k;
  options.top_k_anchors = spec.top_k_unit == "anchor";
  options.or_equal = spec.score_comparison == ">=";
  options.drop_empty = spec.drop_empty == "before_nms";
  for (size_t i = 0; i < 4; ++i) {
    options.coder.weights[i] = static_cast<float>(spec.box_coder.weights[i]);
    options.coder.means[i] = static_cast<float>(spec.box_coder.means[i]);
  }
  options.coder.clamp_max = spec.box_coder.clamp_max ? static_cast<float>(*spec.box_coder.clamp_max) : kInfinity;
  options.coder.clamp_min = spec.box_coder.clamp_min ? static_cast<float>(*spec.box_coder.clamp_min) : -kInfinity;
  options.coder.coding = spec.box_coder.kind == "corner" ? BoxCoding::kCorner : BoxCoding::kCenter;
  options.coder.inclusive_pixels = spec.inclusive_pixels;
  return options;
}

std::optional<RotatedCoder> rotated_coder(const ModelSpec& spec) {
  if (!spec.is_rotated()) return std::nullopt;
  const CoderSpec& from = spec.box_coder;
  RotatedCoder coder;
  coder.coding = from.kind == "center_angle" ? AngleCoding::kDelta : AngleCoding::kSinCos;
  for (size_t i = 0; i < from.weights.size(); ++i) coder.weights[i] = static_cast<float>(from.weights[i]);
  for (size_t i = 0; i < from.means.size(); ++i) coder.means[i] = static_cast<float>(from.means[i]);
  coder.clamp_max = from.clamp_max ? static_cast<float>(*from.clamp_max) : kInfinity;
  coder.clamp_min = from.clamp_min ? static_cast<float>(*from.clamp_min) : -kInfinity;
  coder.angle_unit = from.norm_factor ? static_cast<float>(*from.norm_factor * kPi) : 1.0f;
  coder.limits_angle = from.angle_version != "oc";
  if (coder.limits_angle) coder.first_angle = static_cast<float>(from.angle_version == "le90" ? -kPi / 2 : -kPi / 4);
  coder.swaps_edges = from.edge_swap;
  coder.turns_offsets = from.proj_xy;
  coder.inclusive_pixels = spec.inclusive_pixels;
  return coder;
}

std::vector<LevelPlace> place_levels(const std::vector<Shape>& logits, const std::vector<Shape>& deltas,
                                     const ModelSpec& spec, Size padded) {
  constexpr const char* kCure = "convert the model again, so that both files are written together";
  const int64_t anchors = spec.anchors_per_cell();
  const auto classes = static_cast<int64_t>(spec.labels.size());
  std::vector<LevelPlace> places;
  for (size_t i = 0; i < spec.levels.size(); ++i) {
    const Level& level = spec.levels[i];
    const Shape& shape = logits[i];
    if (shape[1] != anchors * classes) {
      throw ModelError("output " + level.logits + " must have " + std::to_string(anchors) + " anchors x " +
                       std::to_string(classes) + " classes = " + std::to_string(anchors * classes) + " channels, got " +
                       in_words(shape) + ". The spec does not fit the model: " + kCure);
    }
    const Shape expected = {shape[0], anchors * spec.box_coder.deltas(), shape[2], shape[3]};
    if (deltas[i] != expected) {
      throw ModelError("output " + level.deltas + " must have shape " + in_words(expected) + ", got " +
                       in_words(deltas[i]) + ". The spec does not fit the model: " + kCure);
    }
    if (!level.stride && (shape[2] == 0 || shape[3] == 0)) {
      throw ModelError("output " + level.logits + " has no cells, its shape is " + in_words(shape) +
                       "; use larger images");
    }
    const std::array<double, 2> stride = level.stride
                                             ? *level.stride
                                             : std::array<double, 2>{static_cast<double>(padded.height / shape[2]),
                                                                     static_cast<double>(padded.width / shape[3])};
    LevelPlace place{static_cast<float>(stride[0]), static_cast<float>(stride[1])};
    if (spec.clip == "level") {
      const double less = spec.clip_limit == "edge" ? 0.0 : 1.0;
      place.clip_height = static_cast<float>(static_cast<double>(shape[2]) * stride[0] - less);
      place.clip_width = static_cast<float>(static_cast<double>(shape[3]) * stride[1] - less);
    }
    places.push_back(place);
  }
  return places;
}

Size clip_limit(Size size, const ModelSpec& spec) {
  const int less = spec.clip_limit == "edge" ? 0 : 1;
  return {size.height - less, size.width - less};
}

std::array<float, 2> clip_size(const Transform& transform, const ModelSpec& spec) {
  if (spec.clip != "resized" && spec.clip != "padded") return {-1.0f, -1.0f};
  const Size limit = clip_limit(spec.clip == "resized" ? transform.resized : transform.padded, spec);
  return {static_cast<float>(limit.height), static_cast<float>(limit.width)};
}

std::vector<float> ignored_regions(const std::vector<float>& regions, const Transform& transform) {
  std::vector<float> placed = regions;
  transform.to_network(placed.data(), placed.size() / 4);
  std::vector<float> ordered;
  for (const bool takes_empty : {false, true}) {
    for (size_t i = 0; i < placed.size(); i += 4) {
      const bool is_empty = placed[i + 2] <= placed[i] || placed[i + 3] <= placed[i + 1];
      if (is_empty == takes_empty) ordered.insert(ordered.end(), &placed[i], &placed[i] + 4);
    }
  }
  return ordered;
}

}  // namespace retinasdk::runtime
