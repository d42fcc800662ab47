// The inner loops of changes of the layout, of pooling and of addition. Blocked pixels are 16 floats apart.
#pragma once

#include <cstddef>

#include "convolution/blocked.h"

namespace retinasdk::convolution {

// The windows of one row of the output, in one block of channels.
struct PoolRow {
  const float* input;  // The first row of the input that lies in the image.
  int rows, width;     // The rows of the window that lie in the image.
  int kernel_x, stride_x, left;
  float* output;
  int out_width;
};

// Pixels first..first + count - 1 of a row of `width` pixels, in one block of channels. `added` is a row of
// `added_width` pixels that is enlarged by the nearest neighbor. The output may be the image.
struct AddRow {
  const float* image;  // Pixel `first`.
  const float* added;  // Pixel 0.
  int first, count, width, added_width;
  Clamp clamp;
  float* output;  // Pixel `first`.
};

struct LayoutKernels {
  // `count` pixels of one block. Pixel i of channel c is at planar + c * plane + i. There are 1 to 16 channels;
  // `gather` fills up with zeros.
  void (*gather)(const float* planar, std::ptrdiff_t plane, int channels, int count, float* blocked);
  void (*scatter)(const float* blocked, int channels, int count, float* planar, std::ptrdiff_t plane);
  void (*pool_row)(const PoolRow& row);
  void (*add_row)(const AddRow& row);
};

}  // namespace retinasdk::convolution
