#include "convolution/int8_layout.h"

#include <algorithm>
#include <vector>

namespace retinasdk::int8 {
namespace {

constexpr std::size_t kMostPieces = 16;

std::size_t size(int value) { return static_cast<std::size_t>(value); }

// Calls work(image, block, first pixel, count of pixels) for parts of the pixels of all blocks.
template <typename Work>
void for_parts(std::size_t blocks, int batch, std::size_t pixels, const ParallelFor& parallel_for, const Work& work) {
  const std::size_t step = (pixels / kMostPieces + kBlock) / kBlock * kBlock, parts = (pixels + step - 1) / step;
  parallel_for(size(batch) * blocks * parts, [&](std::size_t piece) {
    const std::size_t block = piece / parts, first = piece % parts * step;
    work(block / blocks, block % blocks, first, std::min(step, pixels - first));
  });
}

}  // namespace

void add_codes(const SumCall& call, const CodeSum& sum, const ParallelFor& parallel_for, const Kernels& kernels) {
  const std::size_t row = size(call.width) * kBlock, rows = call.images * size(call.height);
  const std::size_t pieces = std::min(rows, kMostPieces);
  const bool same = call.height == call.added_height && call.width == call.added_width;
  const auto add = [&](const uint8_t* input, const uint8_t* added, std::size_t count, uint8_t* codes) {
    call.added_first ? kernels.add(added, input, count, sum, codes) : kernels.add(input, added, count, sum, codes);
  };
  parallel_for(pieces, [&](std::size_t piece) {
    const std::size_t begin = rows * piece / pieces, end = rows * (piece + 1) / pieces;
    if (same)
      return add(call.input + begin * row, call.added + begin * row, (end - begin) * row, call.codes + begin * row);
    std::vector<uint8_t> enlarged(row);
    std::size_t before = rows;  // The row of `added` that was enlarged last.
    for (std::size_t r = begin; r < end; ++r) {
      const std::size_t y = r % size(call.height) * size(call.added_height) / size(call.height);
      const std::size_t from = r / size(call.height) * size(call.added_height) + y;
      if (from != before) {
        const uint8_t* source = call.added + from * size(call.added_width) * kBlock;
        for (std::size_t x = 0; x < size(call.width); ++x) {
          const std::size_t pixel = x * size(call.added_width) / size(call.width);
          std::copy_n(source + pixel * kBlock, kBlock, enlarged.data() + x * kBlock);
        }
        before = from;
      }
      add(call.input + r * row, enlarged.data(), row, call.codes + r * row);
    }
  });
}

void max_pool(const uint8_t* blocked, std::size_t images, int height, int width, const Window& window, uint8_t* codes,
              const ParallelFor& parallel_for) {
  const int out_height = window.out_height(height), out_width = window.out_width(width);
  const std::size_t rows = images * size(out_height), pieces = std::min(rows, kMostPieces);
  const std::size_t in_row = size(width) * kBlock, out_row = size(out_width) * kBlock;
  const auto pool_row = [&](std::size_t r) {
    const int y = static_cast<int>(r % size(out_height)) * window.stride_y - window.top;
    const int top = std::max(0, y), bottom = std::min(height, y + window.height);
    const uint8_t* image = blocked + r / size(out_height) * size(height) * in_row;
    for (int x = 0; x < out_width; ++x) {
      const int first = x * window.stride_x - window.left;
      const int left = std::max(0, first), right = std::min(width, first + window.width);
      uint8_t largest[kBlock] = {};
      for (int row = top; row < bottom; ++row) {
        const uint8_t* from = image + size(row) * in_row + size(left) * kBlock;
        for (int column = left; column < right; ++column, from += kBlock) {
          for (int c = 0; c < kBlock; ++c) largest[c] = std::max(largest[c], from[c]);
        }
      }
      std::copy_n(largest, kBlock, codes + r * out_row + size(x) * kBlock);
    }
  };
  parallel_for(pieces, [&](std::size_t piece) {
    const std::size_t end = rows * (piece + 1) / pieces;
    for (std::size_t r = rows * piece / pieces; r < end; ++r) pool_row(r);
  });
}

void quantize_blocked(const float* numbers, Layout layout, int batch, int channels, std::size_t pixels, float scale,
                      int zero, uint8_t* codes, const ParallelFor& parallel_for, const Kernels& kernels) {
  const std::size_t blocks = size(blocks_of(channels));
  for_parts(blocks, batch, pixels, parallel_for,
            [&](std::size_t image, std::size_t block, std::size_t first, std::size_t count) {
              const std::size_t channel = block * kBlock, place = ((image * blocks + block) * pixels + first) * kBlock;
              if (layout == Layout::kBlocked)
                return kernels.quantize(numbers + place, count, scale, zero, codes + place);
              const float* planes[kBlock];
              for (std::size_t c = 0; c < kBlock; ++c) {
                const float* plane = numbers + (image * size(channels) + channel + c) * pixels + first;
                planes[c] = channel + c < size(channels) ? plane : nullptr;
              }
              kernels.quantize_planes(planes, count, scale, zero, codes + place);
            });
}

void codes_from_blocked(const uint8_t* blocked, int batch, int channels, std::size_t pixels, uint8_t* planar,
                        const ParallelFor& parallel_for, const Kernels& kernels) {
  const std::size_t blocks = size(blocks_of(channels));
  for_parts(blocks, batch, pixels, parallel_for,
            [&](std::size_t image, std::size_t block, std::size_t first, std::size_t count) {
              const std::size_t channel = block * kBlock;
              uint8_t* planes[kBlock];
              for (std::size_t c = 0; c < kBlock; ++c) {
                uint8_t* plane = planar + (image * size(channels) + channel + c) * pixels + first;
                planes[c] = channel + c < size(channels) ? plane : nullptr;
              }
              kernels.to_planes(blocked + ((image * blocks + block) * pixels + first) * kBlock, count, planes);
            });
}

}  // namespace retinasdk::int8
