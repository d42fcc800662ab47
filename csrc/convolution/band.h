// Copies a part of an image that may lie outside of it, for convolutions with padding.
#pragma once

#include <algorithm>
#include <cstddef>

namespace retinasdk::convolution {

// An image (planes, height, width, lanes), and a copy (planes, rows, row_pixels, lanes) of some of its rows and
// columns.
struct Band {
  int planes, height, width, lanes;
  int rows, row_pixels;

  std::size_t floats() const { return static_cast<std::size_t>(planes) * rows * row_pixels * lanes; }

  // Copies the rows from `top` on and so many columns from `left` on. Where they are not in the image, there are zeros.
  void copy(const float* image, int top, int left, int columns, float* to) const {
    const int first = std::clamp(-left, 0, columns), last = std::clamp(width - left, first, columns);
    const auto floats_of = [this](int pixels) { return static_cast<std::ptrdiff_t>(pixels) * lanes; };
    for (int plane = 0; plane < planes; ++plane, image += height * floats_of(width)) {
      for (int row = 0; row < rows; ++row, to += floats_of(row_pixels)) {
        const int y = top + row;
        if (y < 0 || y >= height) {
          std::fill_n(to, floats_of(columns), 0.0f);
          continue;
        }
        std::fill_n(to, floats_of(first), 0.0f);
        const float* from = image + (static_cast<std::ptrdiff_t>(y) * width + left + first) * lanes;
        std::copy_n(from, floats_of(last - first), to + floats_of(first));
        std::fill_n(to + floats_of(last), floats_of(columns - last), 0.0f);
      }
    }
  }
};

}  // namespace retinasdk::convolution
