// 3x3 convolutions of 8-bit codes with a stride of 1, by Winograd's F(4x4, 3x3) in whole numbers: 36 products for 16
// outputs instead of 144, and the same codes bit for bit.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "convolution/int8_conv.h"

namespace retinasdk::int8 {

// Transformed weights. They may be shared by several convolutions.
struct WinogradWeights : PackedWeights {
  // Whether results are exact, and there are kernels for it. weights: (out_channels, in_channels, 3, 3), see
  // whole_numbers().
  static bool fits(const float* weights, int out_channels, int in_channels,
                   const Kernels* kernels = winograd_kernels());

  WinogradWeights(const float* weights, int out_channels, int in_channels,
                  const Kernels& kernels = *winograd_kernels());

 private:
  WinogradWeights(const std::vector<int16_t>& whole, int out_channels, int in_channels, const Kernels& kernels);
};

// Instances do not change, so several threads may use one at the same time.
class WinogradConv {
 public:
  static bool fits(const Window& window);

  WinogradConv(std::shared_ptr<const WinogradWeights> weights, const Window& window, const Rounding& rounding);

  int out_channels() const { return weights_->out_channels; }
  int in_channels() const { return weights_->in_channels; }
  const Window& window() const { return window_; }
  std::size_t scratch_bytes(int batch, int height, int width) const;
  void run(const CodesCall& call, const ParallelFor& parallel_for) const;

 private:
  class Run;

  std::shared_ptr<const WinogradWeights> weights_;
  Window window_;
  std::vector<int32_t> start_;
  std::vector<float> multipliers_;
  int in_zero_;
  CodeLimits limits_;
};

}  // namespace retinasdk::int8
