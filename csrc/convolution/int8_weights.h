// The weights of 8-bit convolutions, in the order in which the kernels read them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "convolution/convolution.h"
#include "convolution/int8_kernels.h"

namespace retinasdk::int8 {

// Returns weights (out, in, height, width) as whole numbers. Throws std::invalid_argument if they are not whole numbers
// from -128 to 127, if sums could overflow, or for numbers of channels or sides that are not supported.
std::vector<int16_t> whole_numbers(const float* weights, int out, int in, int height, int width);

// Returns what the sums of an output start with: `bias`, less what a code of `zero` contributes, as the kernels read
// it. Throws std::invalid_argument if the sums could overflow.
int32_t start_of(int32_t bias, int zero, int32_t weight_sum, int weight_count);

// Weights in the order of the kernels, for all groups of outputs. They may be shared by several convolutions.
struct PackedWeights {
  // weights: (out_channels, in_channels, height, width), see whole_numbers().
  PackedWeights(const float* weights, int out_channels, int in_channels, int height, int width,
                const Kernels& kernels = best_kernels());

  std::size_t count() const { return values.size(); }
  // start_of() of all channels, also of those that fill the last block up. bias: (out_channels,) or null.
  std::vector<int32_t> starts(int in_zero, const int32_t* bias) const;

  const Kernels& kernels;
  int out_channels, in_channels, height, width;
  std::vector<int> groups;           // The number of blocks of each group of outputs.
  std::vector<std::size_t> offsets;  // Of the weights of each group.
  AlignedBytes values;
  std::vector<int32_t> channel_sums;  // (blocks_of(out_channels), 16): the weights of each channel, added up.

 protected:
  PackedWeights(const std::vector<int16_t>& weights, int out_channels, int in_channels, int height, int width,
                const Kernels& kernels);
};

constexpr int kHighUnit = 128;  // Of the high part of a weight of 15 bits, in units of the low part.

// Float32 weights, rounded to 15 bits, or to fewer where sums would exceed 32 bits. The largest error is 1/32,000 of
// the largest weight of a channel, or 1/16,000,000 of the sum of its weights without their signs, whichever is larger.
// Kernels of 8 bits need each of them as two weights, a high and a low part.
struct FineWeights : PackedWeights {
  // weights: (out_channels, in_channels, height, width), finite.
  FineWeights(const float* weights, int out_channels, int in_channels, int height, int width,
              const Kernels& kernels = best_kernels());

  int channels() const { return static_cast<int>(scales.size()); }
  // PackedWeights has twice as many channels then: those of the high parts come first.
  bool are_split() const { return out_channels > channels(); }

  std::vector<float> scales;  // (channels(),): the unit of the weights.

 private:
  struct Units;
  FineWeights(const Units& units, int out_channels, int in_channels, int height, int width, const Kernels& kernels);
};

}  // namespace retinasdk::int8
