// The product of pixels and weights, for int8_kernels_impl.h.
#pragma once

#include "convolution/convolution.h"
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

RETINASDK_INT8_INLINE void prefetch([[maybe_unused]] const int8_t* weights) {
#ifdef __GNUC__
  __builtin_prefetch(weights);
#endif
}

// A part of the input channels of a product. Sums that other parts began, or will go on with, wait in memory.
struct Part {
  int tap, tap_end, group, group_end;
  const int32_t* begun;  // Sums of pixel p at begun + p * begun_step.
  std::ptrdiff_t begun_step;
  int32_t* unfinished;  // (pixels, 16), or null: the sums are complete now.
};

// `Pixels` pixels from `first` on, and `Blocks` blocks of outputs from `first_block` on.
template <int Pixels, int Blocks>
RETINASDK_INT8_INLINE void multiply_tile(const Product& product, const Part& part, const Limits& limits, int first,
                                         int first_block) {
  Sums sums[Blocks][Pixels];
  RETINASDK_INT8_UNROLL
  for (int b = 0; b < Blocks; ++b) {
    RETINASDK_INT8_UNROLL
    for (int p = 0; p < Pixels; ++p) sums[b][p] = load_sums(part.begun + b * kLanes + p * part.begun_step);
  }
  constexpr int kGroups = kLanes / kDot;  // Of a block.
  const std::ptrdiff_t step = product.in_pixel_step, tap_step = product.groups * product.blocks * kVectorBytes;
  const WeightSteps steps(kOneBlock, product.groups, product.blocks);
  for (int t = part.tap; t < part.tap_end; ++t) {
    const int8_t* weights = product.weights + t * tap_step + first_block * steps.block + part.group * steps.group;
    const uint8_t* block =
        product.input + first * step + product.taps[t] + part.group / kGroups * product.in_block_step;
    for (int left = part.group_end - part.group; left > 0; left -= kGroups, block += product.in_block_step) {
      const int groups = left < kGroups ? left : kGroups;
      for (int g = 0; g < groups; ++g, weights += steps.group) {
        Bytes loaded[Blocks];
        RETINASDK_INT8_UNROLL
        for (int b = 0; b < Blocks; ++b) loaded[b] = load_bytes(weights + b * steps.block);
        if constexpr (kOneBlock) prefetch(weights + steps.block);
        RETINASDK_INT8_UNROLL
        for (int p = 0; p < Pixels; ++p) {
          const Bytes codes = repeat4(block + p * step + g * 4);
          RETINASDK_INT8_UNROLL
          for (int b = 0; b < Blocks; ++b) sums[b][p] = add_products(sums[b][p], codes, loaded[b]);
        }
      }
    }
  }
  RETINASDK_INT8_UNROLL
  for (int b = 0; b < Blocks; ++b) {
    const int place = first_block + b;
    if (part.unfinished != nullptr) {
      RETINASDK_INT8_UNROLL
      for (int p = 0; p < Pixels; ++p) store_sums(part.unfinished + (b * Pixels + p) * kLanes, sums[b][p]);
    } else if (product.codes != nullptr) {
      uint8_t* to = product.codes + place * product.out_block_step + static_cast<std::ptrdiff_t>(first) * kLanes;
      store_pixels<Pixels>(to, sums[b], load_numbers(product.multipliers + place * kLanes), limits);
    } else {
      RETINASDK_INT8_UNROLL
      for (int p = 0; p < Pixels; ++p) {
        store_sums(product.sums + (first + p) * product.sums_step + place * kLanes, sums[b][p]);
      }
    }
  }
}

#ifdef RETINASDK_INT8_ONE_BLOCK

// Slices of the pixels and parts of the channels, so that what is read again and again stays in the nearest cache: the
// codes of a slice for all outputs, and the weights of 16 outputs for all its tiles.
constexpr int kTilePixels = 6;  // AVX2 holds their sums in 12 of its 16 registers, NEON in 24 of 32.
constexpr int kSlicePixels = 4 * kTilePixels;
constexpr int kPartGroups = 128;  // Their codes are 12 KB in a slice, their weights 8 KB.

template <int Pixels>
void multiply_rest(const Product& product, const Part& part, const Limits& limits, int first, int count, int block) {
  if constexpr (Pixels > 0) {
    if (count == Pixels) return multiply_tile<Pixels, 1>(product, part, limits, first, block);
    multiply_rest<Pixels - 1>(product, part, limits, first, count, block);
  }
}

void multiply_slice(const Product& product, const Limits& limits, int begin, int end) {
  alignas(kAlignment) int32_t waiting[kMostBlocks][kSlicePixels * kLanes];
  const int taps = product.tap_count > 1 ? (kPartGroups + product.groups - 1) / product.groups : 1;
  const int groups = product.tap_count > 1 ? product.groups : kPartGroups;
  for (int tap = 0; tap < product.tap_count; tap += taps) {
    for (int group = 0; group < product.groups; group += groups) {
      Part part{};
      part.tap = tap;
      part.tap_end = tap + taps < product.tap_count ? tap + taps : product.tap_count;
      part.group = group;
      part.group_end = group + groups < product.groups ? group + groups : product.groups;
      const bool is_first = tap == 0 && group == 0;
      const bool is_last = part.tap_end == product.tap_count && part.group_end == product.groups;
      for (int block = 0; block < product.blocks; ++block) {
        for (int first = begin; first < end; first += kTilePixels) {
          int32_t* sums = waiting[block] + (first - begin) * kLanes;
          part.begun = is_first ? product.start + block * kLanes : sums;
          part.begun_step = is_first ? 0 : kLanes;
          part.unfinished = is_last ? nullptr : sums;
          if (first + kTilePixels <= end) {
            multiply_tile<kTilePixels, 1>(product, part, limits, first, block);
          } else {
            multiply_rest<kTilePixels - 1>(product, part, limits, first, end - first, block);
          }
        }
      }
    }
  }
}

void multiply(const Product& product) {
  const Limits limits(product.limits);
  for (int begin = 0; begin < product.count; begin += kSlicePixels) {
    const int end = begin + kSlicePixels;
    multiply_slice(product, limits, begin, end < product.count ? end : product.count);
  }
}

#else

template <int Pixels, int Blocks>
void multiply_blocks(const Product& product) {
  const Limits limits(product.limits);
  const Part all{0, product.tap_count, 0, product.groups, product.start, 0, nullptr};
  int first = 0;
  for (; first + Pixels <= product.count; first += Pixels) {
    multiply_tile<Pixels, Blocks>(product, all, limits, first, 0);
  }
  for (; first + 4 <= product.count; first += 4) multiply_tile<4, Blocks>(product, all, limits, first, 0);
  for (; first < product.count; ++first) multiply_tile<1, Blocks>(product, all, limits, first, 0);
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

#endif

}  // namespace
}  // namespace retinasdk::int8
