// The size of what a convolution or pooling makes of an image.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

#include "onnxruntime/ort_call.h"

namespace retinasdk::ort {

inline int size_of(int64_t size) { return static_cast<int>(size); }

// Returns the image behind a window, without pixels if `image` has none. Throws std::invalid_argument if the window is
// larger than the padded image, or the result too large.
inline Image behind(const Window& window, const Image& image, Layout layout, int channels) {
  const auto side = [](int64_t size, int before, int after, int kernel, int stride) -> int64_t {
    if (size == 0) return 0;
    const int64_t room = size + before + after - kernel;
    return room < 0 ? -1 : room / stride + 1;
  };
  const int64_t height = side(image.height, window.top, window.bottom, window.height, window.stride_y);
  const int64_t width = side(image.width, window.left, window.right, window.width, window.stride_x);
  if (height < 0 || width < 0 || !pixels_fit(image.batch, height, width) ||
      !pixels_fit(image.batch, int64_t{image.height} + window.top + window.bottom,
                  int64_t{image.width} + window.left + window.right)) {
    throw std::invalid_argument("an image of " + std::to_string(image.height) + " x " + std::to_string(image.width) +
                                " pixels, padded, must be at least as large as the kernel, " +
                                std::to_string(window.height) + " x " + std::to_string(window.width) +
                                ", and have at most 2147483647 pixels" + kOpenDirect);
  }
  return {layout, image.batch, channels, size_of(height), size_of(width)};
}

}  // namespace retinasdk::ort
