// Convolutions of 8-bit codes with 8-bit weights in the blocked layout of int8_kernels.h, which also says how they
// round.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "convolution/blocked.h"
#include "convolution/int8_kernels.h"

namespace retinasdk::int8 {

// The images of one call. Arrays must not overlap.
struct CodesCall {
  int batch = 0, height = 0, width = 0;  // Of the input.
  const uint8_t* input = nullptr;        // Blocked codes.
  uint8_t* codes = nullptr;              // The output of Conv and DepthwiseConv, blocked.
  float* numbers = nullptr;              // The output of FloatConv, planar.
  uint8_t* scratch = nullptr;            // As many bytes as scratch_bytes() returned, aligned to 64 bytes.
};

// What the sums of a convolution start with and how they become codes.
struct Rounding {
  const int32_t* bias;       // (out_channels,) in steps of the sums, or null.
  const float* multipliers;  // (out_channels,): scale of the input * scale of the weights / scale of the output.
  int in_zero;               // The code of the number 0 in the input. The padding has it, too.
  CodeLimits limits;
};

// Returns weights (out, in, height, width) as bytes. Throws std::invalid_argument if they are not whole numbers from
// -128 to 127, if sums could overflow, or for numbers of channels or sides that are not supported.
std::vector<int8_t> whole_numbers(const float* weights, int out, int in, int height, int width);

// Returns what the sums of an output start with. Throws std::invalid_argument if they could overflow.
int32_t start_of(int32_t bias, int in_zero, int32_t weight_sum, int weight_count);

// Weights in the order of the kernels, for all groups of outputs. They may be shared by several convolutions.
struct PackedWeights {
  // weights: (out_channels, in_channels, height, width), see whole_numbers().
  PackedWeights(const float* weights, int out_channels, int in_channels, int height, int width);

  std::size_t count() const { return values.size(); }

  int out_channels, in_channels, height, width;
  std::vector<int> groups;           // The number of blocks of each group of outputs.
  std::vector<std::size_t> offsets;  // Of the weights of each group.
  std::vector<int8_t> values;
  std::vector<int32_t> channel_sums;  // (blocks_of(out_channels), 16): the weights of each channel, added up.

 protected:
  PackedWeights(const std::vector<int8_t>& weights, int out_channels, int in_channels, int height, int width);
};

// Float32 weights, rounded to 15 bits and split into two 8-bit ones. The largest error is 1/32,000 of the largest
// weight of a channel.
struct SplitWeights : PackedWeights {
  // weights: (out_channels, in_channels, height, width), finite.
  SplitWeights(const float* weights, int out_channels, int in_channels, int height, int width);

  // PackedWeights has twice as many: the high parts first.
  int channels() const { return static_cast<int>(scales.size()); }

  std::vector<float> scales;  // (channels(),): the unit of the low parts.

 private:
  struct Parts;
  SplitWeights(const Parts& parts, int out_channels, int in_channels, int height, int width);
};

// A convolution whose output are codes. Instances do not change, so several threads may use one at the same time.
class Conv {
 public:
  Conv(std::shared_ptr<const PackedWeights> weights, const Window& window, const Rounding& rounding,
       const Kernels& kernels = best_kernels());

  int out_channels() const { return weights_->out_channels; }
  int in_channels() const { return weights_->in_channels; }
  const Window& window() const { return window_; }
  std::size_t scratch_bytes(int batch, int height, int width) const;
  void run(const CodesCall& call, const ParallelFor& parallel_for) const;

 private:
  std::shared_ptr<const PackedWeights> weights_;
  Window window_;
  std::vector<int32_t> start_;
  std::vector<float> multipliers_;
  int in_zero_;
  CodeLimits limits_;
  const Kernels& kernels_;
};

// A convolution of codes with float32 weights, whose output is float32 and planar.
class FloatConv {
 public:
  // bias: (out_channels,) or null. Code `in_zero` is the number 0, and neighboring codes are in_scale apart.
  FloatConv(std::shared_ptr<const SplitWeights> weights, const float* bias, const Window& window, float in_scale,
            int in_zero, const Kernels& kernels = best_kernels());

  int out_channels() const { return weights_->channels(); }
  int in_channels() const { return weights_->in_channels; }
  const Window& window() const { return window_; }
  std::size_t scratch_bytes(int batch, int height, int width) const;
  void run(const CodesCall& call, const ParallelFor& parallel_for) const;

 private:
  std::shared_ptr<const SplitWeights> weights_;
  Window window_;
  std::vector<int32_t> start_;
  std::vector<float> scales_, bias_;
  int in_zero_;
  const Kernels& kernels_;
};

}  // namespace retinasdk::int8
