// 3x3 convolution with stride 1 and padding 1 by Winograd's F(6x6, 3x3) and F(4x4, 3x3), in the blocked layout.
// Float32.
//
// F(6x6) needs 64 multiplications where a direct convolution needs 324, F(4x4) 36 where it needs 144. Their rounding
// differs: results differ from those of a direct convolution by about 1e-5 of the largest value.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "convolution/blocked.h"

namespace retinasdk {

namespace convolution {
struct Kernels;
}

// The weights of one convolution in the transformed space. They are 7.1 times as large as the original weights for
// F(6x6), 4 times for F(4x4).
class WinogradWeights {
 public:
  // weights: (out_channels, in_channels, 3, 3), not used afterwards. patch: 6 or 4, the side of a patch of the output.
  // Throws std::invalid_argument if the patch is another, or the number of channels is not 1 to 65536.
  WinogradWeights(const float* weights, int out_channels, int in_channels, int patch);

  std::size_t count() const { return count_; }  // Number of values.

  int out_channels, in_channels;
  int patch;
  AlignedFloats values;  // ((patch + 2)^2, out blocks, in blocks, 16 in, 16 out), padded with zeros.

 private:
  std::size_t count_;
};

// A Winograd convolution. Instances do not change, so several threads may use one at the same time.
class WinogradConv {
 public:
  // bias: (out_channels,), copied, or null. The input is blocked.
  WinogradConv(std::shared_ptr<const WinogradWeights> weights, const float* bias, Clamp clamp, Addition addition,
               Layout output);
  // For tests: uses the given kernels instead of the best ones for this machine.
  WinogradConv(std::shared_ptr<const WinogradWeights> weights, const float* bias, Clamp clamp, Addition addition,
               Layout output, const convolution::Kernels& kernels);

  int out_channels() const { return weights_->out_channels; }
  int in_channels() const { return weights_->in_channels; }

  // The most images of different sizes that one call can convolve, such as the levels of a feature pyramid.
  static constexpr int kMaxLevels = 8;

  // Returns the number of floats of scratch that run() needs for levels of these sizes. It is bounded for any sizes,
  // because the patches are processed in blocks. Throws std::invalid_argument if there are more than kMaxLevels.
  std::size_t scratch_floats(const ConvCall* levels, int count) const;

  // Runs the convolution on all levels at once. So the weights are read less often, and threads wait less often. The
  // scratch of each level is not used. Results are the same for any number of threads, and those of a level do not
  // depend on the others.
  void run(const ConvCall* levels, int count, float* scratch, const ParallelFor& parallel_for) const;

  // The same for images of one size, with their scratch.
  std::size_t scratch_floats(int batch, int height, int width) const {
    ConvCall call;
    call.batch = batch;
    call.height = height;
    call.width = width;
    return scratch_floats(&call, 1);
  }
  void run(const ConvCall& call, const ParallelFor& parallel_for) const { run(&call, 1, call.scratch, parallel_for); }

 private:
  std::shared_ptr<const WinogradWeights> weights_;
  std::vector<float> bias_;
  Clamp clamp_;
  Addition addition_;
  Layout output_;
  const convolution::Kernels& kernels_;
};

}  // namespace retinasdk
