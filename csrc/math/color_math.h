// From YUV to RGB, written once for host and device.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define RETINASDK_HOST_DEVICE_COLOR __host__ __device__ inline
#else
#define RETINASDK_HOST_DEVICE_COLOR inline
#endif

namespace retinasdk {
namespace {

struct Rgb {
  uint8_t channels[3];
};

RETINASDK_HOST_DEVICE_COLOR uint8_t to_byte(int value) {
  return static_cast<uint8_t>(value < 0 ? 0 : value > 255 ? 255 : value);
}

// ITU-R BT.601, luma 16 to 235, as cameras and hardware decoders give it; the matrix in 1/256, rounded to nearest.
RETINASDK_HOST_DEVICE_COLOR Rgb yuv_to_rgb(int luma, int blue_difference, int red_difference) {
  const int y = 298 * (luma - 16) + 128;
  const int u = blue_difference - 128;
  const int v = red_difference - 128;
  // Negative sums are clipped anyway, so the division may round towards zero.
  return {{to_byte((y + 409 * v) / 256), to_byte((y - 100 * u - 208 * v) / 256), to_byte((y + 516 * u) / 256)}};
}

}  // namespace
}  // namespace retinasdk
