// Direct convolution in the blocked layout, of any kernel, stride and padding; 1x1 convolutions too. Float32.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "convolution/blocked.h"

namespace retinasdk {

namespace convolution {
struct Kernels;
}

// The weights of one convolution, in the order in which the kernels read them.
class DirectWeights {
 public:
  // weights: (out_channels, in_channels, height, width), copied. `planar`: for a planar input, such as the photo.
  // Throws std::invalid_argument if the number of channels is not 1 to 65536, or a side not 1 to 31.
  DirectWeights(const float* weights, int out_channels, int in_channels, int height, int width, Layout input);

  std::size_t count() const { return count_; }  // Number of values.

  int out_channels, in_channels, height, width;
  Layout input;
  AlignedFloats values;

 private:
  std::size_t count_;
};

// A direct convolution. Instances do not change, so several threads may use one at the same time.
class DirectConv {
 public:
  // bias: (out_channels,), copied, or null.
  DirectConv(std::shared_ptr<const DirectWeights> weights, const float* bias, const Window& window, Clamp clamp,
             Addition addition, Layout output);
  // For tests: uses the given kernels instead of the best ones for this machine.
  DirectConv(std::shared_ptr<const DirectWeights> weights, const float* bias, const Window& window, Clamp clamp,
             Addition addition, Layout output, const convolution::Kernels& kernels);

  int out_channels() const { return weights_->out_channels; }
  int in_channels() const { return weights_->in_channels; }
  const Window& window() const { return window_; }

  // Returns the number of floats of scratch that run() needs.
  std::size_t scratch_floats(int batch, int height, int width) const;

  // Runs the convolution. Results are the same for any number of threads.
  void run(const ConvCall& call, const ParallelFor& parallel_for) const;

 private:
  std::shared_ptr<const DirectWeights> weights_;
  std::vector<float> bias_;
  Window window_;
  Clamp clamp_;
  Addition addition_;
  Layout output_;
  const convolution::Kernels& kernels_;
};

}  // namespace retinasdk
