// The Python module _native: ops.h for NumPy arrays. It checks dtypes and shapes, releases the GIL, and computes
// nothing.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <limits>
#include <string>
#include <vector>

#include "bindings/bindings_arrays.h"
#include "bindings/bindings_coder.h"
#include "bindings/bindings_color.h"
#include "bindings/bindings_merge.h"
#include "bindings/bindings_rotated.h"
#include "bindings/bindings_rules.h"
#include "convolution/int8_kernels.h"
#include "convolution/kernels.h"
#include "retinasdk/ops.h"

namespace py = pybind11;

namespace retinasdk {
namespace {

void preprocess_into(const py::array& image, const Array<float>& canvas, std::array<int, 2> resized,
                     std::array<float, 3> mean, std::array<float, 3> std, bool reverse_channels, bool antialias,
                     double source_step, bool eight_bit, int threads) {
  const bool is_reversed = image.ndim() == 3 && image.strides(2) == -1;  // RGB as a view of BGR.
  const bool rows_are_whole =
      image.ndim() == 3 && (image.strides(2) == 1 || is_reversed) && (image.strides(1) == 3 || image.shape(1) <= 1);
  if (!py::isinstance<py::array_t<uint8_t>>(image) || !rows_are_whole || image.shape(2) != 3) {
    throw py::value_error("image must be (H, W, 3) uint8 with contiguous rows, got " + describe(image));
  }
  if (canvas.ndim() != 3 || canvas.shape(0) != 3 || !canvas.writeable()) {
    throw py::value_error("canvas must be (3, h, w) float32 and writeable, got " + describe(canvas));
  }
  const ImageView view{static_cast<const uint8_t*>(image.data()) - (is_reversed ? 2 : 0),
                       static_cast<int>(image.shape(0)), static_cast<int>(image.shape(1)), image.strides(0)};
  const PreprocessOptions options{resized[0],
                                  resized[1],
                                  static_cast<int>(canvas.shape(1)),
                                  static_cast<int>(canvas.shape(2)),
                                  {mean[0], mean[1], mean[2]},
                                  {std[0], std[1], std[2]},
                                  reverse_channels != is_reversed,
                                  antialias,
                                  source_step,
                                  eight_bit};
  auto* output = const_cast<float*>(canvas.data());  // Checked above: the array is writeable.
  const py::gil_scoped_release unlocked;
  preprocess(view, options, output, threads);
}

py::tuple decode_heads(const py::list& logits, const py::list& deltas, const py::list& base_anchors,
                       const std::vector<std::array<float, 2>>& strides, const py::object& clip_sizes,
                       const std::vector<std::array<float, 2>>& level_clips, bool top_k_anchors, float logit_threshold,
                       int top_k, std::array<float, 4> coder_weights, float coder_clamp_max,
                       std::vector<int32_t> class_ids, const std::string& coder_kind, std::array<float, 4> coder_means,
                       float coder_clamp_min, bool inclusive_pixels, bool or_equal, bool drop_empty,
                       const py::object& class_thresholds, const py::object& ignored, const py::object& rotated) {
  const RotatedCoder rotated_coder = rotated.is_none() ? RotatedCoder{} : rotated_coder_of(rotated.cast<py::dict>());
  const py::ssize_t anchor_values = rotated.is_none() ? 4 : kRotatedAnchorValues;
  const py::ssize_t delta_count = rotated.is_none() ? 4 : deltas_of(rotated_coder.coding);
  const size_t count = strides.size();
  if (count == 0 || logits.size() != count || deltas.size() != count || base_anchors.size() != count) {
    throw py::value_error("logits, deltas, base_anchors and strides need one entry for each level, got " +
                          std::to_string(logits.size()) + ", " + std::to_string(deltas.size()) + ", " +
                          std::to_string(base_anchors.size()) + " and " + std::to_string(count));
  }
  if (!level_clips.empty() && level_clips.size() != count) {
    throw py::value_error("level_clips needs one entry for each of the " + std::to_string(count) + " levels, got " +
                          std::to_string(level_clips.size()));
  }
  std::vector<HeadLevel> levels;
  std::vector<py::array> alive;  // Keeps the buffers alive while the GIL is released.
  py::ssize_t batch = -1;
  py::ssize_t anchors = -1;
  py::ssize_t channels = -1;
  for (size_t i = 0; i < count; ++i) {
    const std::string level = " of level " + std::to_string(i);
    const auto base =
        checked<float>(base_anchors[i], {anchors, anchor_values},
                       "base_anchors" + level + " must be (A, " + std::to_string(anchor_values) + ") float32");
    anchors = base.shape(0);
    const auto scores =
        checked<float>(logits[i], {batch, channels, -1, -1}, "logits" + level + " must be (N, A * K, H, W) float32");
    batch = scores.shape(0);
    channels = scores.shape(1);
    const auto offsets = checked<float>(deltas[i], {batch, anchors * delta_count, scores.shape(2), scores.shape(3)},
                                        "deltas" + level + " must be (N, A * " + std::to_string(delta_count) +
                                            ", H, W) float32 with N, H and W of the logits");
    levels.push_back({scores.data(), offsets.data(), base.data(), static_cast<int>(scores.shape(2)),
                      static_cast<int>(scores.shape(3)), strides[i][0], strides[i][1]});
    if (!level_clips.empty()) {
      levels.back().clip_height = level_clips[i][0];
      levels.back().clip_width = level_clips[i][1];
    }
    alive.insert(alive.end(), {base, scores, offsets});
  }
  if (anchors < 1 || channels % anchors != 0) {
    throw py::value_error("logits must have A * K channels, a multiple of the " + std::to_string(anchors) +
                          " base anchors, got " + std::to_string(channels) + " channels");
  }
  const auto clip = checked<float>(clip_sizes, {batch, 2}, "clip_sizes must be (N, 2) float32");
  if (top_k < 1 || top_k > kMaxPerImage) {  // Checked before the output is allocated.
    throw py::value_error("top_k must be 1 to " + std::to_string(kMaxPerImage) + ", got " + std::to_string(top_k));
  }

  DecodeOptions options{
      static_cast<int>(batch),
      static_cast<int>(anchors),
      static_cast<int>(channels / anchors),
      logit_threshold,
      top_k,
      coder_of(coder_kind, coder_weights, coder_means, coder_clamp_max, coder_clamp_min, inclusive_pixels),
      std::move(class_ids),
      or_equal,
      drop_empty};
  options.top_k_anchors = top_k_anchors;
  if (!class_thresholds.is_none()) {
    const auto limits = checked<float>(class_thresholds, {channels / anchors}, "class_thresholds must be (K,) float32");
    options.class_thresholds = limits.data();
    alive.push_back(limits);
  }
  if (!ignored.is_none()) {
    const auto regions = checked<float>(ignored, {batch, -1, 4}, "ignored must be (N, R, 4) float32");
    options.ignored = regions.data();
    options.ignored_regions = static_cast<int>(regions.shape(1));
    alive.push_back(regions);
  }
  const int64_t capacity = candidate_limit(count, options);
  if (capacity > std::numeric_limits<int32_t>::max()) {
    throw py::value_error("top_k over anchors must leave at most 2147483647 candidates per image, got " +
                          std::to_string(capacity));
  }
  if (!rotated.is_none()) options.rotated = &rotated_coder;
  Array<float> boxes({batch, capacity, py::ssize_t{rotated.is_none() ? 4 : kRotatedValues}});
  Array<float> kept_logits({batch, capacity});
  Array<int32_t> kept_classes({batch, capacity});
  Array<int32_t> counts(batch);
  const Candidates candidates{boxes.mutable_data(), kept_logits.mutable_data(), kept_classes.mutable_data(),
                              counts.mutable_data(), static_cast<int>(capacity)};
  {
    const py::gil_scoped_release unlocked;
    decode(levels, options, clip.data(), candidates);
  }
  return py::make_tuple(boxes, kept_logits, kept_classes, counts);
}

// The candidates of a call, in checked NumPy arrays.
struct CandidateArrays {
  Array<float> boxes, logits;
  Array<int32_t> class_ids, counts;
  int room;  // Kept boxes per image: max_detections, but not more than there are candidates.

  int batch() const { return static_cast<int>(boxes.shape(0)); }
  Candidates candidates() const {
    return {const_cast<float*>(boxes.data()), const_cast<float*>(logits.data()), const_cast<int32_t*>(class_ids.data()),
            const_cast<int32_t*>(counts.data()), static_cast<int>(boxes.shape(1))};
  }
};

CandidateArrays candidate_arrays(const py::object& boxes, const py::object& logits, const py::object& class_ids,
                                 const py::object& counts, int max_detections, py::ssize_t values = 4) {
  const auto box_array =
      checked<float>(boxes, {-1, -1, values}, "boxes must be (N, C, " + std::to_string(values) + ") float32");
  const py::ssize_t batch = box_array.shape(0);
  const py::ssize_t capacity = box_array.shape(1);
  const auto logit_array = checked<float>(logits, {batch, capacity}, "logits must be (N, C) float32");
  const auto class_array = checked<int32_t>(class_ids, {batch, capacity}, "class_ids must be (N, C) int32");
  const auto count_array = checked<int32_t>(counts, {batch}, "counts must be (N,) int32");
  if (max_detections < 1) {
    throw py::value_error("max_detections must be at least 1, got " + std::to_string(max_detections));
  }
  return {box_array, logit_array, class_array, count_array,
          static_cast<int>(std::max<py::ssize_t>(1, std::min<py::ssize_t>(max_detections, capacity)))};
}

// Returns a new array, filled with a value.
template <typename T>
Array<T> filled(const std::vector<py::ssize_t>& shape, T value) {
  Array<T> array(shape);
  std::fill(array.mutable_data(), array.mutable_data() + array.size(), value);
  return array;
}

py::tuple nms_candidates(const py::object& boxes, const py::object& logits, const py::object& class_ids,
                         const py::object& counts, float iou_threshold, int max_detections, bool or_equal,
                         bool inclusive_pixels, bool across_classes, int max_per_class) {
  const CandidateArrays in = candidate_arrays(boxes, logits, class_ids, counts, max_detections);
  auto kept = filled<int32_t>({in.batch(), in.room}, -1);
  Array<int32_t> kept_counts(in.batch());
  {
    const py::gil_scoped_release unlocked;
    nms(in.batch(), in.candidates(),
        {iou_threshold, in.room, or_equal, inclusive_pixels, across_classes, max_per_class}, kept.mutable_data(),
        kept_counts.mutable_data());
  }
  return py::make_tuple(kept, kept_counts);
}

py::tuple rotated_nms_candidates(const py::object& boxes, const py::object& logits, const py::object& class_ids,
                                 const py::object& counts, float iou_threshold, int max_detections, bool or_equal,
                                 bool across_classes, int max_per_class, bool shares_angle) {
  const CandidateArrays in = candidate_arrays(boxes, logits, class_ids, counts, max_detections, kRotatedValues);
  auto kept = filled<int32_t>({in.batch(), in.room}, -1);
  Array<int32_t> kept_counts(in.batch());
  {
    const py::gil_scoped_release unlocked;
    rotated_nms(in.batch(), in.candidates(), {iou_threshold, in.room, or_equal, false, across_classes, max_per_class},
                shares_angle, kept.mutable_data(), kept_counts.mutable_data());
  }
  return py::make_tuple(kept, kept_counts);
}

Array<float> ious_of_rotated(const py::object& boxes, const py::object& others) {
  const auto first = checked<float>(boxes, {-1, kRotatedValues}, "boxes must be (n, 6) float32");
  const auto second = checked<float>(others, {-1, kRotatedValues}, "others must be (m, 6) float32");
  Array<float> ious({first.shape(0), second.shape(0)});
  {
    const py::gil_scoped_release unlocked;
    rotated_ious(first.data(), static_cast<int>(first.shape(0)), second.data(), static_cast<int>(second.shape(0)),
                 ious.mutable_data());
  }
  return ious;
}

py::tuple soft_nms_candidates(const py::object& boxes, const py::object& logits, const py::object& class_ids,
                              const py::object& counts, const py::object& score_thresholds, const std::string& decay,
                              float sigma, float iou_threshold, int max_detections, bool or_equal,
                              bool inclusive_pixels, bool across_classes, int max_per_class) {
  const CandidateArrays in = candidate_arrays(boxes, logits, class_ids, counts, max_detections);
  const auto thresholds = checked<float>(score_thresholds, {-1}, "score_thresholds must be (K,) float32");
  const SoftNmsOptions options{{iou_threshold, in.room, or_equal, inclusive_pixels, across_classes, max_per_class},
                               decay_named(decay),
                               sigma,
                               thresholds.data(),
                               static_cast<int>(thresholds.size())};
  auto kept = filled<int32_t>({in.batch(), in.room}, -1);
  auto scores = filled<float>({in.batch(), in.room}, 0.0f);
  Array<int32_t> kept_counts(in.batch());
  {
    const py::gil_scoped_release unlocked;
    soft_nms(in.batch(), in.candidates(), options, kept.mutable_data(), kept_counts.mutable_data(),
             scores.mutable_data());
  }
  return py::make_tuple(kept, kept_counts, scores);
}

py::tuple fuse_candidates(const py::object& boxes, const py::object& logits, const py::object& class_ids,
                          const py::object& counts, int classes, const std::string& fused_score,
                          const std::string& scale, int models, float iou_threshold, int max_detections, bool or_equal,
                          bool inclusive_pixels, bool across_classes, int max_per_class) {
  const CandidateArrays in = candidate_arrays(boxes, logits, class_ids, counts, max_detections);
  const FusionOptions options{{iou_threshold, in.room, or_equal, inclusive_pixels, across_classes, max_per_class},
                              fused_score_named(fused_score),
                              score_scale_named(scale),
                              models,
                              classes};
  auto fused_boxes = filled<float>({in.batch(), in.room, 4}, 0.0f);
  auto scores = filled<float>({in.batch(), in.room}, 0.0f);
  auto fused_classes = filled<int32_t>({in.batch(), in.room}, 0);
  Array<int32_t> fused_counts(in.batch());
  {
    const py::gil_scoped_release unlocked;
    fuse(
        in.batch(), in.candidates(), options,
        {fused_boxes.mutable_data(), scores.mutable_data(), fused_classes.mutable_data(), fused_counts.mutable_data()});
  }
  return py::make_tuple(fused_boxes, scores, fused_classes, fused_counts);
}

}  // namespace
}  // namespace retinasdk

PYBIND11_MODULE(_native, module) {
  module.doc() =
      "Pre- and post-processing on the CPU for NumPy arrays. csrc/include/retinasdk/ops.h documents the operations.";
  module.def(
      "preprocess_into", &retinasdk::preprocess_into, py::arg("image"), py::arg("canvas").noconvert(), py::kw_only(),
      py::arg("resized"), py::arg("mean"), py::arg("std"), py::arg("reverse_channels"), py::arg("antialias"),
      py::arg("source_step") = 0.0, py::arg("eight_bit") = false, py::arg("threads") = 1,
      "Resizes, normalizes and pads an image (H, W, 3) uint8 into the upper left corner of canvas (3, h, w) float32.");
  module.def(
      "decode", &retinasdk::decode_heads, py::arg("logits"), py::arg("deltas"), py::arg("base_anchors"), py::kw_only(),
      py::arg("strides"), py::arg("clip_sizes"), py::arg("level_clips") = std::vector<std::array<float, 2>>{},
      py::arg("top_k_anchors") = false, py::arg("logit_threshold"), py::arg("top_k"), py::arg("coder_weights"),
      py::arg("coder_clamp_max"), py::arg("class_ids"), py::arg("coder_kind") = "center",
      py::arg("coder_means") = std::array<float, 4>{}, py::arg("coder_clamp_min") = -retinasdk::kUnbounded,
      py::arg("inclusive_pixels") = false, py::arg("or_equal") = false, py::arg("drop_empty") = false,
      py::arg("class_thresholds") = py::none(), py::arg("ignored") = py::none(), py::arg("rotated") = py::none(),
      "Decodes head outputs. Returns boxes (N, C, 4), logits (N, C), class_ids (N, C) and counts (N,), where C is "
      "levels * top_k. `rotated` is a dict with the fields of RotatedCoder; the boxes are then (N, C, 6).");
  module.def("nms", &retinasdk::nms_candidates, py::arg("boxes"), py::arg("logits"), py::arg("class_ids"),
             py::arg("counts"), py::kw_only(), py::arg("iou_threshold"), py::arg("max_detections"),
             py::arg("or_equal") = false, py::arg("inclusive_pixels") = false, py::arg("across_classes") = false,
             py::arg("max_per_class") = retinasdk::kMaxPerImage,
             "Class-aware greedy NMS. Returns kept indices (N, M), best first and padded with -1, and counts (N,).");
  module.def("rotated_nms", &retinasdk::rotated_nms_candidates, py::arg("boxes"), py::arg("logits"),
             py::arg("class_ids"), py::arg("counts"), py::kw_only(), py::arg("iou_threshold"),
             py::arg("max_detections"), py::arg("or_equal") = false, py::arg("across_classes") = false,
             py::arg("max_per_class") = retinasdk::kMaxPerImage, py::arg("shares_angle") = false,
             "Class-aware greedy NMS of rotated boxes (N, C, 6). Returns what nms() returns.");
  module.def("rotated_ious", &retinasdk::ious_of_rotated, py::arg("boxes"), py::arg("others"),
             "IoU of each rotated box (n, 6) with each of the others (m, 6), as (n, m) float32.");
  module.def("soft_nms", &retinasdk::soft_nms_candidates, py::arg("boxes"), py::arg("logits"), py::arg("class_ids"),
             py::arg("counts"), py::kw_only(), py::arg("score_thresholds"), py::arg("decay"), py::arg("sigma"),
             py::arg("iou_threshold"), py::arg("max_detections"), py::arg("or_equal") = false,
             py::arg("inclusive_pixels") = false, py::arg("across_classes") = false,
             py::arg("max_per_class") = retinasdk::kMaxPerImage,
             "Soft NMS. Returns kept indices (N, M), best first and padded with -1, counts (N,), and scores (N, M).");
  module.def(
      "fuse", &retinasdk::fuse_candidates, py::arg("boxes"), py::arg("logits"), py::arg("class_ids"), py::arg("counts"),
      py::kw_only(), py::arg("classes"), py::arg("fused_score"), py::arg("scale") = "logit", py::arg("models") = 1,
      py::arg("iou_threshold"), py::arg("max_detections"), py::arg("or_equal") = false,
      py::arg("inclusive_pixels") = false, py::arg("across_classes") = false,
      py::arg("max_per_class") = retinasdk::kMaxPerImage,
      "Weighted boxes fusion. Returns boxes (N, M, 4), scores (N, M), class_ids (N, M) and counts (N,), best first.");
  retinasdk::bind_merge(module);
  retinasdk::bind_color(module);
  module.def("simd_name", &retinasdk::simd_name,
             "Returns the instruction set of the logit filter: 'avx2', 'neon' or 'plain'.");
  module.def(
      "convolution_isa", [] { return retinasdk::convolution::best_kernels().name; },
      "Returns the instruction set of the convolutions: 'avx512', 'avx2', 'neon' or 'plain'.");
  module.def(
      "int8_isa", [] { return retinasdk::int8::best_kernels().name; },
      "Returns the instruction set of the 8-bit convolutions: 'vnni', 'avx_vnni', 'avx2', 'dotprod' or 'plain'.");
}
