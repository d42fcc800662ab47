// The Winograd convolution: divides the work into blocks of patches that stay in the cache, and into pieces for
// threads.
#include "convolution/winograd.h"

#include <algorithm>

#include "convolution/winograd_kernels.h"
#include "cpu/cpu_features.h"

namespace retinasdk {

using namespace winograd;

namespace {

// The size of a block is a compromise. All weights are read once per block, so it must not be too small. For each
// patch, a block keeps the input and product channels of 64 positions. These must stay in the shared cache, so it must
// not be too large.
constexpr int kBlockPatches = 96;
constexpr int kBlockChannels = 36 * 1024;  // Patches times channels.
constexpr int kProductChannels = 128;      // Output channels whose products are kept at a time.
// Floats of padding between two positions. Without it, the 64 values of a patch and channel would map to one cache set.
constexpr std::ptrdiff_t kSkew = 16;

#ifdef RETINASDK_WINOGRAD_AVX2
bool has_avx2_and_fma() {
  static const cpu::Features found = cpu::features();
  return found.avx2 && found.fma;
}
#endif

// How a convolution is divided into blocks.
struct Plan {
  Plane plane;
  int patches;        // Of all images.
  int block_patches;  // Of the largest block.
  int product_channels;
  std::ptrdiff_t input_stride, product_stride;  // From one position to the next in scratch.
};

Plan make_plan(const WinogradWeights& weights, int batch, int height, int width) {
  Plan plan{};
  const int columns = (width + kOutputPatch - 1) / kOutputPatch, rows = (height + kOutputPatch - 1) / kOutputPatch;
  plan.plane = {height, width, columns, rows * columns};
  plan.patches = batch * plan.plane.patches;
  plan.product_channels = std::min(weights.padded_out, kProductChannels);
  const int fit = std::min(kBlockPatches, kBlockChannels / (weights.padded_in + plan.product_channels));
  const int most = std::max(kRows, fit / kRows * kRows);
  const int blocks = (plan.patches + most - 1) / most;  // Of similar size, instead of one small block at the end.
  plan.block_patches = round_up((plan.patches + blocks - 1) / blocks, kRows);
  plan.input_stride = static_cast<std::ptrdiff_t>(plan.block_patches) * weights.padded_in + kSkew;
  plan.product_stride = static_cast<std::ptrdiff_t>(plan.block_patches) * plan.product_channels + kSkew;
  return plan;
}

}  // namespace

const Kernels& winograd::best_kernels() {
#ifdef RETINASDK_WINOGRAD_AVX2
  if (has_avx2_and_fma()) return kAvx2Kernels;
#endif
  return kPlainKernels;
}

WinogradWeights::WinogradWeights(const float* weights, int out_channels_, int in_channels_)
    : out_channels(out_channels_), in_channels(in_channels_) {
  require_channels(out_channels, in_channels);
  padded_out = round_up(out_channels, kPanel);
  padded_in = round_up(in_channels, kLanes);
  const std::ptrdiff_t stride = static_cast<std::ptrdiff_t>(padded_out) * padded_in;
  values = make_aligned(static_cast<std::size_t>(stride) * kPositions);
  for (int out = 0; out < out_channels; out += kPanel) {
    best_kernels().transform_weights(weights + static_cast<std::ptrdiff_t>(out) * in_channels * 9,
                                     std::min(kPanel, out_channels - out), in_channels, padded_in,
                                     values.get() + static_cast<std::ptrdiff_t>(out) * padded_in, stride);
  }
}

WinogradConv::WinogradConv(std::shared_ptr<const WinogradWeights> weights, const float* bias, bool relu)
    : WinogradConv(std::move(weights), bias, relu, best_kernels()) {}

WinogradConv::WinogradConv(std::shared_ptr<const WinogradWeights> weights, const float* bias, bool relu,
                           const Kernels& kernels)
    : weights_(std::move(weights)),
      bias_(padded_bias(bias, weights_->out_channels, weights_->padded_out)),
      relu_(relu),
      kernels_(kernels) {}

std::size_t WinogradConv::scratch_floats(int batch, int height, int width) const {
  const Plan plan = make_plan(*weights_, batch, height, width);
  return static_cast<std::size_t>(plan.input_stride + plan.product_stride) * kPositions + kAlignment / sizeof(float);
}

void WinogradConv::run(const float* input, int batch, int height, int width, float* output, float* scratch,
                       const ParallelFor& parallel_for) const {
  const WinogradWeights& weights = *weights_;
  const Plan plan = make_plan(weights, batch, height, width);
  float* const transformed = aligned(scratch);
  float* const products = transformed + plan.input_stride * kPositions;
  const std::ptrdiff_t weights_stride = static_cast<std::ptrdiff_t>(weights.padded_out) * weights.padded_in;
  for (int first = 0; first < plan.patches; first += plan.block_patches) {
    const int count = std::min(plan.block_patches, plan.patches - first);
    const PatchBlock inputs{plan.plane, first, count, weights.padded_in, plan.input_stride};
    parallel_for(static_cast<std::size_t>(weights.padded_in / kLanes), [&](std::size_t piece) {
      kernels_.transform_input(input, weights.in_channels, static_cast<int>(piece) * kLanes, inputs, transformed);
    });
    for (int out = 0; out < weights.out_channels; out += plan.product_channels) {
      const int channels = std::min(plan.product_channels, weights.padded_out - out);
      const PatchBlock outputs{plan.plane, first, count, plan.product_channels, plan.product_stride};
      parallel_for(kPositions, [&](std::size_t piece) {
        const auto position = static_cast<std::ptrdiff_t>(piece);
        kernels_.multiply(
            transformed + position * plan.input_stride, inputs,
            weights.values.get() + position * weights_stride + static_cast<std::ptrdiff_t>(out) * weights.padded_in,
            channels / kPanel, products + position * plan.product_stride, outputs);
      });
      const int real = std::min(channels, weights.out_channels - out);
      parallel_for(static_cast<std::size_t>((real + kLanes - 1) / kLanes), [&](std::size_t piece) {
        const int channel = static_cast<int>(piece) * kLanes;
        kernels_.transform_output(products, channel, bias_.empty() ? nullptr : bias_.data() + out + channel, relu_,
                                  outputs, weights.out_channels, out + channel, output);
      });
    }
  }
}

const char* winograd_simd_name() {
#if defined(__aarch64__)
  return "neon";
#else
  return &best_kernels() == &kPlainKernels ? "plain" : "avx2";
#endif
}

}  // namespace retinasdk
