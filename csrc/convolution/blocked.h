// The memory layout of the convolutions, and what all of them share.
//
// A blocked image is (batch, ceil(channels / 16), height, width, 16) float32: sixteen channels of a pixel lie together,
// as one vector. Channels that fill the last block up are zero. A planar image is (batch, channels, height, width), the
// layout of ONNX.
#pragma once

#include <cstddef>
#include <limits>
#include <stdexcept>
#include <string>

#include "convolution/convolution.h"

namespace retinasdk {

constexpr int kBlock = 16;  // Channels of a block.

// The number of blocks that hold some channels.
inline int blocks_of(int channels) { return (channels + kBlock - 1) / kBlock; }

// Returns how many channels of the last one of some blocks are not there.
inline int empty_lanes(int channels, int first_block, int blocks) {
  const int missing = (first_block + blocks) * kBlock - channels;
  return missing > 0 ? missing : 0;
}

enum class Layout { kPlanar, kBlocked };

// What is added to the result of a convolution before the activation. Always blocked, with the channels of the output.
enum class Addition {
  kNone,
  kSame,      // An image of the size of the output: the shortcut of a residual block.
  kUpsampled  // An image that is enlarged to the size of the output by the nearest neighbor, pixel (y, x) from
              // (y * its height / height, x * its width / width) rounded down: the way down of a feature pyramid.
};

// Limits each output to low..high: ReLU is 0..infinity, ReLU6 is 0..6. NaN stays NaN.
struct Clamp {
  float low = -std::numeric_limits<float>::infinity();
  float high = std::numeric_limits<float>::infinity();
};

// How a convolution walks over its input.
struct Window {
  int height = 1, width = 1;  // Of the kernel.
  int stride_y = 1, stride_x = 1;
  int top = 0, left = 0, bottom = 0, right = 0;  // Padding with zeros.

  int out_height(int in_height) const { return (in_height + top + bottom - height) / stride_y + 1; }
  int out_width(int in_width) const { return (in_width + left + right - width) / stride_x + 1; }
};

// Throws std::invalid_argument if a window does not fit into an image of this size.
inline void require_window(const Window& window, int height, int width) {
  if (window.stride_y < 1 || window.stride_x < 1) throw std::invalid_argument("strides must be at least 1");
  if (window.top < 0 || window.left < 0 || window.bottom < 0 || window.right < 0) {
    throw std::invalid_argument("padding must be at least 0");
  }
  if (height + window.top + window.bottom < window.height || width + window.left + window.right < window.width) {
    throw std::invalid_argument("an image of " + std::to_string(height) + " x " + std::to_string(width) +
                                " pixels is smaller than the window of " + std::to_string(window.height) + " x " +
                                std::to_string(window.width) + ", with its padding");
  }
}

// The images of one call. Arrays must not overlap.
struct ConvCall {
  int batch = 0, height = 0, width = 0;  // Of the input.
  const float* input = nullptr;
  const float* added = nullptr;  // Of the kind that the convolution was made for, or null.
  int added_height = 0, added_width = 0;
  float* output = nullptr;
  float* scratch = nullptr;  // As many floats as scratch_floats() returned; each concurrent call needs its own.
};

}  // namespace retinasdk
