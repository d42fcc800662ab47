// All 8-bit kernels for the instruction set that the compiler targets. Each int8_kernels_<instruction set>.cpp includes
// this file once and exports kKernels under a name of its own.
#pragma once

#include "convolution/int8_kernels.h"
#include "convolution/int8_vec.h"

namespace retinasdk::int8 {
namespace {

constexpr int kLanes = 16;

struct Limits {
  Numbers low, high;  // Before the zero point is added.
  int zero;

  explicit Limits(const CodeLimits& from)
      : low(repeat(static_cast<float>(from.low - from.zero))),
        high(repeat(static_cast<float>(from.high - from.zero))),
        zero(from.zero) {}
};

RETINASDK_INT8_INLINE Sums steps_of(Sums sums, Numbers multipliers, const Limits& limits) {
  return rounded(limited(to_numbers(sums) * multipliers, limits.low, limits.high));
}

// Stores the codes of `Count` pixels of one block.
template <int Count>
RETINASDK_INT8_INLINE void store_pixels(uint8_t* to, const Sums (&sums)[Count], Numbers multipliers,
                                        const Limits& limits) {
  RETINASDK_INT8_UNROLL
  for (int i = 0; i + 4 <= Count; i += 4) {
    const Sums four[4] = {steps_of(sums[i], multipliers, limits), steps_of(sums[i + 1], multipliers, limits),
                          steps_of(sums[i + 2], multipliers, limits), steps_of(sums[i + 3], multipliers, limits)};
    store_bytes(to + i * kLanes, four_codes(four, limits.zero));
  }
  RETINASDK_INT8_UNROLL
  for (int i = Count / 4 * 4; i < Count; ++i) {
    store_codes(to + i * kLanes, steps_of(sums[i], multipliers, limits), limits.zero);
  }
}

template <int Pixels, int Blocks>
RETINASDK_INT8_INLINE void multiply_tile(const Product& product, const Limits& limits, int first) {
  Sums sums[Blocks][Pixels];
  RETINASDK_INT8_UNROLL
  for (int b = 0; b < Blocks; ++b) {
    RETINASDK_INT8_UNROLL
    for (int p = 0; p < Pixels; ++p) sums[b][p] = load_sums(product.start + b * kLanes);
  }
  const int8_t* weights = product.weights;
  const std::ptrdiff_t step = product.in_pixel_step;
  for (int t = 0; t < product.tap_count; ++t) {
    const uint8_t* block = product.input + first * step + product.taps[t];
    for (int left = product.quads; left > 0; left -= 4, block += product.in_block_step) {
      const int quads = left < 4 ? left : 4;
      for (int q = 0; q < quads; ++q, weights += Blocks * 64) {
        Bytes loaded[Blocks];
        RETINASDK_INT8_UNROLL
        for (int b = 0; b < Blocks; ++b) loaded[b] = load_bytes(weights + b * 64);
        RETINASDK_INT8_UNROLL
        for (int p = 0; p < Pixels; ++p) {
          const Bytes codes = repeat4(block + p * step + q * 4);
          RETINASDK_INT8_UNROLL
          for (int b = 0; b < Blocks; ++b) sums[b][p] = add_products(sums[b][p], codes, loaded[b]);
        }
      }
    }
  }
  RETINASDK_INT8_UNROLL
  for (int b = 0; b < Blocks; ++b) {
    if (product.codes != nullptr) {
      uint8_t* to = product.codes + b * product.out_block_step + static_cast<std::ptrdiff_t>(first) * kLanes;
      store_pixels<Pixels>(to, sums[b], load_numbers(product.multipliers + b * kLanes), limits);
    } else {
      RETINASDK_INT8_UNROLL
      for (int p = 0; p < Pixels; ++p) {
        store_sums(product.sums + (first + p) * product.sums_step + b * kLanes, sums[b][p]);
      }
    }
  }
}

template <int Pixels, int Blocks>
void multiply_blocks(const Product& product) {
  const Limits limits(product.limits);
  int first = 0;
  for (; first + Pixels <= product.count; first += Pixels) multiply_tile<Pixels, Blocks>(product, limits, first);
  for (; first + 4 <= product.count; first += 4) multiply_tile<4, Blocks>(product, limits, first);
  for (; first < product.count; ++first) multiply_tile<1, Blocks>(product, limits, first);
}

// The tiles fill the registers: their sums, one vector of weights per block, and one of the input.
void multiply(const Product& product) {
  switch (product.blocks) {
    case 1:
      return multiply_blocks<16, 1>(product);
    case 2:
      return multiply_blocks<12, 2>(product);
    case 3:
      return multiply_blocks<8, 3>(product);
    case 4:
      return multiply_blocks<6, 4>(product);
    default:
      return multiply_blocks<5, 5>(product);
  }
}

void arrange(const uint8_t* padded, int width, uint8_t* arranged) {
  for (int x = 0; x < width + kArrangedBeyond; x += 2) {
    const Bytes pixels = load_bytes(padded + static_cast<std::ptrdiff_t>(x) * kLanes);
    store_bytes(arranged + static_cast<std::ptrdiff_t>(x) * 32, transposed(pixels));
  }
}

// `Quads`: vectors of arranged pixels that one output reads from each row. With a stride of 1, weights for even and odd
// pixels alternate, because only even pixels begin a vector.
template <int Side, int Quads, int Stride, int Count>
RETINASDK_INT8_INLINE void depthwise_tile(const DepthwiseRow& row, const Limits& limits, Numbers multipliers,
                                          int first) {
  constexpr int kParities = Stride == 1 ? 2 : 1;
  Sums sums[Count];
  RETINASDK_INT8_UNROLL
  for (int i = 0; i < Count; ++i) sums[i] = load_sums(row.start);
  RETINASDK_INT8_UNROLL
  for (int y = 0; y < Side; ++y) {
    const uint8_t* pixels = row.rows[y] + static_cast<std::ptrdiff_t>(first) * Stride * 32;
    RETINASDK_INT8_UNROLL
    for (int q = 0; q < Quads; ++q) {
      RETINASDK_INT8_UNROLL
      for (int i = 0; i < Count; ++i) {
        const int parity = i % kParities;
        const Bytes loaded = load_bytes(pixels + (i - parity) * Stride * 32 + q * 128);
        const int8_t* weights = row.weights + ((y * Quads + q) * 2 + parity) * 64;
        sums[i] = add_products(sums[i], loaded, load_bytes(weights));
      }
    }
  }
  store_pixels<Count>(row.codes + static_cast<std::ptrdiff_t>(first) * kLanes, sums, multipliers, limits);
}

template <int Side, int Quads, int Stride>
void depthwise_side(const DepthwiseRow& row) {
  const Limits limits(row.limits);
  const Numbers multipliers = load_numbers(row.multipliers);
  int x = 0;
  for (; x + 8 <= row.count; x += 8) depthwise_tile<Side, Quads, Stride, 8>(row, limits, multipliers, x);
  for (; x + 2 <= row.count; x += 2) depthwise_tile<Side, Quads, Stride, 2>(row, limits, multipliers, x);
  if (x < row.count) depthwise_tile<Side, Quads, Stride, 1>(row, limits, multipliers, x);
}

void depthwise_row(const DepthwiseRow& row) {
  if (row.side == 3) return row.stride == 1 ? depthwise_side<3, 1, 1>(row) : depthwise_side<3, 1, 2>(row);
  return row.stride == 1 ? depthwise_side<5, 2, 1>(row) : depthwise_side<5, 2, 2>(row);
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

}  // namespace
}  // namespace retinasdk::int8
