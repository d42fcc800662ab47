// The inner loop of all convolutions: pixels times a matrix of weights, in the blocked layout.
#pragma once

#include <cstddef>

#include "convolution/blocked.h"

namespace retinasdk::convolution {

// One product. All steps are in floats. Arrays need no alignment, but lines of 64 bytes are faster.
struct Product {
  int count;  // Pixels.

  // Block b of the input of pixel i, at tap t, is at input + taps[t] + b * in_block_step + i * in_pixel_step.
  const float* input;
  std::ptrdiff_t in_pixel_step, in_block_step;
  int in_blocks;
  const std::ptrdiff_t* taps;
  int tap_count;  // At least 1.

  // (out_blocks, tap_count, in_blocks, 16 in, 16 out), without gaps.
  const float* weights;
  int out_blocks;

  // Block b of pixel i of the output is at output + b * out_block_step + i * out_pixel_step.
  float* output;
  std::ptrdiff_t out_pixel_step, out_block_step;

  const float* bias;   // (out_blocks, 16), or null.
  const float* added;  // Added before the clamp; null: nothing. Its steps:
  std::ptrdiff_t added_pixel_step, added_block_step;
  Clamp clamp;

  // Channels of the last block of the input and of the output that are not there. The former are not multiplied. The
  // latter become 0, and are not multiplied where that is faster.
  int empty_lanes = 0, empty_outputs = 0;

  bool is_far = false;  // The input is not in the nearest caches, so it is prefetched.
};

struct MultiplyKernels {
  // Each sum is taken in one fixed order, whatever the count, so that results do not depend on how pixels are divided.
  void (*multiply)(const Product& product);
  // The same for blocks of a single channel: the input is planar, and the weights are (out_blocks, tap_count,
  // in_blocks, 16 out).
  void (*multiply_planar)(const Product& product);
};

}  // namespace retinasdk::convolution
