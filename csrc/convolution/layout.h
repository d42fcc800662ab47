// Changes of the layout of images, and what else a network does to blocked images between convolutions. Float32.
#pragma once

#include "convolution/blocked.h"

namespace retinasdk {

namespace convolution {
struct Kernels;
const Kernels& best_kernels();  // See kernels.h. Tests give others.
}  // namespace convolution

// Planar (batch, channels, height, width) to blocked, filled up with zeros, and back.
void to_blocked(const float* planar, int batch, int channels, int height, int width, float* blocked,
                const ParallelFor& parallel_for, const convolution::Kernels& kernels = convolution::best_kernels());
void from_blocked(const float* blocked, int batch, int channels, int height, int width, float* planar,
                  const ParallelFor& parallel_for, const convolution::Kernels& kernels = convolution::best_kernels());

// The largest value of each window, as ONNX's MaxPool: what lies outside is left out. NaN, too. Throws
// std::invalid_argument if a window is larger than the image, or lies outside of it.
void max_pool(const float* blocked, int batch, int channels, int height, int width, const Window& window, float* output,
              const ParallelFor& parallel_for, const convolution::Kernels& kernels = convolution::best_kernels());

// The sum of two blocked images, limited. `added` is of the kind `addition` (kSame or kUpsampled).
void add_blocked(const float* image, int batch, int channels, int height, int width, Addition addition,
                 const float* added, int added_height, int added_width, Clamp clamp, float* output,
                 const ParallelFor& parallel_for, const convolution::Kernels& kernels = convolution::best_kernels());

}  // namespace retinasdk
