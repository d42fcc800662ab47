// Pointwise convolution as a matrix product, in blocks of pixels that stay in the cache.
#include "convolution/pointwise.h"

#include <algorithm>

#include "convolution/winograd_kernels.h"

namespace retinasdk {

using namespace winograd;

namespace {

constexpr int kPiecePixels = 96;           // Pixels per piece of work. Their products stay in the L1 cache.
constexpr int kBlockFloats = 1024 * 1024;  // Floats in the input of a block. They stay in the shared cache.

// Returns the number of pixels of a block.
int block_pixels(const PointwiseWeights& weights, std::size_t pixels) {
  const int most = std::max(1, kBlockFloats / weights.padded_in / kPiecePixels) * kPiecePixels;
  return pixels < static_cast<std::size_t>(most) ? round_up(static_cast<int>(pixels), kPiecePixels) : most;
}

}  // namespace

PointwiseWeights::PointwiseWeights(const float* weights, int out_channels_, int in_channels_)
    : out_channels(out_channels_), in_channels(in_channels_) {
  require_channels(out_channels, in_channels);
  padded_out = round_up(out_channels, kPanel);
  padded_in = round_up(in_channels, kLanes);
  const auto count = static_cast<std::size_t>(padded_out) * static_cast<std::size_t>(padded_in);
  values = make_aligned(count);
  std::fill(values.get(), values.get() + count, 0.0f);
  for (int out = 0; out < out_channels; ++out) {
    float* to = values.get() + static_cast<std::ptrdiff_t>(out / kPanel) * kPanel * padded_in + out % kPanel;
    const float* from = weights + static_cast<std::ptrdiff_t>(out) * in_channels;
    for (int in = 0; in < in_channels; ++in) to[in * kPanel] = from[in];
  }
}

PointwiseConv::PointwiseConv(std::shared_ptr<const PointwiseWeights> weights, const float* bias, bool relu)
    : PointwiseConv(std::move(weights), bias, relu, best_kernels()) {}

PointwiseConv::PointwiseConv(std::shared_ptr<const PointwiseWeights> weights, const float* bias, bool relu,
                             const Kernels& kernels)
    : weights_(std::move(weights)),
      bias_(padded_bias(bias, weights_->out_channels, weights_->padded_out)),
      relu_(relu),
      kernels_(kernels) {}

std::size_t PointwiseConv::scratch_floats(std::size_t pixels) const {
  const auto block = static_cast<std::size_t>(block_pixels(*weights_, pixels));
  return block * static_cast<std::size_t>(weights_->padded_in) + kAlignment / sizeof(float);
}

void PointwiseConv::run(const float* input, const float* residual, int batch, std::size_t pixels, float* output,
                        float* scratch, const ParallelFor& parallel_for) const {
  const PointwiseWeights& weights = *weights_;
  const int block = block_pixels(weights, pixels);
  const auto plane = static_cast<std::ptrdiff_t>(pixels);
  float* const gathered = aligned(scratch);
  for (int image = 0; image < batch; ++image) {
    const float* from = input + plane * image * weights.in_channels;
    const std::ptrdiff_t done = plane * image * weights.out_channels;
    for (std::ptrdiff_t first = 0; first < plane; first += block) {
      const int count = static_cast<int>(std::min<std::ptrdiff_t>(block, plane - first));
      const PatchBlock inputs{{}, 0, count, weights.padded_in, 0};
      parallel_for(static_cast<std::size_t>(weights.padded_in / kLanes), [&](std::size_t piece) {
        kernels_.gather_pixels(from, plane, weights.in_channels, static_cast<int>(piece) * kLanes, first, inputs,
                               gathered);
      });
      parallel_for(static_cast<std::size_t>((count + kPiecePixels - 1) / kPiecePixels), [&](std::size_t piece) {
        const int start = static_cast<int>(piece) * kPiecePixels, some = std::min(kPiecePixels, count - start);
        const PatchBlock piece_inputs{{}, 0, some, weights.padded_in, 0}, piece_outputs{{}, 0, some, kPanel, 0};
        alignas(kAlignment) float products[kPiecePixels * kPanel];
        for (int channel = 0; channel < weights.out_channels; channel += kLanes) {
          if (channel % kPanel == 0) {
            kernels_.multiply(gathered + inputs.offset(start, 0), piece_inputs,
                              weights.values.get() + static_cast<std::ptrdiff_t>(channel) * weights.padded_in, 1,
                              products, piece_outputs);
          }
          kernels_.scatter_pixels(products, channel % kPanel, bias_.empty() ? nullptr : bias_.data() + channel,
                                  residual == nullptr ? nullptr : residual + done, relu_, piece_outputs, plane,
                                  weights.out_channels, channel, first + start, output + done);
        }
      });
    }
  }
}

}  // namespace retinasdk
