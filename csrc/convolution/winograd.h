// 3x3 convolution of stride 1, padding 1, by Winograd's F(6x6, 3x3): plain C++17, in float32.
//
// It takes 64 multiplications where the direct way takes 324, and rounds accordingly: results differ from the direct
// convolution's by about 1e-5 of the largest one.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "convolution/convolution.h"

namespace retinasdk {

// The weights of one convolution, in the transformed space: 7.1 times as large as they were.
class WinogradWeights {
 public:
  // weights: (out_channels, in_channels, 3, 3), which may go afterwards. Throws std::invalid_argument.
  WinogradWeights(const float* weights, int out_channels, int in_channels);

  int out_channels, in_channels;  // as given,
  int padded_out, padded_in;      // and as they lie in memory
  AlignedFloats values;           // (64, padded_out / 16, padded_in, 16)
};

class WinogradConv {
 public:
  // bias: (out_channels,), or null. relu: what is below 0 becomes 0.
  WinogradConv(std::shared_ptr<const WinogradWeights> weights, const float* bias, bool relu);

  // As WinogradConv, with given kernels in place of this machine's best: for tests.
  WinogradConv(std::shared_ptr<const WinogradWeights> weights, const float* bias, bool relu,
               const winograd::Kernels& kernels);

  int out_channels() const { return weights_->out_channels; }
  int in_channels() const { return weights_->in_channels; }

  // Floats of scratch that a run needs: bounded whatever the size, as tiles go through in blocks.
  std::size_t scratch_floats(int batch, int height, int width) const;

  // input (batch, in_channels, height, width) to output (batch, out_channels, height, width); neither may overlap the
  // other or scratch. May run in several threads at once.
  void run(const float* input, int batch, int height, int width, float* output, float* scratch,
           const ParallelFor& parallel_for) const;

 private:
  std::shared_ptr<const WinogradWeights> weights_;
  std::vector<float> bias_;  // padded_out, or none
  bool relu_;
  const winograd::Kernels& kernels_;
};

// Name of the instruction set of the kernels on this machine: "avx2", "neon" or "plain".
const char* winograd_simd_name();

}  // namespace retinasdk
