// The inner loops of the convolutions. They are compiled once for each instruction set. winograd.cpp and pointwise.cpp
// call them.
//
// Papers on Winograd convolutions call the small squares that are transformed together "tiles". They are called patches
// here, because a tile in this project is a part of a large image.
#pragma once

#include <cstddef>

namespace retinasdk::winograd {

constexpr int kOutputPatch = 6;  // The side of a patch of the output.
constexpr int kInputPatch = 8;   // The side of the patch of the input that it is computed from.
constexpr int kPositions = 64;   // Values of a patch in the transformed space: kInputPatch * kInputPatch.
constexpr int kLanes = 8;        // Channels that are transformed together.
constexpr int kPanel = 16;       // Output channels that the multiplication computes together.
constexpr int kRows = 6;         // Patches that the multiplication computes together.

// One channel of one image, and its patches, which are numbered row by row.
struct Plane {
  int height, width;  // In pixels.
  int patch_columns;  // Patches per row.
  int patches;        // Patches in total.
};

// The patches `first` to first + count, numbered through all images, and their layout in scratch. They are stored in
// groups of kRows patches, so that the multiplication reads memory sequentially.
struct PatchBlock {
  Plane plane;
  int first, count;
  int channels;           // A multiple of kLanes.
  std::ptrdiff_t stride;  // From one position to the next.

  // Returns where the eight channels from `channel` (a multiple of 8) of patch i of the block begin, within a position.
  std::ptrdiff_t offset(int i, int channel) const {
    return static_cast<std::ptrdiff_t>(i / kRows) * kRows * channels + channel * kRows + i % kRows * kLanes;
  }
};

// The functions for one instruction set.
struct Kernels {
  // Transforms weights of shape (out_channels, in_channels, 3, 3), with at most 16 output channels, into a panel. The
  // value of position p, input channel i and output channel o is stored at p * panel_stride + i * 16 + o. The panel is
  // padded with zeros to 16 output channels and to padded_in input channels.
  void (*transform_weights)(const float* weights, int out_channels, int in_channels, int padded_in, float* panel,
                            std::ptrdiff_t panel_stride);
  // Transforms the eight channels from `channel` of input (N, in_channels, height, width).
  void (*transform_input)(const float* input, int in_channels, int channel, const PatchBlock& block,
                          float* transformed);
  // Multiplies one position: products (count, 16 * panels) = patches (count, in) * weights, which are panels of
  // (in, 16). `inputs` and `outputs` describe the layouts of `patches` and `products`.
  void (*multiply)(const float* patches, const PatchBlock& inputs, const float* weights, int panels, float* products,
                   const PatchBlock& outputs);
  // Transforms eight channels of products into the channels from `channel` of output (N, out_channels, height, width).
  // bias: (8,), or null.
  void (*transform_output)(const float* products, int product_channel, const float* bias, bool relu,
                           const PatchBlock& block, int out_channels, int channel, float* output);

  // For pointwise convolutions, where a pixel takes the place of a patch: copies the eight channels from `channel` and
  // the pixels from `first` of input (in_channels, pixels) to the layout of `block`.
  void (*gather_pixels)(const float* input, std::ptrdiff_t pixels, int in_channels, int channel, std::ptrdiff_t first,
                        const PatchBlock& block, float* to);
  // The reverse of gather_pixels: copies eight channels of products to output (out_channels, pixels), and applies the
  // bias, the residual and the ReLU. bias: (8,), or null. residual: of the shape of the output, or null.
  void (*scatter_pixels)(const float* products, int product_channel, const float* bias, const float* residual,
                         bool relu, const PatchBlock& block, std::ptrdiff_t pixels, int out_channels, int channel,
                         std::ptrdiff_t first, float* output);
};

extern const Kernels kPlainKernels;  // With NEON on ARM64.
#ifdef RETINASDK_WINOGRAD_AVX2
extern const Kernels kAvx2Kernels;
#endif

// Returns the fastest kernels that this machine supports.
const Kernels& best_kernels();

}  // namespace retinasdk::winograd
