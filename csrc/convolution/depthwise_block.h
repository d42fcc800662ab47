// A depthwise convolution and its neighbors, in the blocked layout: [convolution, clamp], depthwise convolution, clamp,
// 1x1 convolution, [addition], clamp. What lies in between stays in the cache. Float32.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <vector>

#include "convolution/blocked.h"
#include "convolution/depthwise_plan.h"
#include "convolution/direct_conv.h"

namespace retinasdk {

// The depthwise convolution of a block. weights: (channels, window.height, window.width); bias: (channels,) or null.
struct DepthwiseStep {
  const float* weights;
  const float* bias;
  int channels;
  Window window;
  Clamp clamp;
};

// A convolution before or after the depthwise one. bias: (out_channels,) or null. It is a 1x1 convolution of a blocked
// image; only the one before may read a planar image instead, with any window: then it is the first layer of a network.
struct NeighborStep {
  std::shared_ptr<const DirectWeights> weights;
  const float* bias;
  Clamp clamp;
  Window window;
};

// A depthwise convolution, alone or in a block. Instances do not change, so several threads may use one at the same
// time.
class DepthwiseBlock {
 public:
  // expand: before the depthwise convolution, or nothing. project: after it, or nothing (`addition` is then kNone).
  // threads: that will run it, for which the work is divided; 0: unknown. Throws std::invalid_argument if the steps do
  // not fit together.
  DepthwiseBlock(const std::optional<NeighborStep>& expand, const DepthwiseStep& depthwise,
                 const std::optional<NeighborStep>& project, Addition addition, int threads);
  // For tests: uses the given kernels instead of the best ones for this machine.
  DepthwiseBlock(const std::optional<NeighborStep>& expand, const DepthwiseStep& depthwise,
                 const std::optional<NeighborStep>& project, Addition addition, int threads,
                 const convolution::Kernels& kernels);

  int out_channels() const { return project_ ? project_->out_channels : channels_; }
  int channels() const { return channels_; }  // Of the depthwise convolution.
  int in_channels() const { return expand_ ? expand_->in_channels : channels_; }
  Layout input() const { return expand_ ? expand_->input : Layout::kBlocked; }
  // Of the convolution before the depthwise one, and of that.
  const Window& expand_window() const { return expand_window_; }
  const Window& window() const { return window_; }

  // Returns the number of floats of scratch that run() needs, for an input of this size. It is bounded for images of
  // any height.
  std::size_t scratch_floats(int batch, int height, int width) const;

  // Runs the block; input and output are blocked. Results are the same for any number of threads.
  void run(const ConvCall& call, const ParallelFor& parallel_for) const;

 private:
  struct PlanarTaps;
  class Tile;

  // Throws std::invalid_argument if the image is smaller than a window.
  DepthwisePlan plan(int batch, int height, int width) const;

  // Projects pixels that lie one after the other in the output, from `pixel` on, and some blocks of its channels.
  // `input` has the pixels' blocks plan.middle_block apart. `enlarged` is memory for what is added.
  void project(const DepthwisePlan& plan, const ConvCall& call, int image, int pixel, int count, const float* input,
               int first_block, int blocks, float* enlarged) const;

  std::shared_ptr<const DirectWeights> expand_, project_;  // Or null.
  std::vector<float> expand_bias_, project_bias_;          // Empty if there is none.
  int channels_;
  Window expand_window_, window_;
  AlignedFloats weights_, bias_;  // (blocks, window height, window width, 16), (blocks, 16)
  Clamp expand_clamp_, clamp_, project_clamp_;
  Addition addition_;
  int threads_;
  const convolution::Kernels& kernels_;
};

}  // namespace retinasdk
