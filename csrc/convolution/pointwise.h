// 1x1 convolution with stride 1, followed by an optional addition and ReLU. Plain C++17, float32.
//
// It is meant for the layers around Winograd convolutions. Both keep each channel as a plane, while the convolutions of
// ONNX Runtime would reorder the channels in between. The addition and the ReLU are included because each would
// otherwise read and write the whole tensor once more.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "convolution/convolution.h"

namespace retinasdk {

// The weights of one convolution, in the order in which the multiplication reads them.
class PointwiseWeights {
 public:
  // weights: (out_channels, in_channels), copied. Throws std::invalid_argument if the number of channels is not 1 to
  // 65536.
  PointwiseWeights(const float* weights, int out_channels, int in_channels);

  // Returns the number of values.
  std::size_t count() const { return static_cast<std::size_t>(padded_out) * static_cast<std::size_t>(padded_in); }

  int out_channels, in_channels;  // As given.
  int padded_out, padded_in;      // Rounded up to multiples of 16 and 8.
  AlignedFloats values;           // (padded_out / 16, padded_in, 16), padded with zeros.
};

// A pointwise convolution. Instances do not change, so several threads may use one at the same time.
class PointwiseConv {
 public:
  // bias: (out_channels,), copied, or null. relu: whether negative outputs become 0, after the residual was added.
  PointwiseConv(std::shared_ptr<const PointwiseWeights> weights, const float* bias, bool relu);

  // For tests: uses the given kernels instead of the best ones for this machine.
  PointwiseConv(std::shared_ptr<const PointwiseWeights> weights, const float* bias, bool relu,
                const winograd::Kernels& kernels);

  int out_channels() const { return weights_->out_channels; }
  int in_channels() const { return weights_->in_channels; }

  // Returns the number of floats of scratch that run() needs.
  std::size_t scratch_floats(std::size_t pixels) const;

  // Runs the convolution.
  //
  // input: (batch, in_channels, pixels). residual: (batch, out_channels, pixels), added to the result, or null.
  // output: (batch, out_channels, pixels). The arrays must not overlap. Each concurrent call needs its own scratch.
  void run(const float* input, const float* residual, int batch, std::size_t pixels, float* output, float* scratch,
           const ParallelFor& parallel_for) const;

 private:
  std::shared_ptr<const PointwiseWeights> weights_;
  std::vector<float> bias_;  // (padded_out,), or empty.
  bool relu_;
  const winograd::Kernels& kernels_;
};

}  // namespace retinasdk
