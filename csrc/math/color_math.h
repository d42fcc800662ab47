// The conversion from Y'CbCr to 8-bit R'G'B', written once for the CPU and the GPU.
#pragma once

#include <cstdint>

#include "retinasdk/pixel_format.h"

#ifdef __CUDACC__
#define RETINASDK_HOST_DEVICE_COLOR __host__ __device__ inline
#else
#define RETINASDK_HOST_DEVICE_COLOR inline
#endif

namespace retinasdk {
namespace {

// Note [Color arithmetic]
//
// The exact conversion is linear. With the weights Kr, Kg and Kb of the matrix, n bits per sample and video range,
//   y = (Y - 16 * 2^(n-8)) / (219 * 2^(n-8)),   b, r = (Cb, Cr - 2^(n-1)) / (224 * 2^(n-8)),
// in full range
//   y = Y / (2^n - 1),                          b, r = (Cb, Cr - 2^(n-1)) / (2^n - 1),
// and then
//   R = y + 2 (1 - Kr) r,   B = y + 2 (1 - Kb) b,   G = y - 2 Kb (1 - Kb) / Kg b - 2 Kr (1 - Kr) / Kg r.
//
// Here each coefficient is multiplied by 255 * 2^20 and rounded to an integer, so that sums fit into 32 bits. A sum is
// rounded once, to the nearest gray level with ties up, and clipped to 0..255. Samples of 10 bits keep all of them
// until then. The error of the coefficients adds up to less than 0.001 gray levels, so the result is that of the exact
// formula except for sums within 0.001 of a tie, where it may be the level on the other side of the tie.
//
// Chroma is not interpolated: a pair applies to its 2 x 2 pixels.
constexpr int kColorShift = 20;

struct Rgb {
  uint8_t channels[3];
};

// The conversion for one matrix, range and number of bits. See Note [Color arithmetic].
struct YuvToRgb {
  int32_t black, gray;  // Luma of black, and chroma of gray.
  int32_t luma, red_by_red, green_by_blue, green_by_red, blue_by_blue;
};

// The values of a sample. P010 stores 10 bits in the upper bits of 16.
RETINASDK_HOST_DEVICE_COLOR int32_t sample_value(uint8_t sample) { return sample; }
RETINASDK_HOST_DEVICE_COLOR int32_t sample_value(uint16_t sample) { return sample >> 6; }

RETINASDK_HOST_DEVICE_COLOR uint8_t to_gray_level(int32_t sum) {
  if (sum < 0) return 0;
  const int32_t level = sum >> kColorShift;
  return static_cast<uint8_t>(level > 255 ? 255 : level);
}

RETINASDK_HOST_DEVICE_COLOR Rgb yuv_to_rgb(const YuvToRgb& rule, int32_t y, int32_t blue, int32_t red) {
  const int32_t luma = rule.luma * (y - rule.black) + (1 << (kColorShift - 1));
  const int32_t b = blue - rule.gray;
  const int32_t r = red - rule.gray;
  return {{to_gray_level(luma + rule.red_by_red * r),
           to_gray_level(luma - rule.green_by_blue * b - rule.green_by_red * r),
           to_gray_level(luma + rule.blue_by_blue * b)}};
}

#ifndef __CUDACC_RTC__  // Coefficients are computed on the host.

// Returns the conversion for samples of `bits` bits, 8 or 10.
inline YuvToRgb yuv_to_rgb_rule(ColorMatrix matrix, bool full_range, int bits) {
  const bool is_709 = matrix == ColorMatrix::kBt709;
  const bool is_2020 = matrix == ColorMatrix::kBt2020;
  const double red = is_2020 ? 0.2627 : is_709 ? 0.2126 : 0.299;
  const double blue = is_2020 ? 0.0593 : is_709 ? 0.0722 : 0.114;
  const double green = 1.0 - red - blue;
  const int step = 1 << (bits - 8);
  const int highest = (1 << bits) - 1;
  const double unit = 255.0 * (1 << kColorShift);
  const double chroma = unit / (full_range ? highest : 224 * step);
  const auto rounded = [](double value) { return static_cast<int32_t>(value + 0.5); };
  return {full_range ? 0 : 16 * step,
          128 * step,
          rounded(unit / (full_range ? highest : 219 * step)),
          rounded(2 * (1 - red) * chroma),
          rounded(2 * blue * (1 - blue) / green * chroma),
          rounded(2 * red * (1 - red) / green * chroma),
          rounded(2 * (1 - blue) * chroma)};
}

#endif

}  // namespace
}  // namespace retinasdk
