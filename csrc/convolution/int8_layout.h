// Changes of the layout of 8-bit codes, and what else a network does to codes between convolutions.
#pragma once

#include <cstddef>
#include <cstdint>

#include "convolution/blocked.h"
#include "convolution/int8_kernels.h"

namespace retinasdk::int8 {

// The sum of two blocked images of codes. If their sizes differ, `added` is enlarged to the size of `input` by the
// nearest neighbor, see Addition::kUpsampled. `images`: batch * blocks. `added_first`: `added` is `a` of the CodeSum.
struct SumCall {
  std::size_t images;
  int height, width, added_height, added_width;
  const uint8_t* input;
  const uint8_t* added;
  bool added_first;
  uint8_t* codes;
};
void add_codes(const SumCall& call, const CodeSum& sum, const ParallelFor& parallel_for,
               const Kernels& kernels = best_kernels());

// The largest code of each window, as ONNX's MaxPool: what lies outside is left out. `images`: batch * blocks. The
// window must be larger than its padding, and fit into the image.
void max_pool(const uint8_t* blocked, std::size_t images, int height, int width, const Window& window, uint8_t* codes,
              const ParallelFor& parallel_for);

// Float32 (batch, channels, pixels), planar or blocked, to blocked codes: round(number / scale) + zero, as ONNX's
// QuantizeLinear. NaN becomes code 0.
void quantize_blocked(const float* numbers, Layout layout, int batch, int channels, std::size_t pixels, float scale,
                      int zero, uint8_t* codes, const ParallelFor& parallel_for,
                      const Kernels& kernels = best_kernels());

// Blocked codes to planar ones.
void codes_from_blocked(const uint8_t* blocked, int batch, int channels, std::size_t pixels, uint8_t* planar,
                        const ParallelFor& parallel_for, const Kernels& kernels = best_kernels());

}  // namespace retinasdk::int8
