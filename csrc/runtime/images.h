// Images in host memory, in the pixel formats that cameras and decoders give. The counterpart of retinasdk/images.py.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "retinasdk/ops.h"

namespace retinasdk::runtime {

enum class ImageFormat { kRgb8, kBgr8, kGray8, kGray16, kNv12, kP010 };

struct Image {
  ImageFormat format;
  int height, width;
  const uint8_t* planes[2];
  std::ptrdiff_t row_bytes[2];  // 0: rows without gaps.
  ColorMatrix matrix;
  bool full_range;
};

// Returns the pixels of an image as RGB: the image's own, or converted ones in `converted`, which must outlive the
// view.
//
// Throws ImageError if the size is not supported, and std::invalid_argument if a plane is missing or a row too short.
ImageView as_rgb(const Image& image, std::vector<uint8_t>& converted);

}  // namespace retinasdk::runtime
