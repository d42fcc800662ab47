// Convolutions of 8-bit codes with 8-bit weights in the blocked layout of int8_kernels.h, which also says how they
// round.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "convolution/blocked.h"
#include "convolution/int8_kernels.h"
#include "convolution/int8_weights.h"

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

// A convolution whose output are codes. Instances do not change, so several threads may use one at the same time.
class Conv {
 public:
  Conv(std::shared_ptr<const PackedWeights> weights, const Window& window, const Rounding& rounding);

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
};

// A convolution of codes with float32 weights, whose output is float32 and planar.
class FloatConv {
 public:
  // bias: (out_channels,) or null. Code `in_zero` is the number 0, and neighboring codes are in_scale apart.
  FloatConv(std::shared_ptr<const FineWeights> weights, const float* bias, const Window& window, float in_scale,
            int in_zero);

  int out_channels() const { return weights_->channels(); }
  int in_channels() const { return weights_->in_channels; }
  const Window& window() const { return window_; }
  std::size_t scratch_bytes(int batch, int height, int width) const;
  void run(const CodesCall& call, const ParallelFor& parallel_for) const;

 private:
  std::shared_ptr<const FineWeights> weights_;
  Window window_;
  std::vector<int32_t> start_;
  std::vector<float> scales_, bias_;
  int in_zero_;
};

}  // namespace retinasdk::int8
