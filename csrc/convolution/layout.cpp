#include "convolution/layout.h"

#include <algorithm>
#include <stdexcept>

#include "convolution/kernels.h"

namespace retinasdk {

namespace {

constexpr int kPieceFloats = 32 * 1024;  // In the image of a piece of work, about.

// Calls work(image, block, first pixel, count of pixels) for all blocks of a batch.
template <typename Work>
void for_pixels(int batch, int channels, std::ptrdiff_t pixels, const ParallelFor& parallel_for, const Work& work) {
  constexpr std::ptrdiff_t kPiecePixels = kPieceFloats / kBlock;
  const std::ptrdiff_t chunks = (pixels + kPiecePixels - 1) / kPiecePixels, blocks = blocks_of(channels);
  parallel_for(static_cast<std::size_t>(batch * blocks * chunks), [&](std::size_t piece) {
    const auto at = static_cast<std::ptrdiff_t>(piece);
    const std::ptrdiff_t first = at % chunks * kPiecePixels;
    work(static_cast<int>(at / chunks / blocks), static_cast<int>(at / chunks % blocks), first,
         static_cast<int>(std::min(kPiecePixels, pixels - first)));
  });
}

// Calls work(plane, first row, end row) for all blocks of a batch.
template <typename Work>
void for_rows(int batch, int channels, int height, int width, const ParallelFor& parallel_for, const Work& work) {
  const int rows = std::max(1, kPieceFloats / kBlock / std::max(1, width)), chunks = (height + rows - 1) / rows;
  const std::ptrdiff_t planes = static_cast<std::ptrdiff_t>(batch) * blocks_of(channels);
  parallel_for(static_cast<std::size_t>(planes * chunks), [&](std::size_t piece) {
    const auto at = static_cast<std::ptrdiff_t>(piece);
    const int first = static_cast<int>(at % chunks) * rows;
    work(at / chunks, first, std::min(height, first + rows));
  });
}

}  // namespace

void to_blocked(const float* planar, int batch, int channels, int height, int width, float* blocked,
                const ParallelFor& parallel_for, const convolution::Kernels& kernels) {
  const std::ptrdiff_t pixels = static_cast<std::ptrdiff_t>(height) * width, blocks = blocks_of(channels);
  const auto gather = kernels.layout.gather;
  for_pixels(batch, channels, pixels, parallel_for, [=](int image, int block, std::ptrdiff_t first, int count) {
    const int channel = block * kBlock;
    gather(planar + (static_cast<std::ptrdiff_t>(image) * channels + channel) * pixels + first, pixels,
           std::min(kBlock, channels - channel), count, blocked + ((image * blocks + block) * pixels + first) * kBlock);
  });
}

void from_blocked(const float* blocked, int batch, int channels, int height, int width, float* planar,
                  const ParallelFor& parallel_for, const convolution::Kernels& kernels) {
  const std::ptrdiff_t pixels = static_cast<std::ptrdiff_t>(height) * width, blocks = blocks_of(channels);
  const auto scatter = kernels.layout.scatter;
  for_pixels(batch, channels, pixels, parallel_for, [=](int image, int block, std::ptrdiff_t first, int count) {
    const int channel = block * kBlock;
    scatter(blocked + ((image * blocks + block) * pixels + first) * kBlock, std::min(kBlock, channels - channel), count,
            planar + (static_cast<std::ptrdiff_t>(image) * channels + channel) * pixels + first, pixels);
  });
}

void max_pool(const float* blocked, int batch, int channels, int height, int width, const Window& window, float* output,
              const ParallelFor& parallel_for, const convolution::Kernels& kernels) {
  require_window(window, height, width);
  if (window.top >= window.height || window.bottom >= window.height || window.left >= window.width ||
      window.right >= window.width) {
    throw std::invalid_argument("the padding of a pooling must be less than the window");
  }
  const int out_height = window.out_height(height), out_width = window.out_width(width);
  const auto pool_row = kernels.layout.pool_row;
  for_rows(batch, channels, out_height, out_width, parallel_for, [&](std::ptrdiff_t plane, int first, int end) {
    for (int y = first; y < end; ++y) {
      const int top = std::max(0, y * window.stride_y - window.top);
      const int bottom = std::min(height, y * window.stride_y - window.top + window.height);
      pool_row({blocked + (plane * height + top) * width * kBlock, bottom - top, width, window.width, window.stride_x,
                window.left, output + (plane * out_height + y) * out_width * kBlock, out_width});
    }
  });
}

void add_blocked(const float* image, int batch, int channels, int height, int width, Addition addition,
                 const float* added, int added_height, int added_width, Clamp clamp, float* output,
                 const ParallelFor& parallel_for, const convolution::Kernels& kernels) {
  if (addition == Addition::kSame) {
    added_height = height;
    added_width = width;
  }
  const auto add_row = kernels.layout.add_row;
  for_rows(batch, channels, height, width, parallel_for, [&](std::ptrdiff_t plane, int first, int end) {
    for (int y = first; y < end; ++y) {
      const std::ptrdiff_t at = (plane * height + y) * width * kBlock;
      const auto from = static_cast<std::ptrdiff_t>(y) * added_height / height;
      add_row({image + at, added + (plane * added_height + from) * added_width * kBlock, 0, width, width, added_width,
               clamp, output + at});
    }
  });
}

}  // namespace retinasdk
