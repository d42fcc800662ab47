#pragma once

#include <utility>

#include "convolution/multiply_kernels.h"
#include "convolution/vec16.h"

namespace retinasdk::convolution {
namespace {

// The sums of a tile, pixels times blocks of output channels, stay in registers. A tile leaves a few registers for the
// weights and for one value of the input.
#if defined(RETINASDK_VEC16_AVX512)
constexpr int kTilePixels = 14, kTileBlocks = 2;  // 28 of 32 registers.
#elif defined(RETINASDK_VEC16_AVX2)
constexpr int kTilePixels = 6, kTileBlocks = 1;  // 12 of 16 registers: a vector takes two.
#elif defined(RETINASDK_VEC16_NEON)
constexpr int kTilePixels = 5, kTileBlocks = 1;  // 20 of 32 registers: a vector takes four. The pixels take five.
#else
constexpr int kTilePixels = 2, kTileBlocks = 1;
#endif
#ifdef RETINASDK_VEC8
constexpr int kHalfTilePixels = 12;  // Of half a block: enough sums that none waits for the one before.
#endif

// Where four pixels lie that follow each other. Compilers would rather keep the address of each pixel, for which there
// are too few registers: the pointer hides from them how it is made.
struct FourPixels {
  const float* first;

  RETINASDK_INLINE void hide() {
#ifdef __GNUC__
    __asm__("" : "+r"(first));
#endif
  }
  RETINASDK_INLINE const float* at(int i, std::ptrdiff_t step, std::ptrdiff_t three_steps) const {
    return i == 3 ? first + three_steps : first + i * step;
  }
};

// Adds the products of one block of the input: some channels of some pixels times as many rows of the weights.
template <typename Vec, int Pixels, int Blocks>
RETINASDK_INLINE void add_products(int lanes, const FourPixels* from, std::ptrdiff_t step, std::ptrdiff_t three_steps,
                                   const float* weights, std::ptrdiff_t weights_step, Vec (&sums)[Pixels][Blocks]) {
  // Not unrolled: the code of all lanes would not fit in the cache of decoded instructions.
  for (int lane = 0; lane < lanes; ++lane) {
    Vec factors[Blocks], value;
    RETINASDK_UNROLL
    for (int o = 0; o < Blocks; ++o) load(weights + o * weights_step + lane * kBlock, factors[o]);
    RETINASDK_UNROLL
    for (int i = 0; i < Pixels; ++i) {
      broadcast(from[i / 4].at(i % 4, step, three_steps)[lane], value);
      RETINASDK_UNROLL
      for (int o = 0; o < Blocks; ++o) sums[i][o] = fused(value, factors[o], sums[i][o]);
    }
  }
}

#ifdef RETINASDK_VEC16_NEON

// NEON multiplies by one lane of a register, so four channels of a pixel need one load.
template <int Lane, int Pixels>
RETINASDK_INLINE void add_lane(const float32x4_t (&values)[Pixels], const float* weights, Vec16 (&sums)[Pixels][1]) {
  RETINASDK_UNROLL
  for (int part = 0; part < 4; ++part) {
    const float32x4_t factors = vld1q_f32(weights + Lane * kBlock + 4 * part);
    RETINASDK_UNROLL
    for (int i = 0; i < Pixels; ++i) {
      sums[i][0].part[part] = vfmaq_laneq_f32(sums[i][0].part[part], factors, values[i], Lane);
    }
  }
}

template <int Pixels>
RETINASDK_INLINE void add_block(int lanes, const FourPixels* from, std::ptrdiff_t step, std::ptrdiff_t three_steps,
                                const float* weights, Vec16 (&sums)[Pixels][1]) {
  for (int lane = 0; lane < lanes; lane += 4, weights += 4 * kBlock) {
    float32x4_t values[Pixels];
    RETINASDK_UNROLL
    for (int i = 0; i < Pixels; ++i) values[i] = vld1q_f32(from[i / 4].at(i % 4, step, three_steps) + lane);
    add_lane<0>(values, weights, sums);
    add_lane<1>(values, weights, sums);
    add_lane<2>(values, weights, sums);
    add_lane<3>(values, weights, sums);
  }
}

#endif

// Computes some pixels from `pixel` on, and some blocks of the output from `block` on. Vec: what is computed of each.
// Lanes: channels of a block of the input.
template <typename Vec, int Lanes, int Pixels, int Blocks>
void multiply_tile(const Product& product, int pixel, int block) {
  constexpr int kFours = (Pixels + 3) / 4;
  std::ptrdiff_t step = product.in_pixel_step, three_steps = 3 * step;
#ifdef __GNUC__
  __asm__("" : "+r"(three_steps));
#endif
  const std::ptrdiff_t weights_step =
      static_cast<std::ptrdiff_t>(product.tap_count) * product.in_blocks * Lanes * kBlock;
  const float* weights = product.weights + block * weights_step;
  Vec sums[Pixels][Blocks];
  RETINASDK_UNROLL
  for (int o = 0; o < Blocks; ++o) {
    Vec start;
    broadcast(0.0f, start);
    if (product.bias != nullptr) load(product.bias + (block + o) * kBlock, start);
    RETINASDK_UNROLL
    for (int i = 0; i < Pixels; ++i) sums[i][o] = start;
  }
  // Images that are added and written are large: they come from memory while the products are computed.
  if (product.added != nullptr) {
    for (int o = 0; o < Blocks; ++o) {
      const float* added = product.added + (block + o) * product.added_block_step + pixel * product.added_pixel_step;
      float* to = product.output + (block + o) * product.out_block_step + pixel * product.out_pixel_step;
      for (int i = 0; i < Pixels; ++i) {
        prefetch_to_read(added + i * product.added_pixel_step);
        prefetch_to_write(to + i * product.out_pixel_step);
      }
    }
  }
  for (int tap = 0; tap < product.tap_count; ++tap) {
    FourPixels from[kFours];
    RETINASDK_UNROLL
    for (int k = 0; k < kFours; ++k) {
      from[k].first = product.input + product.taps[tap] + (pixel + 4 * k) * step;
    }
    for (int in = 0; in < product.in_blocks; ++in, weights += Lanes * kBlock) {
      RETINASDK_UNROLL
      for (int k = 0; k < kFours; ++k) from[k].hide();
      // Processors do not foresee where the next block of the input lies, nor that the pixels of the next tile follow.
      if (Lanes == kBlock && product.is_far) {
        RETINASDK_UNROLL
        for (int i = 0; i < Pixels; ++i) {
          const float* pixel_block = from[i / 4].at(i % 4, step, three_steps);
          prefetch_to_read(pixel_block + product.in_block_step);
          prefetch_to_l2(pixel_block + Pixels * step);
        }
      }
      const int lanes = Lanes == 1 || in + 1 < product.in_blocks ? Lanes : Lanes - product.empty_lanes;
#ifdef RETINASDK_VEC16_NEON
      if constexpr (Lanes == kBlock) {
        add_block(lanes, from, step, three_steps, weights, sums);
      } else  // NOLINT
#endif
        add_products(lanes, from, step, three_steps, weights, weights_step, sums);
      RETINASDK_UNROLL
      for (int k = 0; k < kFours; ++k) from[k].first += product.in_block_step;
    }
  }
  Vec low, high;
  broadcast(product.clamp.low, low);
  broadcast(product.clamp.high, high);
  RETINASDK_UNROLL
  for (int o = 0; o < Blocks; ++o) {
    float* to = product.output + (block + o) * product.out_block_step + pixel * product.out_pixel_step;
    if (product.added == nullptr) {
      RETINASDK_UNROLL
      for (int i = 0; i < Pixels; ++i) store(to + i * product.out_pixel_step, clamped(low, high, sums[i][o]));
    } else {
      const float* added = product.added + (block + o) * product.added_block_step + pixel * product.added_pixel_step;
      RETINASDK_UNROLL
      for (int i = 0; i < Pixels; ++i) {
        Vec more;
        load(added + i * product.added_pixel_step, more);
        store(to + i * product.out_pixel_step, clamped(low, high, sums[i][o] + more));
      }
    }
  }
}

using MultiplyTile = void (*)(const Product& product, int pixel, int block);

// The versions for 1, 2, ... pixels.
template <typename Vec, int Lanes, int Blocks, typename Less>
struct Tiles;
template <typename Vec, int Lanes, int Blocks, int... Less>
struct Tiles<Vec, Lanes, Blocks, std::integer_sequence<int, Less...>> {
  static constexpr MultiplyTile kOf[] = {multiply_tile<Vec, Lanes, Less + 1, Blocks>...};
};

template <typename Vec, int Lanes, int Most, int Blocks>
void multiply_blocks(const Product& product, int block) {
  const int tiles = (product.count + Most - 1) / Most;
  // Tiles of equal size, because small ones are slow.
  int pixel = 0;
  for (int tile = 0; tile < tiles; ++tile) {
    const int pixels = (product.count - pixel + tiles - tile - 1) / (tiles - tile);
    Tiles<Vec, Lanes, Blocks, std::make_integer_sequence<int, Most>>::kOf[pixels - 1](product, pixel, block);
    pixel += pixels;
  }
}

// The weights of a few blocks of the output stay in the cache while all pixels pass.
template <int Lanes>
void multiply(const Product& product) {
  int block = 0, whole = product.out_blocks;
#ifdef RETINASDK_VEC8
  if (product.empty_outputs >= kBlock / 2) --whole;
#endif
  for (; block + kTileBlocks <= whole; block += kTileBlocks) {
    multiply_blocks<Vec16, Lanes, kTilePixels, kTileBlocks>(product, block);
  }
  for (; block < whole; ++block) multiply_blocks<Vec16, Lanes, kTilePixels, 1>(product, block);
#ifdef RETINASDK_VEC8
  if (block < product.out_blocks) multiply_blocks<Vec8, Lanes, kHalfTilePixels, 1>(product, block);
#endif
}

constexpr MultiplyKernels kMultiplyKernels{multiply<kBlock>, multiply<1>};

}  // namespace
}  // namespace retinasdk::convolution
