// The depthwise kernels for the instruction set that the compiler targets. See kernels_impl.h.
#pragma once

#include "convolution/depthwise_kernels.h"
#include "convolution/vec16.h"

namespace retinasdk::convolution {
namespace {

// A block of 16 channels is computed in parts of one register each, so that the sums of kPixelsAtOnce pixels and the
// weights of a row of taps stay in registers on every instruction set.
#if defined(RETINASDK_VEC16_AVX512)
constexpr int kPixelsAtOnce = 12;
#else
constexpr int kPixelsAtOnce = 8;
#endif

#if defined(RETINASDK_VEC16_AVX2)
constexpr int kPart = 8;
struct Part {
  __m256 value;
};
RETINASDK_INLINE Part load_part(const float* from) { return {_mm256_loadu_ps(from)}; }
RETINASDK_INLINE Part broadcast_part(float value) { return {_mm256_set1_ps(value)}; }
RETINASDK_INLINE void store(float* to, Part a) { _mm256_storeu_ps(to, a.value); }
RETINASDK_INLINE Part fused(Part a, Part b, Part c) { return {_mm256_fmadd_ps(a.value, b.value, c.value)}; }
RETINASDK_INLINE Part clamped(Part low, Part high, Part a) {
  return {_mm256_min_ps(high.value, _mm256_max_ps(low.value, a.value))};
}
#elif defined(RETINASDK_VEC16_NEON)
constexpr int kPart = 4;
struct Part {
  float32x4_t value;
};
RETINASDK_INLINE Part load_part(const float* from) { return {vld1q_f32(from)}; }
RETINASDK_INLINE Part broadcast_part(float value) { return {vdupq_n_f32(value)}; }
RETINASDK_INLINE void store(float* to, Part a) { vst1q_f32(to, a.value); }
RETINASDK_INLINE Part fused(Part a, Part b, Part c) { return {vfmaq_f32(c.value, a.value, b.value)}; }
RETINASDK_INLINE Part clamped(Part low, Part high, Part a) {  // NEON's minimum and maximum keep NaN.
  return {vminq_f32(high.value, vmaxq_f32(low.value, a.value))};
}
#else
constexpr int kPart = 16;
using Part = Vec16;
RETINASDK_INLINE Part load_part(const float* from) { return load(from); }
RETINASDK_INLINE Part broadcast_part(float value) { return broadcast(value); }
#endif

#if defined(__GNUC__)
#define RETINASDK_UNROLL_ALL _Pragma("GCC unroll 64")
#else
#define RETINASDK_UNROLL_ALL
#endif

// Adds one row of taps to the sums of neighboring pixels. Each input is loaded once and used for all taps.
template <int kPixels, int kWidth, int kStride>
RETINASDK_INLINE void add_taps(const float* input, const float* weights, Part (&sums)[kPixels]) {
  Part taps[kWidth];
  RETINASDK_UNROLL
  for (int x = 0; x < kWidth; ++x) taps[x] = load_part(weights + x * kBlock);
  RETINASDK_UNROLL_ALL
  for (int column = 0; column < (kPixels - 1) * kStride + kWidth; ++column) {
    const Part value = load_part(input + column * kBlock);
    RETINASDK_UNROLL
    for (int x = 0; x < kWidth; ++x) {
      const int distance = column - x;
      if (distance >= 0 && distance % kStride == 0 && distance / kStride < kPixels) {
        sums[distance / kStride] = fused(value, taps[x], sums[distance / kStride]);
      }
    }
  }
}

// The same for any width and stride.
template <int kPixels>
RETINASDK_INLINE void add_any_taps(const float* input, const float* weights, int width, int stride,
                                   Part (&sums)[kPixels]) {
  for (int x = 0; x < width; ++x) {
    const Part tap = load_part(weights + x * kBlock);
    RETINASDK_UNROLL
    for (int i = 0; i < kPixels; ++i) {
      sums[i] = fused(load_part(input + (static_cast<std::ptrdiff_t>(i) * stride + x) * kBlock), tap, sums[i]);
    }
  }
}

// Computes kPixels outputs from pixel `first` on. kWidth 0 stands for any width and stride.
template <int kPixels, int kWidth, int kStride>
RETINASDK_INLINE void depthwise_pixels(const DepthwiseRow& row, int first) {
  const std::ptrdiff_t start = static_cast<std::ptrdiff_t>(first) * row.stride * kBlock;
  for (int part = 0; part < kBlock; part += kPart) {
    Part sums[kPixels];
    const Part bias = load_part(row.bias + part);
    RETINASDK_UNROLL
    for (int i = 0; i < kPixels; ++i) sums[i] = bias;
    for (int y = 0; y < row.height; ++y) {
      if (row.rows[y] == nullptr) continue;
      const float* input = row.rows[y] + start + part;
      const float* weights = row.weights + static_cast<std::ptrdiff_t>(y) * row.width * kBlock + part;
      if constexpr (kWidth > 0) {
        add_taps<kPixels, kWidth, kStride>(input, weights, sums);
      } else {
        add_any_taps<kPixels>(input, weights, row.width, row.stride, sums);
      }
    }
    const Part low = broadcast_part(row.clamp.low), high = broadcast_part(row.clamp.high);
    float* output = row.output + static_cast<std::ptrdiff_t>(first) * kBlock + part;
    RETINASDK_UNROLL
    for (int i = 0; i < kPixels; ++i) store(output + i * kBlock, clamped(low, high, sums[i]));
  }
}

template <int kWidth, int kStride>
void depthwise_pixels_of_row(const DepthwiseRow& row) {
  int first = 0;
  for (; first + kPixelsAtOnce <= row.count; first += kPixelsAtOnce) {
    depthwise_pixels<kPixelsAtOnce, kWidth, kStride>(row, first);
  }
  for (; first + 4 <= row.count; first += 4) depthwise_pixels<4, kWidth, kStride>(row, first);
  for (; first < row.count; ++first) depthwise_pixels<1, kWidth, kStride>(row, first);
}

void depthwise_row(const DepthwiseRow& row) {
  if (row.width == 3 && row.stride == 1) return depthwise_pixels_of_row<3, 1>(row);
  if (row.width == 3 && row.stride == 2) return depthwise_pixels_of_row<3, 2>(row);
  if (row.width == 5 && row.stride == 1) return depthwise_pixels_of_row<5, 1>(row);
  if (row.width == 5 && row.stride == 2) return depthwise_pixels_of_row<5, 2>(row);
  depthwise_pixels_of_row<0, 0>(row);
}

constexpr DepthwiseKernels kDepthwiseKernels{depthwise_row};

}  // namespace
}  // namespace retinasdk::convolution
