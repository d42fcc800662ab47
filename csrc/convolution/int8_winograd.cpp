#include "convolution/int8_winograd.h"

#include <algorithm>
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

// One call. Transformed pixels of a strip are (36, in blocks, patches, 16), and the sums of a group of output blocks
// are (36, patches, blocks, 16).
class WinogradConv::Run {
 public:
  Run(const WinogradConv& conv, const CodesCall& call)
      : conv_(conv),
        weights_(*conv.weights_),
        kernels_(weights_.kernels),
        call_(call),
        strips_(conv.window_, weights_, call.batch, call.height, call.width),
        in_blocks_(blocks_of(conv.in_channels())),
        in_row_(static_cast<std::ptrdiff_t>(call.width) * kBlock),
        out_row_(static_cast<std::ptrdiff_t>(strips_.out_width) * kBlock) {}

  std::size_t pieces() const { return size(strips_.pieces); }

  void do_piece(std::size_t piece) const {
    const auto share = [&](std::size_t of) { return static_cast<int>(size(strips_.count) * of / pieces()); };
    for (int strip = share(piece); strip < share(piece + 1); ++strip) {
      const int first = strip * strips_.per_strip;
      do_strip(first, std::min(strips_.per_strip, strips_.patches - first), call_.scratch + piece * strips_.bytes);
    }
  }

 private:
  static constexpr std::ptrdiff_t kVector = kBlock * sizeof(int16_t);  // Transformed pixels, in bytes.

  struct Place {
    int image, y, x;  // Of the first output of a patch.
  };

  Place place_of(int patch) const {
    const int per_image = strips_.high * strips_.wide, within = patch % per_image;
    return {patch / per_image, within / strips_.wide * kPatch, within % strips_.wide * kPatch};
  }

  void do_strip(int first, int count, uint8_t* scratch) const {
    for (int p = 0; p < count; ++p) read_patch(place_of(first + p), count, scratch + p * kVector);
    auto* sums = reinterpret_cast<int32_t*>(scratch + strips_.input_bytes);
    int block = 0;
    for (std::size_t g = 0; g < weights_.groups.size(); block += weights_.groups[g++]) {
      multiply(g, count, scratch, sums);
      const int blocks = weights_.groups[g];
      for (int p = 0; p < count; ++p) {
        for (int b = 0; b < blocks; ++b) {
          write_patch(place_of(first + p), block + b, sums + (p * blocks + b) * kBlock, count * blocks * kBlock);
        }
      }
    }
  }

  void read_patch(const Place& place, int count, uint8_t* to) const {
    const int y = place.y - conv_.window_.top, x = place.x - conv_.window_.left;
    const bool inside = y >= 0 && x >= 0 && y + kSide <= call_.height && x + kSide <= call_.width;
    const std::ptrdiff_t in_block = in_row_ * call_.height, block_step = kVector * count;
    const uint8_t* block = call_.input + place.image * in_blocks_ * in_block;
    for (int b = 0; b < in_blocks_; ++b, block += in_block, to += block_step) {
      if (inside) {
        kernels_.winograd_input(block + y * in_row_ + x * kBlock, in_row_, to, block_step * in_blocks_);
      } else {
        uint8_t padded[kPositions * kBlock];
        copy_with_padding(block, y, x, padded);
        kernels_.winograd_input(padded, kSide * kBlock, to, block_step * in_blocks_);
      }
    }
  }

  // Copies 6 x 6 pixels of a block from (y, x) on, which may lie outside of the image.
  void copy_with_padding(const uint8_t* block, int y, int x, uint8_t* to) const {
    std::memset(to, conv_.in_zero_, kPositions * kBlock);
    const int left = std::max(x, 0), right = std::min(x + kSide, call_.width);
    if (left >= right) return;
    for (int row = std::max(y, 0); row < std::min(y + kSide, call_.height); ++row) {
      std::memcpy(to + ((row - y) * kSide + left - x) * kBlock, block + row * in_row_ + left * kBlock,
                  size(right - left) * kBlock);
    }
  }

  void multiply(std::size_t group, int count, const uint8_t* transformed, int32_t* sums) const {
    constexpr int32_t kZeros[kMostBlocks * kBlock] = {};
    constexpr std::ptrdiff_t kOnlyTap = 0;
    Product product{};
    product.count = count;
    product.in_pixel_step = kVector;
    product.in_block_step = kVector * count;
    product.groups = groups_of(conv_.in_channels(), kernels_);
    product.taps = &kOnlyTap;
    product.tap_count = 1;
    product.start = kZeros;
    product.blocks = weights_.groups[group];
    product.sums_step = product.blocks * kBlock;
    product.input = transformed;
    product.sums = sums;
    product.weights = weights_.values.data() + weights_.offsets[group];
    for (int position = 0; position < kPositions; ++position) {
      kernels_.multiply(product);
      product.input += product.in_block_step * in_blocks_;
      product.sums += product.sums_step * count;
      product.weights += static_cast<std::ptrdiff_t>(product.groups) * product.blocks * kVectorBytes;
    }
  }

  // Writes the outputs of a patch, less those outside of the image, of one block.
  void write_patch(const Place& place, int block, const int32_t* sums, std::ptrdiff_t position_step) const {
    uint8_t codes[kPatch * kPatch * kBlock];
    kernels_.winograd_output(sums, position_step, conv_.start_.data() + block * kBlock,
                             conv_.multipliers_.data() + block * kBlock, conv_.limits_, codes);
    const std::ptrdiff_t images = place.image * blocks_of(conv_.out_channels()) + block;
    uint8_t* to = call_.codes + (images * strips_.out_height + place.y) * out_row_ + place.x * kBlock;
    const int columns = std::min(kPatch, strips_.out_width - place.x);
    for (int row = 0; row < std::min(kPatch, strips_.out_height - place.y); ++row) {
      std::memcpy(to + row * out_row_, codes + row * kPatch * kBlock, size(columns) * kBlock);
    }
  }

  const WinogradConv& conv_;
  const WinogradWeights& weights_;
  const Kernels& kernels_;
  const CodesCall& call_;
  const Strips strips_;
  const int in_blocks_;
  const std::ptrdiff_t in_row_, out_row_;
};

void WinogradConv::run(const CodesCall& call, const ParallelFor& parallel_for) const {
  const Run run(*this, call);
  parallel_for(run.pieces(), [&](std::size_t piece) { run.do_piece(piece); });
}

}  // namespace retinasdk::int8
