#include "convolution/int8_layout.h"

#include <algorithm>
#include <vector>

namespace retinasdk::int8 {
namespace {

constexpr std::size_t kMostPieces = 16;

std::size_t size(int value) { return static_cast<std::size_t>(value); }

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

void quantize_blocked(const float* numbers, Layout layout, int batch, int channels, std::size_t pixels, float scale,
                      int zero, uint8_t* codes, const ParallelFor& parallel_for, const Kernels& kernels) {
  const std::size_t blocks = size(blocks_of(channels)), images = size(batch) * blocks;
  const std::size_t step = (pixels / kMostPieces + kBlock) / kBlock * kBlock, parts = (pixels + step - 1) / step;
  parallel_for(images * parts, [&](std::size_t piece) {
    const std::size_t image = piece / parts, first = piece % parts * step;
    const std::size_t channel = image % blocks * kBlock, place = (image * pixels + first) * kBlock;
    const std::size_t count = std::min(step, pixels - first);
    if (layout == Layout::kBlocked) return kernels.quantize(numbers + place, count, scale, zero, codes + place);
    const float* planes[kBlock];
    for (std::size_t c = 0; c < kBlock; ++c) {
      const float* plane = numbers + (image / blocks * size(channels) + channel + c) * pixels + first;
      planes[c] = channel + c < size(channels) ? plane : nullptr;
    }
    kernels.quantize_planes(planes, count, scale, zero, codes + place);
  });
}

void codes_from_blocked(const uint8_t* blocked, int batch, int channels, std::size_t pixels, uint8_t* planar,
                        const ParallelFor& parallel_for) {
  const std::size_t blocks = size(blocks_of(channels));
  parallel_for(size(batch) * size(channels), [&](std::size_t piece) {
    const std::size_t image = piece / size(channels), channel = piece % size(channels);
    const uint8_t* from = blocked + (image * blocks + channel / kBlock) * pixels * kBlock + channel % kBlock;
    for (std::size_t i = 0; i < pixels; ++i) planar[piece * pixels + i] = from[i * kBlock];
  });
}

}  // namespace retinasdk::int8
