// Preprocessing in two launches: compute the taps of both axes, then every pixel of the canvas.
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "math/color_math.h"
#include "math/resize_math.h"

namespace retinasdk::cuda {
namespace {

constexpr int kTapThreads = 128;
constexpr int kBlockWidth = 32;
constexpr int kBlockHeight = 8;

// The taps of all output positions of one axis, in scratch. See resize_math.h.
struct Taps {
  int* first;  // (out,)
  int* count;  // (out,)
  // (out, capacity). Only one of them is used: whole weights for images of 8 bits.
  union {
    float* weights;
    int32_t* whole_weights;
  };
  int in, out;        // The number of source and output positions.
  float step;         // Distance between source positions.
  double exact_step;  // The same for OpenCV's images of 8 bits.
  int capacity;       // The highest number of weights per position.

  __device__ WholeTaps whole(int i) const {
    return {first[i], count[i], whole_weights + static_cast<int64_t>(i) * capacity};
  }
};

// Computes the taps of both axes. Grid: (blocks for the longer axis, 2).
__global__ void __launch_bounds__(kTapThreads) fill_taps(Taps rows, Taps columns, bool antialias) {
  const Taps taps = blockIdx.y == 0 ? rows : columns;
  const int i = static_cast<int>(blockIdx.x * kTapThreads + threadIdx.x);
  if (i >= taps.out) return;
  taps.count[i] = source_taps(i, taps.in, taps.step, antialias, taps.first + i,
                              taps.weights + static_cast<int64_t>(i) * taps.capacity);
}

// The same with whole weights, see Note [Eight bits].
__global__ void __launch_bounds__(kTapThreads) fill_whole_taps(Taps rows, Taps columns, bool antialias) {
  const bool is_row = blockIdx.y == 0;
  const Taps axis = is_row ? rows : columns;
  const int i = static_cast<int>(blockIdx.x * kTapThreads + threadIdx.x);
  if (i >= axis.out) return;
  WholeTaps taps{0, 0, axis.whole_weights + static_cast<int64_t>(i) * axis.capacity};
  if (antialias) {
    pillow_taps(i, axis.in, axis.out, taps);
  } else {
    opencv_taps(i, axis.in, axis.exact_step, is_row, taps);
  }
  axis.first[i] = taps.first;
  axis.count[i] = taps.count;
}

// An image with interleaved channels.
struct Interleaved {
  const uint8_t* pixels;
  int64_t row_bytes;

  __device__ Rgb at(int y, int x) const {
    const uint8_t* pixel = pixels + y * row_bytes + 3 * static_cast<int64_t>(x);
    return {{pixel[0], pixel[1], pixel[2]}};
  }
};

// A plane of luma and one of chroma pairs, each for 2 x 2 pixels.
template <typename Sample>
struct SemiPlanar {
  const uint8_t* luma;
  const uint8_t* chroma;
  int64_t luma_row_bytes, chroma_row_bytes;
  YuvToRgb rule;

  __device__ Rgb at(int y, int x) const {
    const auto* row = reinterpret_cast<const Sample*>(luma + y * luma_row_bytes);
    const auto* pairs = reinterpret_cast<const Sample*>(chroma + y / 2 * chroma_row_bytes);
    const int pair = x / 2 * 2;
    return yuv_to_rgb(rule, sample_value(row[x]), sample_value(pairs[pair]), sample_value(pairs[pair + 1]));
  }
};

struct Nv12 : SemiPlanar<uint8_t> {};
struct P010 : SemiPlanar<uint16_t> {};

// The output and the normalization of its channels.
struct Canvas {
  void* output;
  int resized_height, resized_width;
  int padded_height, padded_width;
  int source_channels[3];
  float gain[3], bias[3];
};

__device__ inline void store(float* target, float value) { *target = value; }
__device__ inline void store(__half* target, float value) { *target = __float2half_rn(value); }

// Resizes, normalizes and pads. Grid: blocks of the canvas; a thread computes the three values of one pixel. The sums
// have the same order as on the CPU: first over the rows of the image, then along the row.
template <typename Source, typename T>
__global__ void __launch_bounds__(kBlockWidth* kBlockHeight)
    resize(Source source, Taps rows, Taps columns, Canvas canvas) {
  const int x = static_cast<int>(blockIdx.x * kBlockWidth + threadIdx.x);
  const int y = static_cast<int>(blockIdx.y * kBlockHeight + threadIdx.y);
  if (x >= canvas.padded_width || y >= canvas.padded_height) return;
  const int64_t plane = static_cast<int64_t>(canvas.padded_height) * canvas.padded_width;
  T* target = static_cast<T*>(canvas.output) + static_cast<int64_t>(y) * canvas.padded_width + x;
  if (x >= canvas.resized_width || y >= canvas.resized_height) {
    for (int c = 0; c < 3; ++c) store(target + c * plane, 0.0f);
    return;
  }
  const float* row_weights = rows.weights + static_cast<int64_t>(y) * rows.capacity;
  const float* column_weights = columns.weights + static_cast<int64_t>(x) * columns.capacity;
  float sums[3] = {};  // 0 + product equals the product, which is never -0.
  for (int tap_x = 0; tap_x < columns.count[x]; ++tap_x) {
    float blended[3] = {};
    for (int tap_y = 0; tap_y < rows.count[y]; ++tap_y) {
      const Rgb pixel = source.at(rows.first[y] + tap_y, columns.first[x] + tap_x);
#pragma unroll
      for (int c = 0; c < 3; ++c) {
        blended[c] += row_weights[tap_y] * static_cast<float>(pixel.channels[c]);
      }
    }
#pragma unroll
    for (int c = 0; c < 3; ++c) {
      sums[c] += column_weights[tap_x] * blended[c];
    }
  }
#pragma unroll
  for (int c = 0; c < 3; ++c) {
    // A dynamic index would move sums[] to local memory, which is slow.
    const int from = canvas.source_channels[c];
    const float sum = from == 0 ? sums[0] : from == 1 ? sums[1] : sums[2];
    store(target + c * plane, normalize(sum, canvas.gain[c], canvas.bias[c]));
  }
}

// Resizes one source row along itself at one output column, and returns what is kept of each channel. See Note [Eight
// bits].
template <typename Source>
__device__ inline void resize_row(const Source& source, int row, const WholeTaps& columns, bool antialias,
                                  int32_t (&out)[3]) {
  out[0] = out[1] = out[2] = 0;
  for (int tap = 0; tap < columns.count; ++tap) {
    const Rgb pixel = source.at(row, columns.first + tap);
#pragma unroll
    for (int c = 0; c < 3; ++c) out[c] += columns.weights[tap] * static_cast<int32_t>(pixel.channels[c]);
  }
#pragma unroll
  for (int c = 0; c < 3; ++c) out[c] = antialias ? pillow_rounded(out[c]) : opencv_kept(out[c]);
}

// Does what resize() does, as Pillow and OpenCV compute 8-bit images. Grid: as that of resize().
template <typename Source, typename T>
__global__ void __launch_bounds__(kBlockWidth* kBlockHeight)
    resize_eight_bit(Source source, Taps row_taps, Taps column_taps, Canvas canvas, bool antialias) {
  const int x = static_cast<int>(blockIdx.x * kBlockWidth + threadIdx.x);
  const int y = static_cast<int>(blockIdx.y * kBlockHeight + threadIdx.y);
  if (x >= canvas.padded_width || y >= canvas.padded_height) return;
  const int64_t plane = static_cast<int64_t>(canvas.padded_height) * canvas.padded_width;
  T* target = static_cast<T*>(canvas.output) + static_cast<int64_t>(y) * canvas.padded_width + x;
  if (x >= canvas.resized_width || y >= canvas.resized_height) {
    for (int c = 0; c < 3; ++c) store(target + c * plane, 0.0f);
    return;
  }
  const WholeTaps rows = row_taps.whole(y);
  const WholeTaps columns = column_taps.whole(x);
  int32_t values[3];
  if (antialias) {
    int32_t sums[3] = {};
    for (int tap = 0; tap < rows.count; ++tap) {
      resize_row(source, rows.first + tap, columns, true, values);
#pragma unroll
      for (int c = 0; c < 3; ++c) sums[c] += rows.weights[tap] * values[c];
    }
#pragma unroll
    for (int c = 0; c < 3; ++c) values[c] = pillow_rounded(sums[c]);
  } else {
    int32_t upper[3], lower[3];
    resize_row(source, rows.first, columns, false, upper);
    resize_row(source, rows.first + rows.count - 1, columns, false, lower);
#pragma unroll
    for (int c = 0; c < 3; ++c) values[c] = opencv_rounded(upper[c], lower[c], rows.weights);
  }
#pragma unroll
  for (int c = 0; c < 3; ++c) {
    const int from = canvas.source_channels[c];
    const int32_t value = from == 0 ? values[0] : from == 1 ? values[1] : values[2];
    store(target + c * plane, normalize(static_cast<float>(value), canvas.gain[c], canvas.bias[c]));
  }
}

}  // namespace
}  // namespace retinasdk::cuda

#ifndef __CUDACC_RTC__  // Device-only compilers stop here.
#include <algorithm>

#include "cuda/cuda_support.h"

namespace retinasdk::cuda {
namespace {

constexpr int kMaxSide = 1 << 16;

void require_side(int value, int low, const char* name) {
  require(value >= low && value <= kMaxSide, std::string(name) + " must be " + std::to_string(low) + " to " +
                                                 std::to_string(kMaxSide) + ", got " + std::to_string(value));
}

void check_arguments(const DeviceImage& image, const DevicePreprocessOptions& options) {
  require_side(image.height, 1, "image height");
  require_side(image.width, 1, "image width");
  require_side(options.resized_height, 1, "resized height");
  require_side(options.resized_width, 1, "resized width");
  require_side(options.padded_height, options.resized_height, "padded height");
  require_side(options.padded_width, options.resized_width, "padded width");
  for (const float std : options.std)
    require(std > 0.0f, "std must be above 0 in each channel, got " + std::to_string(std));
  require(options.source_step >= 0.0 && options.source_step <= kMaxSide,
          "source_step must be 0 to 65536, got " + std::to_string(options.source_step));
  require(options.source_step == 0.0 || !options.antialias,
          "source_step must be 0 with antialias, got " + std::to_string(options.source_step));
  if (image.format == PixelFormat::kInterleaved) return;
  require(image.height % 2 == 0 && image.width % 2 == 0,
          "NV12 and P010 images must have an even height and width, got " + std::to_string(image.height) + " x " +
              std::to_string(image.width));
  const auto addresses = reinterpret_cast<uintptr_t>(image.pixels) | reinterpret_cast<uintptr_t>(image.chroma);
  require(image.format != PixelFormat::kP010 ||
              ((addresses | static_cast<uintptr_t>(image.row_bytes | image.chroma_row_bytes)) & 1) == 0,
          "addresses and row distances of P010 images must be even");
}

Taps take_taps(int in, int out, const DevicePreprocessOptions& options, ScratchLayout& layout) {
  const float step = source_step(in, out, options.source_step);
  const int capacity = std::max(max_taps(step, options.antialias), max_whole_taps(in, out, options.antialias));
  const auto positions = static_cast<size_t>(out);
  static_assert(sizeof(float) == sizeof(int32_t));
  return {layout.take<int>(positions),
          layout.take<int>(positions),
          {layout.take<float>(positions * static_cast<size_t>(capacity))},
          in,
          out,
          step,
          opencv_step(in, out, options.source_step),
          capacity};
}

template <typename Source, typename T>
void launch_resize_to(const Source& source, const Taps& rows, const Taps& columns, const Canvas& canvas,
                      const DevicePreprocessOptions& options, dim3 grid, dim3 block, Stream stream) {
  if (options.eight_bit) {
    launch("resize_eight_bit", resize_eight_bit<Source, T>, grid, block, stream, source, rows, columns, canvas,
           options.antialias);
  } else {
    launch("resize", resize<Source, T>, grid, block, stream, source, rows, columns, canvas);
  }
}

template <typename Source>
void launch_resize(const Source& source, const Taps& rows, const Taps& columns, const Canvas& canvas,
                   const DevicePreprocessOptions& options, Stream stream) {
  const dim3 block(kBlockWidth, kBlockHeight);
  const dim3 grid((static_cast<unsigned>(canvas.padded_width) + kBlockWidth - 1) / kBlockWidth,
                  (static_cast<unsigned>(canvas.padded_height) + kBlockHeight - 1) / kBlockHeight);
  if (options.output == Scalar::kFloat16) {
    launch_resize_to<Source, __half>(source, rows, columns, canvas, options, grid, block, stream);
  } else {
    launch_resize_to<Source, float>(source, rows, columns, canvas, options, grid, block, stream);
  }
}

template <typename Source>
Source planes_of(const DeviceImage& image, int bits) {
  return {{image.pixels, image.chroma, image.row_bytes, image.chroma_row_bytes,
           yuv_to_rgb_rule(image.matrix, image.full_range, bits)}};
}

}  // namespace

size_t preprocess_scratch_bytes(const DeviceImage& image, const DevicePreprocessOptions& options) {
  check_arguments(image, options);
  ScratchLayout layout;
  take_taps(image.height, options.resized_height, options, layout);
  take_taps(image.width, options.resized_width, options, layout);
  return layout.size_bytes();
}

void preprocess(const DeviceImage& image, const DevicePreprocessOptions& options, void* output, Scratch scratch,
                Stream stream) {
  require_scratch(scratch, preprocess_scratch_bytes(image, options));
  ScratchLayout layout(scratch.data);
  const Taps rows = take_taps(image.height, options.resized_height, options, layout);
  const Taps columns = take_taps(image.width, options.resized_width, options, layout);
  Canvas canvas{
      output, options.resized_height, options.resized_width, options.padded_height, options.padded_width, {}, {}, {}};
  for (int c = 0; c < 3; ++c) {
    canvas.source_channels[c] = options.reverse_channels ? 2 - c : c;
    canvas.gain[c] = normalize_gain(options.std[c]);
    canvas.bias[c] = normalize_bias(options.mean[c], options.std[c]);
  }
  const auto positions = static_cast<unsigned>(std::max(rows.out, columns.out));
  launch(options.eight_bit ? "fill_whole_taps" : "fill_taps", options.eight_bit ? fill_whole_taps : fill_taps,
         dim3((positions + kTapThreads - 1) / kTapThreads, 2), dim3(kTapThreads), stream, rows, columns,
         options.antialias);
  if (image.format == PixelFormat::kNv12) {
    launch_resize(planes_of<Nv12>(image, 8), rows, columns, canvas, options, stream);
  } else if (image.format == PixelFormat::kP010) {
    launch_resize(planes_of<P010>(image, 10), rows, columns, canvas, options, stream);
  } else {
    launch_resize(Interleaved{image.pixels, image.row_bytes}, rows, columns, canvas, options, stream);
  }
}

}  // namespace retinasdk::cuda
#endif
