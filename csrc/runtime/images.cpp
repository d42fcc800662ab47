#include "runtime/images.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

#include "runtime/errors.h"

namespace retinasdk::runtime {
namespace {

constexpr int64_t kMaxPixels = 178'956'970;  // As in Python.
constexpr int kMaxSide = 1 << 16;

void check_size(const Image& image) {
  const std::string size = std::to_string(image.width) + " x " + std::to_string(image.height);
  if (image.height < 1 || image.width < 1) throw ImageError("image must have at least 1 x 1 pixels, got " + size);
  const int64_t pixels = int64_t{1} * image.height * image.width;
  if (pixels > kMaxPixels || std::max(image.height, image.width) > kMaxSide) {
    throw ImageError("image must have at most 178,956,970 pixels and at most 65,536 on each side, got " + size +
                     "; cut it into parts");
  }
}

// Returns the distance between rows of a plane, whose rows have `needed` bytes.
std::ptrdiff_t checked_rows(const Image& image, int plane, std::ptrdiff_t needed) {
  const std::string name = "plane " + std::to_string(plane) + " of the image";
  if (image.planes[plane] == nullptr) throw std::invalid_argument(name + " must not be null");
  const std::ptrdiff_t given = image.row_bytes[plane] == 0 ? needed : image.row_bytes[plane];
  if (image.height > 1 && std::abs(given) < needed) {
    throw std::invalid_argument("row_bytes of " + name + " must be at least " + std::to_string(needed) +
                                " bytes from row to row, got " + std::to_string(given));
  }
  return given;
}

// Fills a row of RGB from pixels of `kBytes` bytes. `kFirst` is the place of red, and `kStep` that of the next color.
template <int kBytes, int kFirst, int kStep>
void convert_row(const uint8_t* pixels, int width, uint8_t* rgb) {
  for (int x = 0; x < width; ++x, pixels += kBytes) {
    for (int c = 0; c < 3; ++c) *rgb++ = pixels[kFirst + c * kStep];
  }
}

void convert_gray16_row(const uint8_t* pixels, int width, uint8_t* rgb) {
  for (int x = 0; x < width; ++x, pixels += 2) {
    uint16_t value = 0;
    std::memcpy(&value, pixels, sizeof value);
    for (int c = 0; c < 3; ++c) *rgb++ = static_cast<uint8_t>(value >> 8);
  }
}

}  // namespace

ImageView as_rgb(const Image& image, std::vector<uint8_t>& converted) {
  check_size(image);
  const std::ptrdiff_t width = image.width;
  if (image.format == ImageFormat::kRgb8) {
    return {image.planes[0], image.height, image.width, checked_rows(image, 0, width * 3)};
  }
  converted.resize(static_cast<size_t>(image.height) * static_cast<size_t>(width) * 3);
  const ImageView view{converted.data(), image.height, image.width, width * 3};
  if (image.format == ImageFormat::kNv12 || image.format == ImageFormat::kP010) {
    const bool is_nv12 = image.format == ImageFormat::kNv12;
    const std::ptrdiff_t needed = width * (is_nv12 ? 1 : 2);
    yuv_to_rgb(
        {is_nv12 ? PixelFormat::kNv12 : PixelFormat::kP010, image.planes[0], checked_rows(image, 0, needed),
         image.planes[1], checked_rows(image, 1, needed), image.height, image.width, image.matrix, image.full_range},
        converted.data());
    return view;
  }
  const bool is_bgr = image.format == ImageFormat::kBgr8;
  const bool is_gray8 = image.format == ImageFormat::kGray8;
  const std::ptrdiff_t row_bytes = checked_rows(image, 0, width * (is_bgr ? 3 : is_gray8 ? 1 : 2));
  const auto convert = is_bgr ? convert_row<3, 2, -1> : is_gray8 ? convert_row<1, 0, 0> : convert_gray16_row;
  for (int y = 0; y < image.height; ++y) {
    convert(image.planes[0] + y * row_bytes, image.width, converted.data() + y * width * 3);
  }
  return view;
}

}  // namespace retinasdk::runtime
