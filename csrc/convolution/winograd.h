// 3x3 convolution with stride 1 and padding 1 by Winograd's F(6x6, 3x3). Plain C++17, float32.
//
// It needs 64 multiplications where a direct convolution needs 324. Its rounding differs: results differ from those of
// a direct convolution by about 1e-5 of the largest value.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "convolution/convolution.h"

namespace retinasdk {

// The weights of one convolution in the transformed space. They are 7.1 times as large as the original weights.
class WinogradWeights {
 public:
  // weights: (out_channels, in_channels, 3, 3), not used afterwards. Throws std::invalid_argument if the number of
  // channels is not 1 to 65536.
  WinogradWeights(const float* weights, int out_channels, int in_channels);

  // Returns the number of values.
  std::size_t count() const { return 64 * static_cast<std::size_t>(padded_out) * static_cast<std::size_t>(padded_in); }

  int out_channels, in_channels;  // As given.
  int padded_out, padded_in;      // Rounded up to multiples of 16 and 8.
  AlignedFloats values;           // (64, padded_out / 16, padded_in, 16), padded with zeros.
};

// A Winograd convolution. Instances do not change, so several threads may use one at the same time.
class WinogradConv {
 public:
  // bias: (out_channels,), copied, or null. relu: whether negative outputs become 0.
  WinogradConv(std::shared_ptr<const WinogradWeights> weights, const float* bias, bool relu);

  // For tests: uses the given kernels instead of the best ones for this machine.
  WinogradConv(std::shared_ptr<const WinogradWeights> weights, const float* bias, bool relu,
               const winograd::Kernels& kernels);

  int out_channels() const { return weights_->out_channels; }
  int in_channels() const { return weights_->in_channels; }

  // Returns the number of floats of scratch that run() needs. It is bounded for any input size, because the patches are
  // processed in blocks.
  std::size_t scratch_floats(int batch, int height, int width) const;

  // Runs the convolution.
  //
  // input: (batch, in_channels, height, width). output: (batch, out_channels, height, width). The arrays must not
  // overlap. Each concurrent call needs its own scratch.
  void run(const float* input, int batch, int height, int width, float* output, float* scratch,
           const ParallelFor& parallel_for) const;

 private:
  std::shared_ptr<const WinogradWeights> weights_;
  std::vector<float> bias_;  // (padded_out,), or empty.
  bool relu_;
  const winograd::Kernels& kernels_;
};

// Returns the instruction set of the kernels on this machine: "avx2", "neon" or "plain".
const char* winograd_simd_name();

}  // namespace retinasdk
