// The conversion of camera and decoder frames to RGB on the CPU.
#include "cpu/kernels_cpu.h"
#include "math/color_math.h"

namespace retinasdk::cpu {
namespace {

template <typename Sample>
void convert(const YuvView& frame, const YuvToRgb& rule, uint8_t* rgb) {
  for (int y = 0; y < frame.height; ++y) {
    const auto* row = reinterpret_cast<const Sample*>(frame.luma + y * frame.luma_row_bytes);
    const auto* pairs = reinterpret_cast<const Sample*>(frame.chroma + y / 2 * frame.chroma_row_bytes);
    for (int x = 0; x < frame.width; ++x, rgb += 3) {
      const int pair = x / 2 * 2;
      const Rgb pixel =
          yuv_to_rgb(rule, sample_value(row[x]), sample_value(pairs[pair]), sample_value(pairs[pair + 1]));
      for (int c = 0; c < 3; ++c) rgb[c] = pixel.channels[c];
    }
  }
}

}  // namespace

void yuv_to_rgb(const YuvView& frame, uint8_t* rgb) {
  if (frame.format == PixelFormat::kNv12) {
    convert<uint8_t>(frame, yuv_to_rgb_rule(frame.matrix, frame.full_range, 8), rgb);
  } else {
    convert<uint16_t>(frame, yuv_to_rgb_rule(frame.matrix, frame.full_range, 10), rgb);
  }
}

}  // namespace retinasdk::cpu
