#pragma once

#include <limits>

#include "convolution/layout_kernels.h"
#include "convolution/vec16.h"

#if defined(__SSE__) || defined(_M_X64)
#include <xmmintrin.h>
#endif

namespace retinasdk::convolution {
namespace {

constexpr float kNothing = -std::numeric_limits<float>::infinity();  // The largest value of no values.

// Transposes four rows of four floats. All vector instruction sets have these instructions, so they are not in vec16.h.
RETINASDK_INLINE void transpose(const float* from, std::ptrdiff_t from_step, float* to, std::ptrdiff_t to_step) {
#if defined(__SSE__) || defined(_M_X64)
  __m128 a = _mm_loadu_ps(from), b = _mm_loadu_ps(from + from_step);
  __m128 c = _mm_loadu_ps(from + 2 * from_step), d = _mm_loadu_ps(from + 3 * from_step);
  _MM_TRANSPOSE4_PS(a, b, c, d);
  _mm_storeu_ps(to, a);
  _mm_storeu_ps(to + to_step, b);
  _mm_storeu_ps(to + 2 * to_step, c);
  _mm_storeu_ps(to + 3 * to_step, d);
#elif defined(RETINASDK_VEC16_NEON)
  const float32x4x2_t ab = vtrnq_f32(vld1q_f32(from), vld1q_f32(from + from_step));
  const float32x4x2_t cd = vtrnq_f32(vld1q_f32(from + 2 * from_step), vld1q_f32(from + 3 * from_step));
  vst1q_f32(to, vcombine_f32(vget_low_f32(ab.val[0]), vget_low_f32(cd.val[0])));
  vst1q_f32(to + to_step, vcombine_f32(vget_low_f32(ab.val[1]), vget_low_f32(cd.val[1])));
  vst1q_f32(to + 2 * to_step, vcombine_f32(vget_high_f32(ab.val[0]), vget_high_f32(cd.val[0])));
  vst1q_f32(to + 3 * to_step, vcombine_f32(vget_high_f32(ab.val[1]), vget_high_f32(cd.val[1])));
#else
  for (int y = 0; y < 4; ++y) {
    for (int x = 0; x < 4; ++x) to[x * to_step + y] = from[y * from_step + x];
  }
#endif
}

void gather(const float* planar, std::ptrdiff_t plane, int channels, int count, float* blocked) {
  for (int first = 0; first < count; first += 4, planar += 4, blocked += 4 * kBlock) {
    const int pixels = count - first < 4 ? count - first : 4;
    int c = 0;
    for (; c + 4 <= channels && pixels == 4; c += 4) transpose(planar + c * plane, plane, blocked + c, kBlock);
    for (; c < kBlock; ++c) {
      for (int i = 0; i < pixels; ++i) blocked[i * kBlock + c] = c < channels ? planar[c * plane + i] : 0.0f;
    }
  }
}

void scatter(const float* blocked, int channels, int count, float* planar, std::ptrdiff_t plane) {
  int c = 0;
  for (; c + 4 <= channels && count >= 4; c += 4) {
    // The last four pixels may be some that were written before.
    for (int first = 0; first < count; first += 4) {
      const int i = first + 4 <= count ? first : count - 4;
      transpose(blocked + i * kBlock + c, kBlock, planar + c * plane + i, plane);
    }
  }
  for (; c < channels; ++c) {
    for (int i = 0; i < count; ++i) planar[c * plane + i] = blocked[i * kBlock + c];
  }
}

void pool_row(const PoolRow& row) {
  for (int x = 0; x < row.out_width; ++x) {
    int first = x * row.stride_x - row.left, last = first + row.kernel_x;
    if (first < 0) first = 0;
    if (last > row.width) last = row.width;
    Vec16 best = broadcast(kNothing);
    for (int y = 0; y < row.rows; ++y) {
      const float* from = row.input + static_cast<std::ptrdiff_t>(y) * row.width * kBlock;
      for (int at = first; at < last; ++at) best = larger(load(from + at * kBlock), best);
    }
    store(row.output + x * kBlock, best);
  }
}

void add_row(const AddRow& row) {
  const Vec16 low = broadcast(row.clamp.low), high = broadcast(row.clamp.high);
  // The pixel of `added` is i * added_width / width, rounded down. The loop keeps the remainder, so it does not divide.
  const std::ptrdiff_t start = static_cast<std::ptrdiff_t>(row.first) * row.added_width;
  const int whole = row.added_width / row.width, part = row.added_width % row.width;
  const float* added = row.added + start / row.width * kBlock;
  auto remainder = static_cast<int>(start % row.width);
  for (int i = 0; i < row.count; ++i) {
    store(row.output + i * kBlock, clamped(low, high, load(row.image + i * kBlock) + load(added)));
    added += whole * kBlock;
    remainder += part;
    if (remainder >= row.width) {
      remainder -= row.width;
      added += kBlock;
    }
  }
}

constexpr LayoutKernels kLayoutKernels{gather, scatter, pool_row, add_row};

}  // namespace
}  // namespace retinasdk::convolution
