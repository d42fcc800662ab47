// The contract of ops.h on a CUDA device. Plain C++17: includes no CUDA header.
//
// Every address is device memory (or mapped host memory), owned by the caller and aligned to its element. Every
// function only launches work on the caller's stream: it allocates nothing, never waits for the device, and may be
// captured in a CUDA graph. What it needs besides its results lies in the caller's scratch, of the size that the
// *_scratch_bytes function tells; scratch is free again when the launched work is done. Numbers come from box_math.h
// and resize_math.h, so results equal those of the CPU, order and ties included.
//
// Bad arguments throw std::invalid_argument; a failed CUDA call throws cuda::Error.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "retinasdk/box_coder.h"
#include "retinasdk/overlap_rules.h"

namespace retinasdk::cuda {

class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

using Stream = void*;  // a cudaStream_t

enum class Scalar { kFloat32, kFloat16 };

struct Scratch {
  void* data;  // aligned to 256
  size_t size_bytes;
};

// -- what is here ----------------------------------------------------------------------------------------------------

// Count of usable GPUs. Where it is 0, *reason says why in CUDA's words, e.g. "cudaErrorInsufficientDriver: ...".
int device_count(std::string* reason);

struct DeviceProperties {
  std::string name;
  int compute_capability[2];  // major, minor
  int multiprocessors;
  size_t memory_bytes;
  bool integrated;  // shares its memory with the CPU, as on Jetson
};
DeviceProperties device_properties(int device);

int runtime_version();  // of the CUDA runtime built in, 1000 * major + 10 * minor
int driver_version();   // the newest CUDA that the driver supports; 0: no driver

// -- streams and graphs ----------------------------------------------------------------------------------------------

// What is launched on the stream from now on waits for what is on `earlier` now, also a producer's of another library.
void wait_for_stream(Stream stream, Stream earlier);

using Graph = void*;  // a cudaGraphExec_t

// What is launched on the stream between the two is recorded instead of run; end_capture makes it ready to launch.
void begin_capture(Stream stream);
Graph end_capture(Stream stream);
void launch_graph(Graph graph, Stream stream);
void destroy_graph(Graph graph);

// -- preprocess ------------------------------------------------------------------------------------------------------

enum class PixelFormat {
  kInterleaved,  // uint8 (height, width, 3)
  kNv12,         // uint8 luma (height, width), then chroma (height / 2, width / 2, 2), both sides even; color_math.h
};

struct DeviceImage {
  PixelFormat format;
  const uint8_t* pixels;  // interleaved, or luma
  std::ptrdiff_t row_bytes;
  const uint8_t* chroma;  // NV12 only
  std::ptrdiff_t chroma_row_bytes;
  int height, width;
};

struct DevicePreprocessOptions {
  int resized_height, resized_width;  // as PreprocessOptions in ops.h
  int padded_height, padded_width;
  float mean[3], std[3];
  bool reverse_channels;
  bool antialias;
  Scalar output;
};

// output: (3, padded_height, padded_width) float32 or float16, the latter rounded once from the float32 value.
size_t preprocess_scratch_bytes(const DeviceImage& image, const DevicePreprocessOptions& options);
void preprocess(const DeviceImage& image, const DevicePreprocessOptions& options, void* output, Scratch scratch,
                Stream stream);

// -- decode ----------------------------------------------------------------------------------------------------------

constexpr int kMaxLevels = 16;

struct DeviceLevel {
  const void* logits;  // as HeadLevel in ops.h, of the type DeviceDecodeOptions::input
  const void* deltas;
  const float* base_anchors;
  int height, width;
  float stride_y, stride_x;
};

struct DeviceDecodeOptions {
  int batch, anchors, classes;
  int top_k;
  BoxCoder coder;
  Scalar input;
  // Read by the device when the work runs, so that a captured graph takes new values:
  const float* logit_threshold;  // one value; must not be NaN
  const uint8_t* class_mask;     // (K,), 0: as if the network had no such class
  const float* clip_sizes;       // (N, 2) height, width; negative: that axis is not clipped
  bool or_equal = false;         // as DecodeOptions in ops.h
  bool drop_empty = false;
  const float* class_thresholds = nullptr;  // as DecodeOptions in ops.h; in device memory, too
  const float* ignored = nullptr;
  int ignored_regions = 0;
};

struct DeviceCandidates {
  float* boxes;  // as Candidates in ops.h
  float* logits;
  int32_t* class_ids;
  int32_t* counts;
  int32_t* rescans;  // (N,): levels with more candidates than the scratch holds, which were read again; or null
  int capacity;
};

size_t decode_scratch_bytes(const std::vector<DeviceLevel>& levels, const DeviceDecodeOptions& options);
void decode(const std::vector<DeviceLevel>& levels, const DeviceDecodeOptions& options,
            const DeviceCandidates& candidates, Scratch scratch, Stream stream);

// -- nms -------------------------------------------------------------------------------------------------------------

struct DeviceNmsOptions {
  float iou_threshold;  // as NmsOptions in ops.h
  int max_detections;
  bool or_equal = false;
  bool inclusive_pixels = false;
  bool across_classes = false;
  int max_per_class = 1 << 20;
};

struct DeviceDetections {
  int32_t* kept;       // (N, max_detections) indices into the image's candidates, best first
  int32_t* counts;     // (N,)
  float* boxes;        // (N, max_detections, 4), logits and class_ids: the kept candidates, side by side for one copy
  float* logits;       // (N, max_detections)
  int32_t* class_ids;  // (N, max_detections)
};

size_t nms_scratch_bytes(int batch, int capacity, const DeviceNmsOptions& options);
void nms(int batch, const DeviceCandidates& candidates, const DeviceNmsOptions& options,
         const DeviceDetections& detections, Scratch scratch, Stream stream);

// -- soft NMS and weighted boxes fusion ------------------------------------------------------------------------------

struct DeviceScored {
  float* boxes;        // (N, max_detections, 4), scores and class_ids: best first, side by side for one copy
  float* scores;       // (N, max_detections)
  int32_t* class_ids;  // (N, max_detections)
  int32_t* counts;     // (N,)
};

struct DeviceSoftNmsOptions {
  DeviceNmsOptions nms;  // as SoftNmsOptions in ops.h
  Decay decay;
  float sigma;
  const float* score_thresholds;  // (K,), read by the device when the work runs
  int classes;
};

// kept: as DeviceDetections.
size_t soft_nms_scratch_bytes(int batch, int capacity, const DeviceSoftNmsOptions& options);
void soft_nms(int batch, const DeviceCandidates& candidates, const DeviceSoftNmsOptions& options, int32_t* kept,
              const DeviceScored& scored, Scratch scratch, Stream stream);

struct DeviceFusionOptions {
  DeviceNmsOptions nms;  // as FusionOptions in ops.h
  FusedScore score;
  ScoreScale scale;
  int models;
  int classes;
};

size_t fusion_scratch_bytes(int batch, int capacity, const DeviceFusionOptions& options);
void fuse(int batch, const DeviceCandidates& candidates, const DeviceFusionOptions& options, const DeviceScored& scored,
          Scratch scratch, Stream stream);

}  // namespace retinasdk::cuda
