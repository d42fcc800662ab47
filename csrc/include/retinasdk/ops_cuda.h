// The operations of ops.h on a CUDA device. Results are bit-identical to those of the CPU, including order and ties.
//
// The header is plain C++17 and includes no CUDA header. Structs whose fields have no comment mean the same as their
// counterparts in ops.h.
//
// Memory: every address is device memory (or mapped host memory) that belongs to the caller. It must be aligned to its
// element type and must stay valid until the launched work is done. The functions allocate nothing. They need a scratch
// buffer whose size the matching *_scratch_bytes() function returns. The scratch buffer may be used again once the
// launched work is done.
//
// Streams: every function launches its work on the caller's stream and returns without waiting for the device. All of
// it may be captured in a CUDA graph. Work for different devices needs the right device to be current.
//
// Threads: the functions keep no state. Several threads may call them at the same time, each with its own scratch
// buffer and outputs.
//
// Errors: an argument outside its range throws std::invalid_argument. A failed CUDA call throws cuda::Error. Invalid
// addresses are not detected.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "retinasdk/box_coder.h"
#include "retinasdk/overlap_rules.h"
#include "retinasdk/pixel_format.h"
#include "retinasdk/rotated_box_coder.h"

namespace retinasdk::cuda {

// A CUDA call failed. The message contains the call, the name of the error and its description.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// A cudaStream_t. Null is the default stream.
using Stream = void*;

// The element type of a tensor.
enum class Scalar { kFloat32, kFloat16 };

// A scratch buffer in device memory.
struct Scratch {
  void* data;         // Aligned to 256 bytes.
  size_t size_bytes;  // At least what the matching *_scratch_bytes() function returns.
};

// -- devices ---------------------------------------------------------------------------------------------------------

// Returns the number of usable GPUs. Throws no cuda::Error: if there is no usable GPU, the result is 0 and *reason is
// set to the cause, for example "cudaErrorInsufficientDriver: ...". Otherwise *reason is left unchanged.
int device_count(std::string* reason);

// The properties of a GPU that matter for inference.
struct DeviceProperties {
  std::string name;
  int compute_capability[2];  // Major, minor.
  int multiprocessors;
  size_t memory_bytes;
  bool integrated;  // Whether the GPU shares its memory with the CPU, as on Jetson.
};
DeviceProperties device_properties(int device);

// Returns the version of the CUDA runtime that is linked in, as 1000 * major + 10 * minor.
int runtime_version();

// Returns the newest CUDA version that the driver supports, in the same form, or 0 if there is no driver.
int driver_version();

// -- streams and graphs ----------------------------------------------------------------------------------------------

// Makes work that is launched on `stream` from now on wait for the work that is on `earlier` now. `earlier` may belong
// to another library.
void wait_for_stream(Stream stream, Stream earlier);

// A cudaGraphExec_t.
using Graph = void*;

// Starts to record the work that is launched on the stream, instead of running it.
void begin_capture(Stream stream);

// Ends the recording and returns it as an executable graph. The caller frees it with destroy_graph().
Graph end_capture(Stream stream);

// Launches all recorded work on the stream. A graph must not be launched by two threads at the same time.
void launch_graph(Graph graph, Stream stream);

// Frees the graph.
void destroy_graph(Graph graph);

// -- preprocess ------------------------------------------------------------------------------------------------------

// An image in device memory. Of kP010, addresses and row distances are even.
struct DeviceImage {
  PixelFormat format;
  const uint8_t* pixels;            // The interleaved pixels, or the luma plane.
  std::ptrdiff_t row_bytes;         // Bytes from one row of `pixels` to the next.
  const uint8_t* chroma;            // The chroma plane. Ignored for interleaved pixels, as the fields about color.
  std::ptrdiff_t chroma_row_bytes;  // Bytes from one row of `chroma` to the next.
  int height, width;                // In pixels, 1 to 65536.
  ColorMatrix matrix = ColorMatrix::kBt601;
  bool full_range = false;  // Whether samples use all values. Otherwise black is 16 and white 235, scaled to the bits.
};

// PreprocessOptions of ops.h, and the element type of the output.
struct DevicePreprocessOptions {
  int resized_height, resized_width;
  int padded_height, padded_width;
  float mean[3], std[3];
  bool reverse_channels;
  bool antialias;
  Scalar output;  // kFloat16: the float32 result, rounded once to the nearest float16.
  double source_step = 0.0;
  bool eight_bit = false;
};

// Returns the scratch size of preprocess() for these options, in bytes.
size_t preprocess_scratch_bytes(const DeviceImage& image, const DevicePreprocessOptions& options);

// Resizes, normalizes and pads one image, and moves the channels first.
//
// output: (3, padded_height, padded_width) of the type DevicePreprocessOptions::output, written completely.
void preprocess(const DeviceImage& image, const DevicePreprocessOptions& options, void* output, Scratch scratch,
                Stream stream);

// -- decode ----------------------------------------------------------------------------------------------------------

constexpr int kMaxLevels = 16;  // The highest number of feature levels.

// HeadLevel of ops.h in device memory.
struct DeviceLevel {
  const void* logits;  // Of the type DeviceDecodeOptions::input.
  const void* deltas;  // Of the type DeviceDecodeOptions::input.
  const float* base_anchors;
  int height, width;
  float stride_y, stride_x;
  float clip_height = -1.0f, clip_width = -1.0f;
  // 0: channels come first, (N, channels, height, width). Else they come last, (N, height, width, channels), and this
  // is the number of values from one cell to the next. Values behind the channels of a cell are ignored.
  int logit_cell_stride = 0, delta_cell_stride = 0;
};

// DecodeOptions of ops.h. The device reads the arrays when the work runs. Therefore a captured graph uses the values
// that they hold at each launch.
struct DeviceDecodeOptions {
  int batch;  // 1 to 65535.
  int anchors, classes;
  int top_k;
  BoxCoder coder;
  Scalar input;                  // The element type of logits and deltas.
  const float* logit_threshold;  // One value in device memory. Must not be NaN.
  const uint8_t* class_mask;     // (K,) in device memory, or null. 0 excludes the class.
  const float* clip_sizes;  // (N, 2) in device memory, height and width. A negative size leaves its axis unclipped.
  bool or_equal = false;
  bool drop_empty = false;
  const float* class_thresholds = nullptr;  // In device memory.
  const float* ignored = nullptr;           // In device memory.
  int ignored_regions = 0;
  bool top_k_anchors = false;
  const RotatedCoder* rotated = nullptr;  // In host memory. As in DecodeOptions.
};

// Candidates of ops.h in device memory.
struct DeviceCandidates {
  float* boxes;
  float* logits;
  int32_t* class_ids;
  int32_t* counts;
  // (N,), or null. The number of levels whose logits were read twice, because they had more candidates than the scratch
  // buffer holds. See Note [Decoding] in csrc/cuda/decode_cuda.cu.
  int32_t* rescans;
  int capacity;
};

// Returns the scratch size of decode() for these options, in bytes.
size_t decode_scratch_bytes(const std::vector<DeviceLevel>& levels, const DeviceDecodeOptions& options);

// Decodes head outputs into candidates, as decode() of ops.h does. Takes 1 to kMaxLevels levels.
void decode(const std::vector<DeviceLevel>& levels, const DeviceDecodeOptions& options,
            const DeviceCandidates& candidates, Scratch scratch, Stream stream);

// -- nms -------------------------------------------------------------------------------------------------------------

// NmsOptions of ops.h.
struct DeviceNmsOptions {
  float iou_threshold;
  int max_detections;
  bool or_equal = false;
  bool inclusive_pixels = false;
  bool across_classes = false;
  int max_per_class = 1 << 20;
};

// The result of nms(), best first. Boxes, logits and class ids are copies of the kept candidates. Entries behind the
// count of an image have no meaning, except that `kept` is filled with -1.
struct DeviceDetections {
  int32_t* kept;       // (N, max_detections), indices of the kept candidates of each image.
  int32_t* counts;     // (N,), the number of kept candidates of each image.
  float* boxes;        // (N, max_detections, 4).
  float* logits;       // (N, max_detections).
  int32_t* class_ids;  // (N, max_detections).
};

// Returns the scratch size of nms() for these options, in bytes: for each image 136 KiB, and above a capacity of 1024
// also about 8 bytes for each candidate, with the capacity rounded up to a power of two. batch: 1 to 65535. capacity: 1
// to 16777216.
size_t nms_scratch_bytes(int batch, int capacity, const DeviceNmsOptions& options);

// Greedy, class-aware non-maximum suppression, as nms() of ops.h.
void nms(int batch, const DeviceCandidates& candidates, const DeviceNmsOptions& options,
         const DeviceDetections& detections, Scratch scratch, Stream stream);

// Greedy, class-aware non-maximum suppression of rotated boxes, as rotated_nms() of ops.h. It needs the scratch size of
// nms(). The boxes of candidates and detections have kRotatedValues values.
void rotated_nms(int batch, const DeviceCandidates& candidates, const DeviceNmsOptions& options, bool shares_angle,
                 const DeviceDetections& detections, Scratch scratch, Stream stream);

// -- soft NMS and weighted boxes fusion ------------------------------------------------------------------------------

// The result of soft_nms() and fuse(), best first. Entries behind the count of an image have no meaning.
struct DeviceScored {
  float* boxes;        // (N, max_detections, 4).
  float* scores;       // (N, max_detections).
  int32_t* class_ids;  // (N, max_detections).
  int32_t* counts;     // (N,), the number of boxes of each image.
};

// SoftNmsOptions of ops.h.
struct DeviceSoftNmsOptions {
  DeviceNmsOptions nms;
  Decay decay;
  float sigma;
  const float* score_thresholds;  // (K,) in device memory, read when the work runs.
  int classes;
};

// Returns the scratch size of soft_nms() for these options, in bytes.
size_t soft_nms_scratch_bytes(int batch, int capacity, const DeviceSoftNmsOptions& options);

// Soft NMS, as soft_nms() of ops.h.
//
// kept: (N, max_detections), indices of the kept candidates of each image, -1 behind the count.
void soft_nms(int batch, const DeviceCandidates& candidates, const DeviceSoftNmsOptions& options, int32_t* kept,
              const DeviceScored& scored, Scratch scratch, Stream stream);

// FusionOptions of ops.h.
struct DeviceFusionOptions {
  DeviceNmsOptions nms;
  FusedScore score;
  ScoreScale scale;
  int models;
  int classes;
};

// Returns the scratch size of fuse() for these options, in bytes.
size_t fusion_scratch_bytes(int batch, int capacity, const DeviceFusionOptions& options);

// Weighted boxes fusion, as fuse() of ops.h.
void fuse(int batch, const DeviceCandidates& candidates, const DeviceFusionOptions& options, const DeviceScored& scored,
          Scratch scratch, Stream stream);

}  // namespace retinasdk::cuda
