// All 8-bit kernels for the instruction set that the compiler targets. Each int8_kernels_<instruction set>.cpp includes
// this file once and exports its kernels under a name of its own.
#pragma once

#include <cstring>

#include "convolution/int8_multiply_impl.h"

namespace retinasdk::int8 {
namespace {

void arrange(const uint8_t* padded, int width, uint8_t* to) {
  for (int x = 0; x < width + kArrangedBeyond; x += 2) {
    store_bytes(to + static_cast<std::ptrdiff_t>(x) * 32, arranged(padded + static_cast<std::ptrdiff_t>(x) * kLanes));
  }
}

// With a stride of 1, weights for even and odd pixels alternate, because only even pixels begin a vector.
template <int Side, int Stride, int Count>
RETINASDK_INT8_INLINE void depthwise_tile(const DepthwiseRow& row, const Limits& limits, Numbers multipliers,
                                          int first) {
  constexpr int kParities = Stride == 1 ? 2 : 1, kVectors = vectors_per_row(Side, kDot);
  Sums sums[Count];
  RETINASDK_INT8_UNROLL
  for (int i = 0; i < Count; ++i) sums[i] = load_sums(row.start);
  RETINASDK_INT8_UNROLL
  for (int y = 0; y < Side; ++y) {
    const uint8_t* pixels = row.rows[y] + static_cast<std::ptrdiff_t>(first) * Stride * 32;
    RETINASDK_INT8_UNROLL
    for (int v = 0; v < kVectors; ++v) {
      RETINASDK_INT8_UNROLL
      for (int i = 0; i < Count; ++i) {
        const int parity = i % kParities;
        const Bytes loaded = load_bytes(pixels + ((i - parity) * Stride + v * kDot) * 32);
        const int8_t* weights = row.weights + ((y * kVectors + v) * 2 + parity) * kVectorBytes;
        sums[i] = add_products(sums[i], loaded, load_bytes(weights));
      }
    }
  }
  store_pixels<Count>(row.codes + static_cast<std::ptrdiff_t>(first) * kLanes, sums, multipliers, limits);
}

template <int Side, int Stride>
void depthwise_side(const DepthwiseRow& row) {
  constexpr int kWide = kDot == 4 ? 8 : 4;
  const Limits limits(row.limits);
  const Numbers multipliers = load_numbers(row.multipliers);
  int x = 0;
  for (; x + kWide <= row.count; x += kWide) depthwise_tile<Side, Stride, kWide>(row, limits, multipliers, x);
  for (; x + 2 <= row.count; x += 2) depthwise_tile<Side, Stride, 2>(row, limits, multipliers, x);
  if (x < row.count) depthwise_tile<Side, Stride, 1>(row, limits, multipliers, x);
}

void depthwise_row(const DepthwiseRow& row) {
  if (row.side == 3) return row.stride == 1 ? depthwise_side<3, 1>(row) : depthwise_side<3, 2>(row);
  return row.stride == 1 ? depthwise_side<5, 1>(row) : depthwise_side<5, 2>(row);
}

void add(const uint8_t* a, const uint8_t* b, std::size_t count, const CodeSum& sum, uint8_t* codes) {
  const Numbers low = repeat(static_cast<float>(sum.low)), high = repeat(static_cast<float>(sum.high));
  const Numbers a_ratio = repeat(sum.a_ratio), b_ratio = repeat(sum.b_ratio), offset = repeat(sum.offset);
  const auto steps = [&](std::size_t i) {
    return rounded(limited(fused(load_codes(a + i), a_ratio, fused(load_codes(b + i), b_ratio, offset)), low, high));
  };
  std::size_t i = 0;
  for (; i + 64 <= count; i += 64) {
    const Sums four[4] = {steps(i), steps(i + 16), steps(i + 32), steps(i + 48)};
    store_bytes(codes + i, four_codes(four, 0));
  }
  for (; i < count; i += kLanes) store_codes(codes + i, steps(i), 0);
}

void quantize(const float* numbers, std::size_t count, float scale, int zero, uint8_t* codes) {
  const Limits limits(CodeLimits{zero, 0, 255});
  const Numbers step = repeat(scale);
  const auto steps = [&](std::size_t i) {
    return rounded(limited(load_numbers(numbers + i * kLanes) / step, limits.low, limits.high));
  };
  std::size_t i = 0;
  for (; i + 4 <= count; i += 4) {
    const Sums four[4] = {steps(i), steps(i + 1), steps(i + 2), steps(i + 3)};
    store_bytes(codes + i * kLanes, four_codes(four, limits.zero));
  }
  for (; i < count; ++i) store_codes(codes + i * kLanes, steps(i), limits.zero);
}

void quantize_planes(const float* const* planes, std::size_t count, float scale, int zero, uint8_t* codes) {
  const Limits limits(CodeLimits{zero, 0, 255});
  const Numbers step = repeat(scale);
  for (std::size_t first = 0; first < count; first += kLanes) {
    const std::size_t pixels = count - first < kLanes ? count - first : kLanes;
    Bytes quads[4];
    RETINASDK_INT8_UNROLL
    for (int q = 0; q < 4; ++q) {
      Sums four[4];
      for (int c = 0; c < 4; ++c) {
        const float* plane = planes[q * 4 + c];
        float numbers[kLanes] = {};
        if (plane != nullptr && pixels < kLanes) {
          for (std::size_t i = 0; i < pixels; ++i) numbers[i] = plane[first + i];
          plane = numbers;
        } else {
          plane = plane == nullptr ? numbers : plane + first;
        }
        four[c] = rounded(limited(load_numbers(plane) / step, limits.low, limits.high));
      }
      quads[q] = transposed(four_codes(four, limits.zero));  // (16 pixels, 4 channels)
    }
    uint8_t columns[4][64];
    for (int q = 0; q < 4; ++q) store_bytes(columns[q], quads[q]);
    for (std::size_t i = 0; i < pixels; ++i) {
      for (int q = 0; q < 4; ++q) {
        for (int c = 0; c < 4; ++c)
          codes[(first + i) * kLanes + static_cast<std::size_t>(q * 4 + c)] =
              columns[q][i * 4 + static_cast<std::size_t>(c)];
      }
    }
  }
}

void to_planes(const uint8_t* codes, std::size_t count, uint8_t* const* planes) {
  std::size_t i = 0;
  for (; i + 4 <= count; i += 4) {
    uint8_t columns[64];
    store_bytes(columns, transposed(load_bytes(codes + i * kLanes)));
    for (std::size_t c = 0; c < kLanes; ++c) {
      if (planes[c] != nullptr) std::memcpy(planes[c] + i, columns + c * 4, 4);
    }
  }
  for (; i < count; ++i) {
    for (std::size_t c = 0; c < kLanes; ++c) {
      if (planes[c] != nullptr) planes[c][i] = codes[i * kLanes + c];
    }
  }
}

}  // namespace
}  // namespace retinasdk::int8
