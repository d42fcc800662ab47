// The conversion from YUV to RGB, written once for the CPU and the GPU.
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

// Clips a value to 0..255.
RETINASDK_HOST_DEVICE_COLOR uint8_t to_byte(int value) {
  return static_cast<uint8_t>(value < 0 ? 0 : value > 255 ? 255 : value);
}

// Converts a pixel by ITU-R BT.601 with luma of 16 to 235, which cameras and hardware video decoders use. The
// coefficients are integers in units of 1/256, and the result is rounded to nearest.
RETINASDK_HOST_DEVICE_COLOR Rgb yuv_to_rgb(int luma, int blue_difference, int red_difference) {
  const int y = 298 * (luma - 16) + 128;
  const int u = blue_difference - 128;
  const int v = red_difference - 128;
  // Integer division rounds negative sums toward zero. That has no effect, because to_byte() clips them.
  return {{to_byte((y + 409 * v) / 256), to_byte((y - 100 * u - 208 * v) / 256), to_byte((y + 516 * u) / 256)}};
}

}  // namespace
}  // namespace retinasdk
