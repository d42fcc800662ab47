// Depthwise convolutions of 8-bit codes in the layout of int8_kernels.h.
#pragma once

#include "convolution/int8_conv.h"

namespace retinasdk::int8 {

// A depthwise convolution. Instances do not change, so several threads may use one at the same time.
class DepthwiseConv {
 public:
  // weights: (channels, 1, side, side), see whole_numbers(). The side must be 3 or 5, the stride 1 or 2: see fits().
  DepthwiseConv(const float* weights, int channels, const Window& window, const Rounding& rounding,
                const Kernels& kernels = best_kernels());

  static bool fits(const Window& window);

  int channels() const { return channels_; }
  const Window& window() const { return window_; }
  std::size_t scratch_bytes(int batch, int height, int width) const;
  void run(const CodesCall& call, const ParallelFor& parallel_for) const;

 private:
  const int channels_;
  const Window window_;
  AlignedBytes weights_;  // (blocks, side, vectors per row, 2, 16, dot): for outputs at even and odd pixels.
  std::vector<int32_t> start_;
  std::vector<float> multipliers_;
  int in_zero_;
  CodeLimits limits_;
  const Kernels& kernels_;
};

}  // namespace retinasdk::int8
