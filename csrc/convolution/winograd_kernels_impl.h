// Winograd's F(6x6, 3x3): Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2016, with the
// interpolation points 0, 1, -1, 2, -2, 1/2, -1/2 and infinity.
//
// An 8 x 8 patch d of the input and a 3 x 3 kernel g give the 6 x 6 outputs A' [(G g G') * (B' d B)] A, where `*` is
// the product element by element and ' is the transpose. The sum over the input channels is a matrix product for each
// of the 64 positions. This takes 64 multiplications instead of 324.
//
// Fused multiply-adds are allowed here: the parity contract covers pre- and post-processing, not the network.
//
// Each winograd_<instruction set>.cpp includes this file once and exports kKernels under a name of its own.
#include <cstring>

#include "convolution/vec8.h"
#include "convolution/winograd_kernels.h"

#if defined(__GNUC__)
#define RETINASDK_UNROLL _Pragma("GCC unroll 8")
#else
#define RETINASDK_UNROLL
#endif

namespace retinasdk::winograd {
namespace {

// -- weights ---------------------------------------------------------------------------------------------------------

using Lanes = double[kPanel];  // One value per output channel of a panel. Compilers vectorize the loops over it.

// Applies G: the three values of a row or column of a kernel become eight positions.
inline void expand(const Lanes& a, const Lanes& b, const Lanes& c, Lanes (&u)[kInputPatch]) {
  for (int o = 0; o < kPanel; ++o) {
    u[0][o] = a[o];
    const double even = -2.0 / 9.0 * (a[o] + c[o]), odd = -2.0 / 9.0 * b[o];
    u[1][o] = even + odd;
    u[2][o] = even - odd;
    const double even2 = (a[o] + 4.0 * c[o]) * (1.0 / 90.0), odd2 = b[o] * (2.0 / 90.0);
    u[3][o] = even2 + odd2;
    u[4][o] = even2 - odd2;
    const double even3 = (32.0 * a[o] + 8.0 * c[o]) * (1.0 / 45.0), odd3 = b[o] * (16.0 / 45.0);
    u[5][o] = even3 + odd3;
    u[6][o] = even3 - odd3;
    u[7][o] = c[o];
  }
}

void transform_weights(const float* weights, int out_channels, int in_channels, int padded_in, float* panel,
                       std::ptrdiff_t panel_stride) {
  for (int i = 0; i < padded_in; ++i) {
    Lanes kernel[3][3] = {}, columns[3][kInputPatch], row[kInputPatch];
    for (int o = 0; o < out_channels && i < in_channels; ++o) {
      const float* from = weights + (static_cast<std::ptrdiff_t>(o) * in_channels + i) * 9;
      for (int at = 0; at < 9; ++at) kernel[at / 3][at % 3][o] = from[at];
    }
    for (int x = 0; x < 3; ++x) expand(kernel[0][x], kernel[1][x], kernel[2][x], columns[x]);
    for (int y = 0; y < kInputPatch; ++y) {
      expand(columns[0][y], columns[1][y], columns[2][y], row);
      for (int x = 0; x < kInputPatch; ++x) {
        float* to = panel + (y * kInputPatch + x) * panel_stride + i * kPanel;
        for (int o = 0; o < kPanel; ++o) to[o] = static_cast<float>(row[x][o]);
      }
    }
  }
}

// -- input -----------------------------------------------------------------------------------------------------------

// Applies B' in place.
inline void spread(Vec8 (&d)[8]) {
  const Vec8 c525 = broadcast(5.25f), c425 = broadcast(-4.25f), c125 = broadcast(-1.25f), c25 = broadcast(-2.5f);
  const Vec8 quarter = broadcast(0.25f), half = broadcast(0.5f), two = broadcast(2.0f), four = broadcast(4.0f);
  const Vec8 t0 = fused(c525, d[4] - d[2], d[0] - d[6]);
  const Vec8 t7 = fused(c525, d[3] - d[5], d[7] - d[1]);
  const Vec8 even = fused(c425, d[4], d[2] + d[6]), odd = fused(c425, d[3], d[1] + d[5]);
  const Vec8 even2 = fused(quarter, d[2], fused(c125, d[4], d[6]));
  const Vec8 odd2 = fused(half, d[1], fused(two, d[5], c25 * d[3]));
  const Vec8 even3 = fused(four, d[2], fused(broadcast(-5.0f), d[4], d[6]));
  const Vec8 odd3 = fused(two, d[1], fused(half, d[5], c25 * d[3]));
  d[0] = t0;
  d[1] = even + odd;
  d[2] = even - odd;
  d[3] = even2 + odd2;
  d[4] = even2 - odd2;
  d[5] = even3 + odd3;
  d[6] = even3 - odd3;
  d[7] = t7;
}

// Transforms one patch of eight channels. Row y of channel c begins at from + c * plane + y * row.
inline void transform_patch(const float* from, std::ptrdiff_t plane, std::ptrdiff_t row, float* to,
                            std::ptrdiff_t stride) {
  Vec8 rows[kInputPatch][kInputPatch];
  for (int y = 0; y < kInputPatch; ++y) {
    for (int c = 0; c < kLanes; ++c) rows[y][c] = load(from + c * plane + y * row);
    transpose(rows[y]);  // Now indexed [y][x], and the lanes are channels.
    spread(rows[y]);
  }
  for (int x = 0; x < kInputPatch; ++x) {
    Vec8 column[kInputPatch];
    for (int y = 0; y < kInputPatch; ++y) column[y] = rows[y][x];
    spread(column);
    for (int y = 0; y < kInputPatch; ++y) store(to + (y * kInputPatch + x) * stride, column[y]);
  }
}

inline int smaller(int a, int b) { return a < b ? a : b; }

void transform_input(const float* input, int in_channels, int channel, const PatchBlock& block, float* transformed) {
  const Plane& plane = block.plane;
  const std::ptrdiff_t plane_size = static_cast<std::ptrdiff_t>(plane.height) * plane.width;
  const int channels = smaller(kLanes, in_channels - channel);
  for (int i = 0; i < block.count; ++i) {
    const int image = (block.first + i) / plane.patches, patch = (block.first + i) % plane.patches;
    const int top = patch / plane.patch_columns * kOutputPatch - 1,
              left = patch % plane.patch_columns * kOutputPatch - 1;
    const float* from = input + (static_cast<std::ptrdiff_t>(image) * in_channels + channel) * plane_size;
    float* to = transformed + block.offset(i, channel);
    const bool inside = channels == kLanes && top >= 0 && left >= 0 && top + kInputPatch <= plane.height &&
                        left + kInputPatch <= plane.width;
    if (inside) {
      transform_patch(from + static_cast<std::ptrdiff_t>(top) * plane.width + left, plane_size, plane.width, to,
                      block.stride);
      continue;
    }
    float padded[kLanes][kInputPatch][kInputPatch] = {};
    const int first_y = top < 0 ? 1 : 0, last_y = smaller(kInputPatch, plane.height - top);
    const int first_x = left < 0 ? 1 : 0, last_x = smaller(kInputPatch, plane.width - left);
    for (int c = 0; c < channels; ++c) {
      for (int y = first_y; y < last_y; ++y) {
        std::memcpy(&padded[c][y][first_x],
                    from + c * plane_size + static_cast<std::ptrdiff_t>(top + y) * plane.width + left + first_x,
                    sizeof(float) * static_cast<std::size_t>(last_x - first_x));
      }
    }
    transform_patch(&padded[0][0][0], kPositions, kInputPatch, to, block.stride);
  }
}

// -- product ---------------------------------------------------------------------------------------------------------

// Computes `Rows` patches times sixteen output channels. The sums stay in registers over all input channels.
template <int Rows>
inline void multiply_rows(const float* patches, const float* weights, int in, float* products) {
  Vec8 sums[Rows][2];
  for (int r = 0; r < Rows; ++r) sums[r][0] = sums[r][1] = broadcast(0.0f);
  for (int block = 0; block < in; block += kLanes, patches += kRows * kLanes, weights += kLanes * kPanel) {
    RETINASDK_UNROLL
    for (int i = 0; i < kLanes; ++i) {
      const Vec8 low = load(weights + i * kPanel), high = load(weights + i * kPanel + kLanes);
      for (int r = 0; r < Rows; ++r) {
        const Vec8 value = broadcast(patches[r * kLanes + i]);
        sums[r][0] = fused(value, low, sums[r][0]);
        sums[r][1] = fused(value, high, sums[r][1]);
      }
    }
  }
  for (int r = 0; r < Rows; ++r) {
    store(products + r * kLanes, sums[r][0]);
    store(products + (kRows + r) * kLanes, sums[r][1]);
  }
}

void multiply(const float* patches, const PatchBlock& inputs, const float* weights, int panels, float* products,
              const PatchBlock& outputs) {
  const int in = inputs.channels;
  const std::ptrdiff_t panel_size = static_cast<std::ptrdiff_t>(in) * kPanel;
  for (int panel = 0; panel < panels; ++panel, weights += panel_size) {
    for (int t = 0; t < inputs.count; t += kRows) {
      const float* from = patches + inputs.offset(t, 0);
      float* to = products + outputs.offset(t, panel * kPanel);
      // The weights of the next panel are not in the cache. A part of them is prefetched with each group of patches.
      const std::ptrdiff_t wanted = panel_size + panel_size * (t + kRows) / inputs.count;
      for (std::ptrdiff_t ahead = panel_size + panel_size * t / inputs.count; ahead < wanted; ahead += kPanel) {
        prefetch(weights + ahead);
      }
      switch (smaller(kRows, inputs.count - t)) {
        case 1:
          multiply_rows<1>(from, weights, in, to);
          break;
        case 2:
          multiply_rows<2>(from, weights, in, to);
          break;
        case 3:
          multiply_rows<3>(from, weights, in, to);
          break;
        case 4:
          multiply_rows<4>(from, weights, in, to);
          break;
        case 5:
          multiply_rows<5>(from, weights, in, to);
          break;
        default:
          multiply_rows<kRows>(from, weights, in, to);
          break;
      }
    }
  }
}

// -- output ----------------------------------------------------------------------------------------------------------

// Applies A': eight positions become six outputs.
inline void gather(const Vec8 (&m)[8], Vec8 (&y)[6]) {
  const Vec8 even = m[1] + m[2], odd = m[1] - m[2], even2 = m[3] + m[4], odd2 = m[3] - m[4];
  const Vec8 even3 = m[5] + m[6], odd3 = m[5] - m[6];
  y[0] = (m[0] + even) + (even2 + even3);
  y[1] = fused(broadcast(2.0f), odd2, fused(broadcast(0.5f), odd3, odd));
  y[2] = fused(broadcast(4.0f), even2, fused(broadcast(0.25f), even3, even));
  y[3] = fused(broadcast(8.0f), odd2, fused(broadcast(0.125f), odd3, odd));
  y[4] = fused(broadcast(16.0f), even2, fused(broadcast(0.0625f), even3, even));
  y[5] = fused(broadcast(32.0f), odd2, fused(broadcast(0.03125f), odd3, odd + m[7]));
}

void transform_output(const float* products, int product_channel, const float* bias, bool relu, const PatchBlock& block,
                      int out_channels, int channel, float* output) {
  const Plane& plane = block.plane;
  const std::ptrdiff_t plane_size = static_cast<std::ptrdiff_t>(plane.height) * plane.width;
  const int channels = smaller(kLanes, out_channels - channel);
  const Vec8 zero = broadcast(0.0f);
  const Vec8 offset = bias == nullptr ? zero : load(bias);
  for (int i = 0; i < block.count; ++i) {
    const int image = (block.first + i) / plane.patches, patch = (block.first + i) % plane.patches;
    const int top = patch / plane.patch_columns * kOutputPatch, left = patch % plane.patch_columns * kOutputPatch;
    const int rows = smaller(kOutputPatch, plane.height - top), columns = smaller(kOutputPatch, plane.width - left);
    const float* from = products + block.offset(i, product_channel);
    float* to = output + (static_cast<std::ptrdiff_t>(image) * out_channels + channel) * plane_size +
                static_cast<std::ptrdiff_t>(top) * plane.width + left;
    Vec8 half[kOutputPatch][kInputPatch];  // Indexed [y][position in x]. The lanes are channels.
    for (int x = 0; x < kInputPatch; ++x) {
      Vec8 m[kInputPatch], y[kOutputPatch];
      for (int k = 0; k < kInputPatch; ++k) m[k] = load(from + (k * kInputPatch + x) * block.stride);
      gather(m, y);
      for (int k = 0; k < kOutputPatch; ++k) half[k][x] = y[k];
    }
    for (int y = 0; y < rows; ++y) {
      Vec8 values[kOutputPatch], lines[kLanes];
      gather(half[y], values);
      for (int x = 0; x < kOutputPatch; ++x) lines[x] = values[x] + offset;
      // A NaN stays NaN, because larger() then returns its second operand.
      for (int x = 0; x < kOutputPatch && relu; ++x) lines[x] = larger(zero, lines[x]);
      lines[6] = lines[7] = zero;
      transpose(lines);  // Now one line of six outputs per channel.
      for (int c = 0; c < channels; ++c) {
        float* line = to + c * plane_size + static_cast<std::ptrdiff_t>(y) * plane.width;
        if (columns == kOutputPatch) {
          store_six(line, lines[c]);
        } else {
          float kept[kLanes];
          store(kept, lines[c]);
          std::memcpy(line, kept, sizeof(float) * static_cast<std::size_t>(columns));
        }
      }
    }
  }
}

// -- pointwise -------------------------------------------------------------------------------------------------------

void gather_pixels(const float* input, std::ptrdiff_t pixels, int in_channels, int channel, std::ptrdiff_t first,
                   const PatchBlock& block, float* to) {
  const int channels = smaller(kLanes, in_channels - channel);
  const float* from = input + channel * pixels + first;
  for (int i = 0; i < block.count; i += kLanes) {
    const int count = smaller(kLanes, block.count - i);
    Vec8 lines[kLanes];
    if (channels == kLanes && count == kLanes) {
      for (int c = 0; c < kLanes; ++c) lines[c] = load(from + c * pixels + i);
    } else {
      float padded[kLanes][kLanes] = {};
      for (int c = 0; c < channels; ++c) {
        std::memcpy(padded[c], from + c * pixels + i, sizeof(float) * static_cast<std::size_t>(count));
      }
      for (int c = 0; c < kLanes; ++c) lines[c] = load(padded[c]);
    }
    transpose(lines);  // Now one pixel per vector, and the lanes are channels.
    for (int k = 0; k < count; ++k) store(to + block.offset(i + k, channel), lines[k]);
  }
}

void scatter_pixels(const float* products, int product_channel, const float* bias, const float* residual, bool relu,
                    const PatchBlock& block, std::ptrdiff_t pixels, int out_channels, int channel, std::ptrdiff_t first,
                    float* output) {
  const int channels = smaller(kLanes, out_channels - channel);
  const Vec8 zero = broadcast(0.0f), offset = bias == nullptr ? zero : load(bias);
  for (int i = 0; i < block.count; i += kLanes) {
    const int count = smaller(kLanes, block.count - i);
    Vec8 lines[kLanes];
    for (int k = 0; k < kLanes; ++k) {
      lines[k] = k < count ? load(products + block.offset(i + k, product_channel)) + offset : zero;
    }
    transpose(lines);  // Now one channel per vector, and the lanes are pixels.
    for (int c = 0; c < channels; ++c) {
      const std::ptrdiff_t at = (channel + c) * pixels + first + i;
      float kept[kLanes] = {};
      const bool whole = count == kLanes;
      Vec8 line = lines[c];
      if (residual != nullptr) {
        if (!whole) std::memcpy(kept, residual + at, sizeof(float) * static_cast<std::size_t>(count));
        line = line + load(whole ? residual + at : kept);
      }
      if (relu) line = larger(zero, line);
      store(whole ? output + at : kept, line);
      if (!whole) std::memcpy(output + at, kept, sizeof(float) * static_cast<std::size_t>(count));
    }
  }
}

constexpr Kernels kKernels{transform_weights, transform_input, multiply,
                           transform_output,  gather_pixels,   scatter_pixels};

}  // namespace
}  // namespace retinasdk::winograd
