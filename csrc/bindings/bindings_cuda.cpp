// The Python module _native_cuda: ops_cuda.h, with addresses and streams as integers. The functions of ops_cuda.h check
// their arguments, so this file does not.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "bindings/bindings_coder.h"
#include "bindings/bindings_color.h"
#include "bindings/bindings_rotated.h"
#include "bindings/bindings_rules.h"
#include "retinasdk/ops_cuda.h"

namespace py = pybind11;

namespace retinasdk::cuda {
namespace {

using Size = std::array<int, 2>;  // Height, width.

template <typename T>
T* at(uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

Scalar scalar_named(const std::string& dtype) {
  if (dtype == "float32") return Scalar::kFloat32;
  if (dtype == "float16") return Scalar::kFloat16;
  throw py::value_error("dtype must be 'float32' or 'float16', got '" + dtype + "'");
}

py::tuple count_devices() {
  std::string reason;
  const int count = device_count(&reason);
  return py::make_tuple(count, reason);
}

py::dict properties_of(int device) {
  const DeviceProperties properties = device_properties(device);
  py::dict result;
  result["name"] = properties.name;
  result["compute_capability"] = py::make_tuple(properties.compute_capability[0], properties.compute_capability[1]);
  result["multiprocessors"] = properties.multiprocessors;
  result["memory_bytes"] = properties.memory_bytes;
  result["integrated"] = properties.integrated;
  return result;
}

PixelFormat format_named(const std::string& name) {
  if (name == "rgb") return PixelFormat::kInterleaved;
  if (name == "nv12") return PixelFormat::kNv12;
  if (name == "p010") return PixelFormat::kP010;
  throw py::value_error("format must be 'rgb' (three interleaved channels), 'nv12' or 'p010', got '" + name + "'");
}

size_t preprocess_scratch(Size size, Size resized, Size padded, bool antialias) {
  const DevicePreprocessOptions options{resized[0], resized[1], padded[0], padded[1],       {0, 0, 0},
                                        {1, 1, 1},  false,      antialias, Scalar::kFloat32};
  return preprocess_scratch_bytes({PixelFormat::kInterleaved, nullptr, 0, nullptr, 0, size[0], size[1]}, options);
}

void preprocess_image(const std::string& format, uintptr_t pixels, std::ptrdiff_t row_bytes, uintptr_t chroma,
                      std::ptrdiff_t chroma_row_bytes, const std::string& matrix, bool full_range, Size size,
                      Size resized, Size padded, std::array<float, 3> mean, std::array<float, 3> std,
                      bool reverse_channels, bool antialias, double source_step, bool eight_bit, uintptr_t output,
                      const std::string& dtype, uintptr_t scratch, size_t scratch_bytes, uintptr_t stream) {
  const DeviceImage image{format_named(format),
                          at<const uint8_t>(pixels),
                          row_bytes,
                          at<const uint8_t>(chroma),
                          chroma_row_bytes,
                          size[0],
                          size[1],
                          matrix_named(matrix),
                          full_range};
  const DevicePreprocessOptions options{resized[0],
                                        resized[1],
                                        padded[0],
                                        padded[1],
                                        {mean[0], mean[1], mean[2]},
                                        {std[0], std[1], std[2]},
                                        reverse_channels,
                                        antialias,
                                        scalar_named(dtype),
                                        source_step,
                                        eight_bit};
  const py::gil_scoped_release unlocked;
  preprocess(image, options, at<void>(output), {at<void>(scratch), scratch_bytes}, at<void>(stream));
}

// Sets the cell strides of the logits and the deltas. An empty list stands for channels that come first.
void set_cell_strides(std::vector<DeviceLevel>& levels, const std::vector<Size>& cell_strides) {
  if (cell_strides.empty()) return;
  if (cell_strides.size() != levels.size()) {
    throw py::value_error("cell_strides needs one pair for each of the " + std::to_string(levels.size()) +
                          " levels, got " + std::to_string(cell_strides.size()));
  }
  for (size_t l = 0; l < levels.size(); ++l) {
    levels[l].logit_cell_stride = cell_strides[l][0];
    levels[l].delta_cell_stride = cell_strides[l][1];
  }
}

size_t decode_scratch(const std::vector<Size>& sizes, int batch, int anchors, int classes, int top_k,
                      bool top_k_anchors, const std::vector<Size>& cell_strides) {
  std::vector<DeviceLevel> levels;
  for (const Size& size : sizes) levels.push_back({nullptr, nullptr, nullptr, size[0], size[1], 1.0f, 1.0f});
  set_cell_strides(levels, cell_strides);
  DeviceDecodeOptions options{};
  options.batch = batch;
  options.anchors = anchors;
  options.classes = classes;
  options.top_k = top_k;
  options.top_k_anchors = top_k_anchors;
  return decode_scratch_bytes(levels, options);
}

void decode_heads(const std::vector<uintptr_t>& logits, const std::vector<uintptr_t>& deltas,
                  const std::vector<uintptr_t>& base_anchors, const std::vector<Size>& sizes,
                  const std::vector<std::array<float, 2>>& strides,
                  const std::vector<std::array<float, 2>>& level_clips, int batch, int anchors, int classes,
                  const std::string& dtype, int top_k, std::array<float, 4> coder_weights, float coder_clamp_max,
                  uintptr_t logit_threshold, uintptr_t class_mask, uintptr_t clip_sizes, uintptr_t boxes,
                  uintptr_t out_logits, uintptr_t class_ids, uintptr_t counts, uintptr_t rescans, uintptr_t scratch,
                  size_t scratch_bytes, uintptr_t stream, const std::string& coder_kind,
                  std::array<float, 4> coder_means, float coder_clamp_min, bool inclusive_pixels, bool or_equal,
                  bool drop_empty, uintptr_t class_thresholds, uintptr_t ignored, int ignored_regions,
                  bool top_k_anchors, const std::vector<Size>& cell_strides, const py::object& rotated) {
  const RotatedCoder rotated_coder = rotated.is_none() ? RotatedCoder{} : rotated_coder_of(rotated.cast<py::dict>());
  const size_t count = sizes.size();
  if (!level_clips.empty() && level_clips.size() != count) {
    throw py::value_error("level_clips needs one entry for each of the " + std::to_string(count) + " levels, got " +
                          std::to_string(level_clips.size()));
  }
  if (logits.size() != count || deltas.size() != count || base_anchors.size() != count || strides.size() != count) {
    throw py::value_error("logits, deltas, base_anchors, sizes and strides need one entry for each level, got " +
                          std::to_string(logits.size()) + ", " + std::to_string(deltas.size()) + ", " +
                          std::to_string(base_anchors.size()) + ", " + std::to_string(count) + " and " +
                          std::to_string(strides.size()));
  }
  std::vector<DeviceLevel> levels;
  for (size_t l = 0; l < count; ++l) {
    levels.push_back({at<const void>(logits[l]), at<const void>(deltas[l]), at<const float>(base_anchors[l]),
                      sizes[l][0], sizes[l][1], strides[l][0], strides[l][1]});
    if (!level_clips.empty()) {
      levels.back().clip_height = level_clips[l][0];
      levels.back().clip_width = level_clips[l][1];
    }
  }
  set_cell_strides(levels, cell_strides);
  const DeviceDecodeOptions options{
      batch,
      anchors,
      classes,
      top_k,
      coder_of(coder_kind, coder_weights, coder_means, coder_clamp_max, coder_clamp_min, inclusive_pixels),
      scalar_named(dtype),
      at<const float>(logit_threshold),
      at<const uint8_t>(class_mask),
      at<const float>(clip_sizes),
      or_equal,
      drop_empty,
      at<const float>(class_thresholds),
      at<const float>(ignored),
      ignored_regions,
      top_k_anchors,
      rotated.is_none() ? nullptr : &rotated_coder};
  // Without a sign, because the arguments are not checked yet. decode() refuses what has more than 2147483647.
  const uint64_t capacity =
      uint64_t{count} * static_cast<uint64_t>(top_k) * (top_k_anchors ? static_cast<uint64_t>(classes) : uint64_t{1});
  const DeviceCandidates candidates{
      at<float>(boxes),       at<float>(out_logits),
      at<int32_t>(class_ids), at<int32_t>(counts),
      at<int32_t>(rescans),   static_cast<int>(std::min<uint64_t>(capacity, std::numeric_limits<int>::max()))};
  const py::gil_scoped_release unlocked;
  decode(levels, options, candidates, {at<void>(scratch), scratch_bytes}, at<void>(stream));
}

DeviceCandidates candidates_at(int capacity, uintptr_t boxes, uintptr_t logits, uintptr_t class_ids, uintptr_t counts) {
  return {at<float>(boxes), at<float>(logits), at<int32_t>(class_ids), at<int32_t>(counts), nullptr, capacity};
}

size_t nms_scratch(int batch, int capacity, int max_detections) {
  return nms_scratch_bytes(batch, capacity, {0.5f, max_detections});
}

void nms_candidates(int batch, int capacity, uintptr_t boxes, uintptr_t logits, uintptr_t class_ids, uintptr_t counts,
                    float iou_threshold, int max_detections, uintptr_t kept, uintptr_t kept_counts,
                    uintptr_t kept_boxes, uintptr_t kept_logits, uintptr_t kept_class_ids, uintptr_t scratch,
                    size_t scratch_bytes, uintptr_t stream, bool or_equal, bool inclusive_pixels, bool across_classes,
                    int max_per_class) {
  const DeviceCandidates candidates = candidates_at(capacity, boxes, logits, class_ids, counts);
  const DeviceDetections detections{at<int32_t>(kept), at<int32_t>(kept_counts), at<float>(kept_boxes),
                                    at<float>(kept_logits), at<int32_t>(kept_class_ids)};
  const py::gil_scoped_release unlocked;
  nms(batch, candidates, {iou_threshold, max_detections, or_equal, inclusive_pixels, across_classes, max_per_class},
      detections, {at<void>(scratch), scratch_bytes}, at<void>(stream));
}

void rotated_nms_candidates(int batch, int capacity, uintptr_t boxes, uintptr_t logits, uintptr_t class_ids,
                            uintptr_t counts, float iou_threshold, int max_detections, uintptr_t kept,
                            uintptr_t kept_counts, uintptr_t kept_boxes, uintptr_t kept_logits,
                            uintptr_t kept_class_ids, uintptr_t scratch, size_t scratch_bytes, uintptr_t stream,
                            bool or_equal, bool across_classes, int max_per_class, bool shares_angle) {
  const DeviceCandidates candidates = candidates_at(capacity, boxes, logits, class_ids, counts);
  const DeviceDetections detections{at<int32_t>(kept), at<int32_t>(kept_counts), at<float>(kept_boxes),
                                    at<float>(kept_logits), at<int32_t>(kept_class_ids)};
  const py::gil_scoped_release unlocked;
  rotated_nms(batch, candidates, {iou_threshold, max_detections, or_equal, false, across_classes, max_per_class},
              shares_angle, detections, {at<void>(scratch), scratch_bytes}, at<void>(stream));
}

size_t soft_nms_scratch(int batch, int capacity, int max_detections, int classes) {
  return soft_nms_scratch_bytes(batch, capacity, {{0.5f, max_detections}, Decay::kLinear, 1.0f, nullptr, classes});
}

void soft_nms_candidates(int batch, int capacity, uintptr_t boxes, uintptr_t logits, uintptr_t class_ids,
                         uintptr_t counts, uintptr_t score_thresholds, int classes, const std::string& decay,
                         float sigma, float iou_threshold, int max_detections, uintptr_t kept, uintptr_t kept_counts,
                         uintptr_t kept_boxes, uintptr_t kept_scores, uintptr_t kept_class_ids, uintptr_t scratch,
                         size_t scratch_bytes, uintptr_t stream, bool or_equal, bool inclusive_pixels,
                         bool across_classes, int max_per_class) {
  const DeviceCandidates candidates = candidates_at(capacity, boxes, logits, class_ids, counts);
  const DeviceSoftNmsOptions options{
      {iou_threshold, max_detections, or_equal, inclusive_pixels, across_classes, max_per_class},
      decay_named(decay),
      sigma,
      at<const float>(score_thresholds),
      classes};
  const py::gil_scoped_release unlocked;
  soft_nms(batch, candidates, options, at<int32_t>(kept),
           {at<float>(kept_boxes), at<float>(kept_scores), at<int32_t>(kept_class_ids), at<int32_t>(kept_counts)},
           {at<void>(scratch), scratch_bytes}, at<void>(stream));
}

size_t fuse_scratch(int batch, int capacity, int max_detections, int classes) {
  return fusion_scratch_bytes(batch, capacity,
                              {{0.5f, max_detections}, FusedScore::kMean, ScoreScale::kLogit, 1, classes});
}

void fuse_candidates(int batch, int capacity, uintptr_t boxes, uintptr_t logits, uintptr_t class_ids, uintptr_t counts,
                     int classes, const std::string& fused_score, const std::string& scale, int models,
                     float iou_threshold, int max_detections, uintptr_t kept_counts, uintptr_t kept_boxes,
                     uintptr_t kept_scores, uintptr_t kept_class_ids, uintptr_t scratch, size_t scratch_bytes,
                     uintptr_t stream, bool or_equal, bool inclusive_pixels, bool across_classes, int max_per_class) {
  const DeviceCandidates candidates = candidates_at(capacity, boxes, logits, class_ids, counts);
  const DeviceFusionOptions options{
      {iou_threshold, max_detections, or_equal, inclusive_pixels, across_classes, max_per_class},
      fused_score_named(fused_score),
      score_scale_named(scale),
      models,
      classes};
  const py::gil_scoped_release unlocked;
  fuse(batch, candidates, options,
       {at<float>(kept_boxes), at<float>(kept_scores), at<int32_t>(kept_class_ids), at<int32_t>(kept_counts)},
       {at<void>(scratch), scratch_bytes}, at<void>(stream));
}

// Raises CUDA errors as DeviceError. The class is imported when an error occurs, so that importing this module imports
// nothing else.
void translate(std::exception_ptr error) {
  try {
    if (error) std::rethrow_exception(error);
  } catch (const Error& failure) {
    const py::object type = py::module_::import("retinasdk.errors").attr("DeviceError");
    PyErr_SetString(type.ptr(), failure.what());
  }
}

}  // namespace
}  // namespace retinasdk::cuda

PYBIND11_MODULE(_native_cuda, module) {
  using namespace retinasdk::cuda;
  module.doc() =
      "Pre- and post-processing on a CUDA device. csrc/include/retinasdk/ops_cuda.h documents the operations.";
  py::register_exception_translator(translate);
  module.def("device_count", &count_devices, "Returns the number of usable GPUs, and why there is none if it is 0.");
  module.def("device_properties", &properties_of, py::arg("device"),
             "Returns name, compute_capability, multiprocessors, memory_bytes and integrated of a GPU as a dict.");
  module.def("runtime_version", &runtime_version,
             "Returns the version of the CUDA runtime that is linked in, as 1000 * major + 10 * minor.");
  module.def("driver_version", &driver_version,
             "Returns the newest CUDA version that the driver supports, or 0 if there is no driver.");
  module.def(
      "wait_for_stream",
      [](uintptr_t stream, uintptr_t earlier) { wait_for_stream(at<void>(stream), at<void>(earlier)); },
      py::arg("stream"), py::arg("earlier"),
      "Makes later work on the stream wait for the work that is on `earlier` now.");
  module.def(
      "begin_capture", [](uintptr_t stream) { begin_capture(at<void>(stream)); }, py::arg("stream"),
      "Starts to record the work that is launched on the stream, instead of running it.");
  module.def(
      "end_capture", [](uintptr_t stream) { return reinterpret_cast<uintptr_t>(end_capture(at<void>(stream))); },
      py::arg("stream"), "Ends the recording and returns it as an executable graph.");
  module.def(
      "launch_graph",
      [](uintptr_t graph, uintptr_t stream) {
        const py::gil_scoped_release unlocked;
        launch_graph(at<void>(graph), at<void>(stream));
      },
      py::arg("graph"), py::arg("stream"), "Launches all recorded work on the stream.");
  module.def("destroy_graph", [](uintptr_t graph) { destroy_graph(at<void>(graph)); }, py::arg("graph"));
  module.def("preprocess_scratch_bytes", &preprocess_scratch, py::kw_only(), py::arg("size"), py::arg("resized"),
             py::arg("padded"), py::arg("antialias"));
  module.def("preprocess", &preprocess_image, py::kw_only(), py::arg("format"), py::arg("pixels"), py::arg("row_bytes"),
             py::arg("chroma") = 0, py::arg("chroma_row_bytes") = 0, py::arg("matrix") = "bt601",
             py::arg("full_range") = false, py::arg("size"), py::arg("resized"), py::arg("padded"), py::arg("mean"),
             py::arg("std"), py::arg("reverse_channels"), py::arg("antialias"), py::arg("source_step") = 0.0,
             py::arg("eight_bit") = false, py::arg("output"), py::arg("dtype"), py::arg("scratch"),
             py::arg("scratch_bytes"), py::arg("stream"),
             "Resizes, normalizes and pads an image into its place in the network's input.");
  module.def("decode_scratch_bytes", &decode_scratch, py::kw_only(), py::arg("sizes"), py::arg("batch"),
             py::arg("anchors"), py::arg("classes"), py::arg("top_k"), py::arg("top_k_anchors") = false,
             py::arg("cell_strides") = std::vector<Size>{});
  module.def("decode", &decode_heads, py::kw_only(), py::arg("logits"), py::arg("deltas"), py::arg("base_anchors"),
             py::arg("sizes"), py::arg("strides"), py::arg("level_clips") = std::vector<std::array<float, 2>>{},
             py::arg("batch"), py::arg("anchors"), py::arg("classes"), py::arg("dtype"), py::arg("top_k"),
             py::arg("coder_weights"), py::arg("coder_clamp_max"), py::arg("logit_threshold"), py::arg("class_mask"),
             py::arg("clip_sizes"), py::arg("boxes"), py::arg("out_logits"), py::arg("class_ids"), py::arg("counts"),
             py::arg("rescans"), py::arg("scratch"), py::arg("scratch_bytes"), py::arg("stream"),
             py::arg("coder_kind") = "center", py::arg("coder_means") = std::array<float, 4>{},
             py::arg("coder_clamp_min") = -retinasdk::kUnbounded, py::arg("inclusive_pixels") = false,
             py::arg("or_equal") = false, py::arg("drop_empty") = false, py::arg("class_thresholds") = 0,
             py::arg("ignored") = 0, py::arg("ignored_regions") = 0, py::arg("top_k_anchors") = false,
             py::arg("cell_strides") = std::vector<Size>{}, py::arg("rotated") = py::none(),
             "Decodes head outputs into candidates, at most levels * top_k per image.");
  module.def("nms_scratch_bytes", &nms_scratch, py::kw_only(), py::arg("batch"), py::arg("capacity"),
             py::arg("max_detections"));
  module.def("nms", &nms_candidates, py::kw_only(), py::arg("batch"), py::arg("capacity"), py::arg("boxes"),
             py::arg("logits"), py::arg("class_ids"), py::arg("counts"), py::arg("iou_threshold"),
             py::arg("max_detections"), py::arg("kept"), py::arg("kept_counts"), py::arg("kept_boxes"),
             py::arg("kept_logits"), py::arg("kept_class_ids"), py::arg("scratch"), py::arg("scratch_bytes"),
             py::arg("stream"), py::arg("or_equal") = false, py::arg("inclusive_pixels") = false,
             py::arg("across_classes") = false, py::arg("max_per_class") = 1 << 20,
             "Class-aware greedy NMS. Writes the kept candidates, best first.");
  module.def("rotated_nms_scratch_bytes", &nms_scratch, py::kw_only(), py::arg("batch"), py::arg("capacity"),
             py::arg("max_detections"));
  module.def("rotated_nms", &rotated_nms_candidates, py::kw_only(), py::arg("batch"), py::arg("capacity"),
             py::arg("boxes"), py::arg("logits"), py::arg("class_ids"), py::arg("counts"), py::arg("iou_threshold"),
             py::arg("max_detections"), py::arg("kept"), py::arg("kept_counts"), py::arg("kept_boxes"),
             py::arg("kept_logits"), py::arg("kept_class_ids"), py::arg("scratch"), py::arg("scratch_bytes"),
             py::arg("stream"), py::arg("or_equal") = false, py::arg("across_classes") = false,
             py::arg("max_per_class") = 1 << 20, py::arg("shares_angle") = false,
             "Class-aware greedy NMS of rotated boxes. Writes the kept candidates, best first.");
  module.def("soft_nms_scratch_bytes", &soft_nms_scratch, py::kw_only(), py::arg("batch"), py::arg("capacity"),
             py::arg("max_detections"), py::arg("classes"));
  module.def("soft_nms", &soft_nms_candidates, py::kw_only(), py::arg("batch"), py::arg("capacity"), py::arg("boxes"),
             py::arg("logits"), py::arg("class_ids"), py::arg("counts"), py::arg("score_thresholds"),
             py::arg("classes"), py::arg("decay"), py::arg("sigma"), py::arg("iou_threshold"),
             py::arg("max_detections"), py::arg("kept"), py::arg("kept_counts"), py::arg("kept_boxes"),
             py::arg("kept_scores"), py::arg("kept_class_ids"), py::arg("scratch"), py::arg("scratch_bytes"),
             py::arg("stream"), py::arg("or_equal") = false, py::arg("inclusive_pixels") = false,
             py::arg("across_classes") = false, py::arg("max_per_class") = 1 << 20,
             "Soft NMS. Writes the kept candidates and their final scores, best first.");
  module.def("fuse_scratch_bytes", &fuse_scratch, py::kw_only(), py::arg("batch"), py::arg("capacity"),
             py::arg("max_detections"), py::arg("classes"));
  module.def("fuse", &fuse_candidates, py::kw_only(), py::arg("batch"), py::arg("capacity"), py::arg("boxes"),
             py::arg("logits"), py::arg("class_ids"), py::arg("counts"), py::arg("classes"), py::arg("fused_score"),
             py::arg("scale") = "logit", py::arg("models") = 1, py::arg("iou_threshold"), py::arg("max_detections"),
             py::arg("kept_counts"), py::arg("kept_boxes"), py::arg("kept_scores"), py::arg("kept_class_ids"),
             py::arg("scratch"), py::arg("scratch_bytes"), py::arg("stream"), py::arg("or_equal") = false,
             py::arg("inclusive_pixels") = false, py::arg("across_classes") = false, py::arg("max_per_class") = 1 << 20,
             "Weighted boxes fusion. Writes the fused boxes, best first.");
}
