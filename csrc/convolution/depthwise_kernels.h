// The inner loop of depthwise convolutions: one row of one block of channels.
#pragma once

#include <cstddef>

#include "convolution/blocked.h"

namespace retinasdk::convolution {

constexpr int kLongestWindow = 31;  // Sides of a depthwise window.

// A row of outputs of 16 channels. Pixels lie one after the other, 16 floats each.
struct DepthwiseRow {
  int count;  // Output pixels.

  // The input of output pixel i, at tap (y, x), is at rows[y] + (i * stride + x) * 16. A row that is null lies outside
  // of the image and counts as zeros. Columns outside of the image must be there, as zeros.
  const float* const* rows;
  int height, width, stride;

  const float* weights;  // (height, width, 16)
  const float* bias;     // (16,)
  Clamp clamp;
  float* output;
};

struct DepthwiseKernels {
  // Each sum is taken in one fixed order, whatever the count, so that results do not depend on how pixels are divided.
  void (*row)(const DepthwiseRow& row);
};

}  // namespace retinasdk::convolution
