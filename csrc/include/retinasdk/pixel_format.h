// How the pixels of an image are stored. Used by ops.h and by ops_cuda.h.
#pragma once

namespace retinasdk {

enum class PixelFormat {
  kInterleaved,  // uint8 (height, width, 3).
  // uint8 luma (height, width) and uint8 chroma (height / 2, width / 2, 2): Cb, then Cr. Height and width are even.
  kNv12,
  // The same planes in uint16, with 10 bits in the upper bits of each value. The lower 6 bits are ignored.
  kP010,
};

// The matrix between R'G'B' and Y'CbCr.
enum class ColorMatrix {
  kBt601,   // ITU-R BT.601: standard definition, JPEG and most cameras.
  kBt709,   // ITU-R BT.709: high definition.
  kBt2020,  // ITU-R BT.2020 with non-constant luminance: ultra high definition.
};

}  // namespace retinasdk
