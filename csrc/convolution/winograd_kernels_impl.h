// The transforms of Winograd's F(6x6, 3x3) and F(4x4, 3x3): Lavin and Gray, "Fast Algorithms for Convolutional Neural
// Networks", 2016. F(6x6) interpolates at 0, 1, -1, 2, -2, 1/2, -1/2 and infinity, F(4x4) at 0, 1, -1, 2, -2 and
// infinity.
//
// A patch d of the input and a 3x3 kernel g give a patch of the output A' [(G g G') * (B' d B)] A, where `*` is the
// product element by element and ' is the transpose. d is larger than the patch of the output by one pixel on each
// side. The sum over the input channels is a matrix product for each of the 64 or 36 positions.
#pragma once

#include "convolution/layout_kernels_impl.h"
#include "convolution/vec16.h"
#include "convolution/winograd_kernels.h"

namespace retinasdk::convolution {
namespace {

RETINASDK_INLINE int least(int a, int b) { return a < b ? a : b; }

// -- input -----------------------------------------------------------------------------------------------------------

// Applies B' in place.
RETINASDK_INLINE void spread(Vec16 (&d)[8]) {
  const Vec16 d3 = broadcast(-2.5f) * d[3], half = broadcast(0.5f), two = broadcast(2.0f);
  const Vec16 t0 = fused(broadcast(5.25f), d[4] - d[2], d[0] - d[6]);
  const Vec16 t7 = fused(broadcast(5.25f), d[3] - d[5], d[7] - d[1]);
  const Vec16 even = fused(broadcast(-4.25f), d[4], d[2] + d[6]), odd = fused(broadcast(-4.25f), d[3], d[1] + d[5]);
  const Vec16 even2 = fused(broadcast(0.25f), d[2], fused(broadcast(-1.25f), d[4], d[6]));
  const Vec16 odd2 = fused(half, d[1], fused(two, d[5], d3));
  const Vec16 even3 = fused(broadcast(4.0f), d[2], fused(broadcast(-5.0f), d[4], d[6]));
  const Vec16 odd3 = fused(two, d[1], fused(half, d[5], d3));
  d[0] = t0;
  d[1] = even + odd;
  d[2] = even - odd;
  d[3] = even2 + odd2;
  d[4] = even2 - odd2;
  d[5] = even3 + odd3;
  d[6] = even3 - odd3;
  d[7] = t7;
}

RETINASDK_INLINE void spread(Vec16 (&d)[6]) {
  const Vec16 four = broadcast(4.0f), minus4 = broadcast(-4.0f), minus5 = broadcast(-5.0f), two = broadcast(2.0f);
  const Vec16 t0 = fused(four, d[0], fused(minus5, d[2], d[4]));
  const Vec16 t5 = fused(four, d[1], fused(minus5, d[3], d[5]));
  const Vec16 even = fused(minus4, d[2], d[4]), odd = fused(minus4, d[1], d[3]);
  const Vec16 even2 = d[4] - d[2], odd2 = d[3] - d[1];
  d[0] = t0;
  d[1] = even + odd;
  d[2] = even - odd;
  d[3] = fused(two, odd2, even2);
  d[4] = fused(broadcast(-2.0f), odd2, even2);
  d[5] = t5;
}

// Transforms one patch. Pixel (y, x) is at from + y * row + x * 16. What the next patch reads and writes is prefetched.
template <int Side>
RETINASDK_INLINE void transform_patch(const float* from, std::ptrdiff_t row, float* to, std::ptrdiff_t step) {
  alignas(64) float rows[Side][Side][kBlock];
  for (int y = 0; y < Side; ++y) {
    Vec16 d[Side];
    RETINASDK_UNROLL
    for (int x = 0; x < Side; ++x) d[x] = load(from + y * row + x * kBlock);
    // Processors do not foresee the many short lines of the next patch, to the right.
    RETINASDK_UNROLL
    for (int x = 2; x < Side; ++x) prefetch_to_read(from + y * row + (x + Side - 2) * kBlock);
    spread(d);
    RETINASDK_UNROLL
    for (int x = 0; x < Side; ++x) store(rows[y][x], d[x]);
  }
  for (int x = 0; x < Side; ++x) {
    Vec16 d[Side];
    RETINASDK_UNROLL
    for (int y = 0; y < Side; ++y) d[y] = load(rows[y][x]);
    spread(d);
    RETINASDK_UNROLL
    for (int y = 0; y < Side; ++y) {
      store(to + (y * Side + x) * step, d[y]);
      prefetch_to_write(to + (y * Side + x) * step + kBlock);
    }
  }
}

template <int Patch>
void transform_input_patches(const InputTransform& transform) {
  constexpr int kSide = Patch + 2;
  const Patches& patches = transform.patches;
  const std::ptrdiff_t row = static_cast<std::ptrdiff_t>(patches.width) * kBlock;
  for (int i = 0; i < patches.count; ++i) {
    const int image = (patches.first + i) / patches.image_count, patch = (patches.first + i) % patches.image_count;
    const int top = patch / patches.columns * Patch - 1, left = patch % patches.columns * Patch - 1;
    const float* from = transform.input + image * transform.image_step + top * row + left * kBlock;
    float* to = transform.values + i * kBlock;
    const int first_y = top < 0 ? 1 : 0, last_y = least(kSide, patches.height - top);
    const int first_x = left < 0 ? 1 : 0, last_x = least(kSide, patches.width - left);
    if (first_y == 0 && first_x == 0 && last_y == kSide && last_x == kSide) {
      transform_patch<kSide>(from, row, to, transform.position_step);
      continue;
    }
    alignas(64) float padded[kSide][kSide][kBlock] = {};
    for (int y = first_y; y < last_y; ++y) {
      for (int x = first_x; x < last_x; ++x) store(padded[y][x], load(from + y * row + x * kBlock));
    }
    transform_patch<kSide>(padded[0][0], kSide * kBlock, to, transform.position_step);
  }
}

// -- output ----------------------------------------------------------------------------------------------------------

// Applies A'.
RETINASDK_INLINE void gather(const Vec16 (&m)[8], Vec16 (&y)[6]) {
  const Vec16 even = m[1] + m[2], odd = m[1] - m[2], even2 = m[3] + m[4], odd2 = m[3] - m[4];
  const Vec16 even3 = m[5] + m[6], odd3 = m[5] - m[6];
  y[0] = (m[0] + even) + (even2 + even3);
  y[1] = fused(broadcast(2.0f), odd2, fused(broadcast(0.5f), odd3, odd));
  y[2] = fused(broadcast(4.0f), even2, fused(broadcast(0.25f), even3, even));
  y[3] = fused(broadcast(8.0f), odd2, fused(broadcast(0.125f), odd3, odd));
  y[4] = fused(broadcast(16.0f), even2, fused(broadcast(0.0625f), even3, even));
  y[5] = fused(broadcast(32.0f), odd2, fused(broadcast(0.03125f), odd3, odd + m[7]));
}

RETINASDK_INLINE void gather(const Vec16 (&m)[6], Vec16 (&y)[4]) {
  const Vec16 even = m[1] + m[2], odd = m[1] - m[2], even2 = m[3] + m[4], odd2 = m[3] - m[4];
  y[0] = (m[0] + even) + even2;
  y[1] = fused(broadcast(2.0f), odd2, odd);
  y[2] = fused(broadcast(4.0f), even2, even);
  y[3] = fused(broadcast(8.0f), odd2, odd + m[5]);
}

// Adds the pixels of an image, which may be smaller, to `columns` outputs from pixel (y, x) on.
RETINASDK_INLINE void add_pixels(const OutputTransform& transform, int image, int y, int x, int columns,
                                 float* values) {
  const Patches& patches = transform.patches;
  const auto from_y = static_cast<std::ptrdiff_t>(y) * transform.added_height / patches.height;
  const float* row = transform.added + image * transform.added_image_step + from_y * transform.added_width * kBlock;
  for (int i = 0; i < columns; ++i) {
    const auto from_x = static_cast<std::ptrdiff_t>(x + i) * transform.added_width / patches.width;
    store(values + i * kBlock, load(values + i * kBlock) + load(row + from_x * kBlock));
  }
}

template <int Patch>
void transform_output_patches(const OutputTransform& transform) {
  constexpr int kSide = Patch + 2;
  const Patches& patches = transform.patches;
  const std::ptrdiff_t step = transform.position_step;
  const std::ptrdiff_t pixels = static_cast<std::ptrdiff_t>(patches.height) * patches.width;
  const Vec16 bias = transform.bias == nullptr ? broadcast(0.0f) : load(transform.bias);
  const Vec16 low = broadcast(transform.clamp.low), high = broadcast(transform.clamp.high);
  for (int i = 0; i < patches.count; ++i) {
    const int image = (patches.first + i) / patches.image_count, patch = (patches.first + i) % patches.image_count;
    const int top = patch / patches.columns * Patch, left = patch % patches.columns * Patch;
    const int rows = least(Patch, patches.height - top), columns = least(Patch, patches.width - left);
    const float* from = transform.values + i * kBlock;
    alignas(64) float half[Patch][kSide][kBlock];
    for (int x = 0; x < kSide; ++x) {
      Vec16 m[kSide], y[Patch];
      RETINASDK_UNROLL
      for (int k = 0; k < kSide; ++k) {
        m[k] = load(from + (k * kSide + x) * step);
        prefetch_to_read(from + (k * kSide + x) * step + 2 * kBlock);
      }
      gather(m, y);
      RETINASDK_UNROLL
      for (int k = 0; k < Patch; ++k) store(half[k][x], y[k]);
    }
    for (int y = 0; y < rows; ++y) {
      Vec16 m[kSide], values[Patch];
      RETINASDK_UNROLL
      for (int k = 0; k < kSide; ++k) m[k] = load(half[y][k]);
      gather(m, values);
      RETINASDK_UNROLL
      for (int k = 0; k < Patch; ++k) values[k] = values[k] + bias;
      const std::ptrdiff_t at = static_cast<std::ptrdiff_t>(top + y) * patches.width + left;
      float* to = transform.output + image * transform.image_step;
      if (transform.planar_channels == 0 && transform.added == nullptr && columns == Patch) {
        RETINASDK_UNROLL
        for (int k = 0; k < Patch; ++k) {
          store(to + (at + k) * kBlock, clamped(low, high, values[k]));
          prefetch_to_write(to + (at + k + Patch) * kBlock);
        }
        continue;
      }
      alignas(64) float kept[Patch][kBlock];
      RETINASDK_UNROLL
      for (int k = 0; k < Patch; ++k) store(kept[k], values[k]);
      if (transform.added != nullptr) add_pixels(transform, image, top + y, left, columns, kept[0]);
      for (int k = 0; k < columns; ++k) {
        const Vec16 value = clamped(low, high, load(kept[k]));
        store(transform.planar_channels == 0 ? to + (at + k) * kBlock : kept[k], value);
      }
      for (int c = 0; c < transform.planar_channels; ++c) prefetch_to_write(to + at + c * pixels + 2 * Patch);
      if (transform.planar_channels != 0) scatter(kept[0], transform.planar_channels, columns, to + at, pixels);
    }
  }
}

void transform_winograd_input(int patch, const InputTransform& transform) {
  patch == 6 ? transform_input_patches<6>(transform) : transform_input_patches<4>(transform);
}

void transform_winograd_output(int patch, const OutputTransform& transform) {
  patch == 6 ? transform_output_patches<6>(transform) : transform_output_patches<4>(transform);
}

constexpr WinogradKernels kWinogradKernels{transform_winograd_input, transform_winograd_output};

}  // namespace
}  // namespace retinasdk::convolution
