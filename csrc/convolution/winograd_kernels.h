// The loops of the convolutions, once for each instruction set. winograd.cpp and pointwise.cpp call them.
#pragma once

#include <cstddef>

namespace retinasdk::winograd {

constexpr int kOutputTile = 6;  // a tile of 6 x 6 outputs
constexpr int kInputTile = 8;   // is made of 8 x 8 inputs,
constexpr int kPositions = 64;  // in as many positions of the transformed space.
constexpr int kLanes = 8;       // channels that go through a transform together
constexpr int kPanel = 16;      // output channels that the multiplication makes together
constexpr int kRows = 6;        // ... for so many tiles

struct Plane {
  int height, width, tile_columns, tiles;  // tiles of one image, row by row
};

// Tiles first to first + count, counted through all images, and where they lie in scratch: in groups of kRows tiles, so
// that the multiplication reads on and on.
struct TileBlock {
  Plane plane;
  int first, count;
  int channels;           // a multiple of kLanes
  std::ptrdiff_t stride;  // from one position to the next

  // Of channels channel to channel + 8 (a multiple of 8) of tile number i of the block, in a position.
  std::ptrdiff_t offset(int i, int channel) const {
    return static_cast<std::ptrdiff_t>(i / kRows) * kRows * channels + channel * kRows + i % kRows * kLanes;
  }
};

struct Kernels {
  // weights (16 or fewer of them, in_channels, 3, 3) to panel: position p, input channel i, output channel o at
  // p * panel_stride + i * 16 + o. Zeros behind the last output channel and, to padded_in, the last input channel.
  void (*transform_weights)(const float* weights, int out_channels, int in_channels, int padded_in, float* panel,
                            std::ptrdiff_t panel_stride);
  // Channels channel to channel + 8 of input (N, in_channels, height, width) to transformed.
  void (*transform_input)(const float* input, int in_channels, int channel, const TileBlock& block, float* transformed);
  // One position: products (tiles, 16 * panels) = tiles (tiles, in) * weights, which are panels of (in, 16).
  // They lie as `inputs` and `outputs` say.
  void (*multiply)(const float* tiles, const TileBlock& inputs, const float* weights, int panels, float* products,
                   const TileBlock& outputs);
  // Channels channel to channel + 8 of products to output (N, out_channels, height, width); bias may be null, else
  // has 8.
  void (*transform_output)(const float* products, int product_channel, const float* bias, bool relu,
                           const TileBlock& block, int out_channels, int channel, float* output);

  // For pointwise convolutions pixels take the place of tiles. Channels channel to channel + 8, pixels first to first +
  // count of input (in_channels, pixels) to where `block` puts them.
  void (*gather_pixels)(const float* input, std::ptrdiff_t pixels, int in_channels, int channel, std::ptrdiff_t first,
                        const TileBlock& block, float* to);
  // ... and from there to channels channel to channel + 8 of output (out_channels, pixels), with bias, residual, ReLU.
  // bias and residual, which lies as output does, may be null.
  void (*scatter_pixels)(const float* products, int product_channel, const float* bias, const float* residual,
                         bool relu, const TileBlock& block, std::ptrdiff_t pixels, int out_channels, int channel,
                         std::ptrdiff_t first, float* output);
};

extern const Kernels kPlainKernels;  // NEON on ARM64
#ifdef RETINASDK_WINOGRAD_AVX2
extern const Kernels kAvx2Kernels;
#endif

const Kernels& best_kernels();  // of those that this machine runs

}  // namespace retinasdk::winograd
