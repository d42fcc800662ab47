// The transforms of Winograd convolutions, one block of channels at a time.
#pragma once

#include <cstddef>

#include "convolution/blocked.h"

namespace retinasdk::convolution {

// Some patches of a batch of images, counted row by row and image after image. The patches of the output do not
// overlap; those of the input are larger by one pixel on each side.
struct Patches {
  int height, width;         // Of an image.
  int columns, image_count;  // Patches of a row, and of an image.
  int first, count;
};

// What a transform reads or writes in the transformed space: position p of patch i of a block of channels is at
// values + p * position_step + i * 16. Steps are in floats.
struct InputTransform {
  Patches patches;
  const float* input;  // The block of channels of the first image.
  std::ptrdiff_t image_step;
  float* values;
  std::ptrdiff_t position_step;
};

struct OutputTransform {
  Patches patches;
  const float* values;
  std::ptrdiff_t position_step;
  const float* bias;   // (16,), or null.
  const float* added;  // The block of channels of the first image, of size added_height x added_width, or null.
  std::ptrdiff_t added_image_step;
  int added_height, added_width;
  Clamp clamp;
  float* output;  // The block of channels of the first image, or its first channel.
  std::ptrdiff_t image_step;
  int planar_channels;  // The number of channels if the output is planar, otherwise 0.
};

struct WinogradKernels {
  // patch: 6 or 4, the side of a patch of the output.
  void (*transform_input)(int patch, const InputTransform& transform);
  void (*transform_output)(int patch, const OutputTransform& transform);
};

}  // namespace retinasdk::convolution
