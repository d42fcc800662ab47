// 1x1 convolution of stride 1, with what stands behind it in a residual network: plain C++17, in float32.
//
// It is here for the layers around Winograd convolutions: both leave channels as planes, where ONNX Runtime's own would
// have them reordered, and an addition and a ReLU cost a pass over memory each.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "convolution/convolution.h"

namespace retinasdk {

// (out_channels, in_channels) as the multiplication reads them. Throws std::invalid_argument.
class PointwiseWeights {
 public:
  PointwiseWeights(const float* weights, int out_channels, int in_channels);

  int out_channels, in_channels;  // as given,
  int padded_out, padded_in;      // and as they lie in memory
  AlignedFloats values;           // (padded_out / 16, padded_in, 16)
};

class PointwiseConv {
 public:
  // bias: (out_channels,), or null. relu: what is below 0 becomes 0, after the residual was added.
  PointwiseConv(std::shared_ptr<const PointwiseWeights> weights, const float* bias, bool relu);

  // With given kernels in place of this machine's best: for tests.
  PointwiseConv(std::shared_ptr<const PointwiseWeights> weights, const float* bias, bool relu,
                const winograd::Kernels& kernels);

  int out_channels() const { return weights_->out_channels; }
  int in_channels() const { return weights_->in_channels; }

  std::size_t scratch_floats(std::size_t pixels) const;

  // input (batch, in_channels, pixels), residual (batch, out_channels, pixels) or null, to output, which is as
  // residual. Nothing may overlap. May run in several threads at once.
  void run(const float* input, const float* residual, int batch, std::size_t pixels, float* output, float* scratch,
           const ParallelFor& parallel_for) const;

 private:
  std::shared_ptr<const PointwiseWeights> weights_;
  std::vector<float> bias_;  // padded_out, or none
  bool relu_;
  const winograd::Kernels& kernels_;
};

}  // namespace retinasdk
