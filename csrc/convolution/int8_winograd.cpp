#include "convolution/int8_winograd.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <stdexcept>
#include <utility>

namespace retinasdk::int8 {
namespace {

constexpr int kPatch = 4;  // Outputs on each side of a patch.
constexpr int kSide = kPatch + 2, kPositions = kSide * kSide;
constexpr int kMostPieces = 16;
constexpr int kTile = 6;                        // Patches that the kernels multiply best at once.
constexpr std::size_t kStripBytes = 384 << 10;  // Of a strip's scratch: it should stay in the second-level cache.

// The outputs are computed modulo 2^32, multiplied by 2^6 at most. So they must be within 2^25.
constexpr int kMostWeights = (1 << 25) / 255 - 1;  // The sum of the weights of an output without their signs.

std::size_t size(int value) { return static_cast<std::size_t>(value); }

// Lavin and Gray's G with rows that are multiplied by 4, 6, 6, 24, 24 and 1, so that they are whole numbers.
constexpr int kWeightTransform[kSide][3] = {{1, 0, 0}, {-1, -1, -1}, {-1, 1, -1}, {1, 2, 4}, {1, -2, 4}, {0, 0, 1}};

std::vector<int16_t> transformed(const std::vector<int16_t>& weights) {
  std::vector<int16_t> made(weights.size() / 9 * kPositions);
  for (std::size_t n = 0; n < weights.size() / 9; ++n) {
    const int16_t* from = weights.data() + n * 9;
    for (int i = 0; i < kSide; ++i) {
      for (int j = 0; j < kSide; ++j) {
        int sum = 0;
        for (int y = 0; y < 3; ++y) {
          for (int x = 0; x < 3; ++x) sum += kWeightTransform[i][y] * kWeightTransform[j][x] * from[y * 3 + x];
        }
        made[n * kPositions + size(i * kSide + j)] = static_cast<int16_t>(sum);
      }
    }
  }
  return made;
}

// How one call is divided: strips of patches, which are numbered row by row and image by image.
struct Strips {
  int out_height, out_width;
  int high, wide;          // Patches of one image.
  int patches, per_strip;  // Of the batch.
  int count, pieces;
  std::size_t input_bytes, bytes;

  Strips(const Window& window, const PackedWeights& weights, int batch, int height, int width)
      : out_height(window.out_height(height)), out_width(window.out_width(width)) {
    high = (out_height + kPatch - 1) / kPatch;
    wide = (out_width + kPatch - 1) / kPatch;
    patches = batch * high * wide;
    const int most_blocks = *std::max_element(weights.groups.begin(), weights.groups.end());
    const std::size_t input = size(kPositions * blocks_of(weights.in_channels) * kBlock) * sizeof(int16_t);
    const std::size_t sums = size(kPositions * most_blocks * kBlock) * sizeof(int32_t);
    const int wanted = round_up((patches + kMostPieces - 1) / kMostPieces, kTile);
    const int most = static_cast<int>(kStripBytes / (input + sums)) / kTile * kTile;
    per_strip = std::min(std::max(wanted, 2 * kTile), std::max(most, kTile));
    count = (patches + per_strip - 1) / per_strip;
    pieces = std::min(count, kMostPieces);
    input_bytes = input * size(per_strip);
    bytes = input_bytes + sums * size(per_strip);
  }
};

}  // namespace

bool WinogradWeights::fits(const float* weights, int out, int in, const Kernels* kernels) {
  if (kernels == nullptr) return false;
  const std::vector<int16_t> whole = whole_numbers(weights, out, in, 3, 3);
  for (int o = 0; o < out; ++o) {
    int sum = 0;
    for (int i = 0; i < in * 9; ++i) sum += std::abs(whole[size(o) * size(in) * 9 + size(i)]);
    if (sum > kMostWeights) return false;
  }
  return true;
}

WinogradWeights::WinogradWeights(const float* weights, int out, int in, const Kernels& with)
    : WinogradWeights(whole_numbers(weights, out, in, 3, 3), out, in, with) {}

WinogradWeights::WinogradWeights(const std::vector<int16_t>& whole, int out, int in, const Kernels& with)
    : PackedWeights(transformed(whole), out, in, kSide, kSide, with) {
  height = width = 3;
  std::fill(channel_sums.begin(), channel_sums.end(), 0);
  for (std::size_t i = 0; i < whole.size(); ++i) channel_sums[i / (size(in) * 9)] += whole[i];
}

bool WinogradConv::fits(const Window& window) {
  const auto small = [](int padding) { return padding >= 0 && padding < 3; };
  return window.height == 3 && window.width == 3 && window.stride_y == 1 && window.stride_x == 1 && small(window.top) &&
         small(window.left) && small(window.bottom) && small(window.right);
}

WinogradConv::WinogradConv(std::shared_ptr<const WinogradWeights> weights, const Window& window,
                           const Rounding& rounding)
    : weights_(std::move(weights)),
      window_(window),
      multipliers_(rounding.multipliers, rounding.multipliers + weights_->out_channels),
      in_zero_(rounding.in_zero),
      limits_(rounding.limits) {
  if (!fits(window)) throw std::invalid_argument("a Winograd convolution must be 3x3 with a stride of 1");
  start_ = weights_->starts(rounding.in_zero, rounding.bias);
  multipliers_.resize(start_.size());
}

std::size_t WinogradConv::scratch_bytes(int batch, int height, int width) const {
  const Strips strips(window_, *weights_, batch, height, width);
  return size(strips.pieces) * strips.bytes;
}

void WinogradConv::run(const CodesCall& call, const ParallelFor& parallel_for) const {
  const Kernels& kernels = weights_->kernels;
  const Strips strips(window_, *weights_, call.batch, call.height, call.width);
  const int in_blocks = blocks_of(in_channels()), out_blocks = blocks_of(out_channels());
  const std::ptrdiff_t in_row = static_cast<std::ptrdiff_t>(call.width) * kBlock, in_block = in_row * call.height;
  const std::ptrdiff_t out_row = static_cast<std::ptrdiff_t>(strips.out_width) * kBlock;
  const std::ptrdiff_t out_block = out_row * strips.out_height;
  const std::vector<int32_t> zeros(size(kMostBlocks * kBlock));
  const std::ptrdiff_t only_tap = 0;

  const auto do_strip = [&](int first, int count, uint8_t* scratch) {
    const auto place_of = [&](int patch) {  // Of the image, and of the first output.
      const int within = patch % (strips.high * strips.wide);
      return std::array<int, 3>{patch / (strips.high * strips.wide), within / strips.wide * kPatch,
                                within % strips.wide * kPatch};
    };
    const std::ptrdiff_t vector = kBlock * static_cast<int>(sizeof(int16_t));
    const std::ptrdiff_t block_step = vector * count, position_step = block_step * in_blocks;
    for (int p = 0; p < count; ++p) {
      const auto [image, out_y, out_x] = place_of(first + p);
      const int y = out_y - window_.top, x = out_x - window_.left;
      const uint8_t* from = call.input + image * in_blocks * in_block;
      const bool inside = y >= 0 && x >= 0 && y + kSide <= call.height && x + kSide <= call.width;
      for (int b = 0; b < in_blocks; ++b, from += in_block) {
        uint8_t* to = scratch + b * block_step + p * vector;
        if (inside) {
          kernels.winograd_input(from + y * in_row + x * kBlock, in_row, to, position_step);
          continue;
        }
        uint8_t padded[kPositions * kBlock];
        std::memset(padded, in_zero_, sizeof padded);
        const int begin = std::max(x, 0), end = std::min(x + kSide, call.width);
        for (int i = std::max(y, 0); i < std::min(y + kSide, call.height); ++i) {
          if (begin >= end) break;
          std::memcpy(padded + ((i - y) * kSide + begin - x) * kBlock, from + i * in_row + begin * kBlock,
                      size(end - begin) * kBlock);
        }
        kernels.winograd_input(padded, kSide * kBlock, to, position_step);
      }
    }

    auto* sums = reinterpret_cast<int32_t*>(scratch + strips.input_bytes);
    Product product{};
    product.count = count;
    product.in_pixel_step = vector;
    product.in_block_step = block_step;
    product.groups = groups_of(in_channels(), kernels);
    product.taps = &only_tap;
    product.tap_count = 1;
    product.start = zeros.data();
    int block = 0;
    for (std::size_t g = 0; g < weights_->groups.size(); block += weights_->groups[g++]) {
      product.blocks = weights_->groups[g];
      product.sums_step = product.blocks * kBlock;
      const std::ptrdiff_t sums_of_position = product.sums_step * count;
      const std::ptrdiff_t weights_of_position =
          static_cast<std::ptrdiff_t>(product.groups) * product.blocks * kVectorBytes;
      for (int position = 0; position < kPositions; ++position) {
        product.input = scratch + position * position_step;
        product.weights = weights_->values.data() + weights_->offsets[g] + position * weights_of_position;
        product.sums = sums + position * sums_of_position;
        kernels.multiply(product);
      }
      for (int p = 0; p < count; ++p) {
        const auto [image, y, x] = place_of(first + p);
        const int rows = std::min(kPatch, strips.out_height - y), columns = std::min(kPatch, strips.out_width - x);
        for (int b = 0; b < product.blocks; ++b) {
          const int at = (block + b) * kBlock;
          uint8_t codes[kPatch * kPatch * kBlock];
          kernels.winograd_output(sums + p * product.sums_step + b * kBlock, sums_of_position, start_.data() + at,
                                  multipliers_.data() + at, limits_, codes);
          uint8_t* to = call.codes + (image * out_blocks + block + b) * out_block + y * out_row + x * kBlock;
          for (int row = 0; row < rows; ++row) {
            std::memcpy(to + row * out_row, codes + row * kPatch * kBlock, size(columns) * kBlock);
          }
        }
      }
    }
  };
  parallel_for(size(strips.pieces), [&](std::size_t piece) {
    const auto share = [&](std::size_t of) { return static_cast<int>(size(strips.count) * of / size(strips.pieces)); };
    for (int strip = share(piece); strip < share(piece + 1); ++strip) {
      const int first = strip * strips.per_strip;
      do_strip(first, std::min(strips.per_strip, strips.patches - first), call.scratch + piece * strips.bytes);
    }
  });
}

}  // namespace retinasdk::int8
