#include "convolution/int8_conv.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>

namespace retinasdk::int8 {
namespace {

constexpr int kMostProduct = 255 * 128;  // Of a code minus its zero, and a weight.
constexpr int kHighUnit = 128;           // Of the high half of a weight in 15 bits, in units of the low half.
constexpr int kMostUnits = 16319;        // 127 high units and 63 more.
constexpr std::size_t kMostPieces = 16;
constexpr std::size_t kStripBytes = 192 << 10;  // Of a strip of the input, which should stay in the second-level cache.

std::size_t size(int value) { return static_cast<std::size_t>(value); }

// How one call is divided: strips of rows of each image. Piece p of `pieces` does the strips of its share.
struct Strips {
  int out_height, out_width;
  bool copied;  // Whether strips of the input are copied, with their padding. Else the input is read where it is.
  int rows;     // Of the output, per strip.
  int per_image, count;
  int copied_rows, copied_width;
  std::size_t bytes;  // Of a copied strip.
  std::size_t pieces;

  Strips(const Window& window, int in_blocks, int batch, int height, int width)
      : out_height(window.out_height(height)), out_width(window.out_width(width)) {
    copied = window.height * window.width > 1 || window.top + window.left + window.bottom + window.right > 0 ||
             window.stride_y * window.stride_x > 1;
    copied_width = (out_width - 1) * window.stride_x + window.width;
    const int wanted =
        std::max(1, (batch * out_height + static_cast<int>(kMostPieces) - 1) / static_cast<int>(kMostPieces));
    rows = std::min(wanted, out_height);
    if (copied) {
      const std::size_t row = size(in_blocks) * size(copied_width) * kBlock;
      const auto most = static_cast<int>(std::min<std::size_t>(kStripBytes / row, size(height)));
      rows = std::max(1, std::min(rows, (most - window.height) / window.stride_y + 1));
    }
    copied_rows = (rows - 1) * window.stride_y + window.height;
    per_image = (out_height + rows - 1) / rows;
    count = batch * per_image;
    bytes = copied ? size(in_blocks) * size(copied_rows) * size(copied_width) * kBlock : 0;
    bytes = (bytes + kAlignment - 1) / kAlignment * kAlignment;
    pieces = std::min(size(count), kMostPieces);
  }

  // Calls do_strip(piece, strip) for each strip.
  template <typename Function>
  void for_each(const ParallelFor& parallel_for, const Function& do_strip) const {
    parallel_for(pieces, [&](std::size_t piece) {
      const std::size_t end = size(count) * (piece + 1) / pieces;
      for (std::size_t strip = size(count) * piece / pieces; strip < end; ++strip)
        do_strip(piece, static_cast<int>(strip));
    });
  }
};

// The input of one strip, as the kernels read it.
struct Source {
  const uint8_t* first;
  std::ptrdiff_t pixel_step, row_step, block_step;  // Of outputs, of outputs, of input blocks.
  std::vector<std::ptrdiff_t> taps;
};

// Copies rows of the input and fills in the padding.
void copy_strip(const CodesCall& call, const Strips& strips, const Window& window, int in_blocks, int zero, int image,
                int first_row, uint8_t* to) {
  const int top = first_row * window.stride_y - window.top;
  const std::size_t row_bytes = size(strips.copied_width) * kBlock;
  const int from = std::min(window.left, strips.copied_width);
  const int pixels = std::max(0, std::min(call.width, strips.copied_width - from));
  for (int b = 0; b < in_blocks; ++b) {
    const uint8_t* block =
        call.input + (size(image) * size(in_blocks) + size(b)) * size(call.height) * size(call.width) * kBlock;
    for (int y = top; y < top + strips.copied_rows; ++y, to += row_bytes) {
      if (y < 0 || y >= call.height) {
        std::memset(to, zero, row_bytes);
        continue;
      }
      const std::size_t left = size(from) * kBlock, middle = size(pixels) * kBlock;
      std::memset(to, zero, left);
      std::memcpy(to + left, block + size(y) * size(call.width) * kBlock, middle);
      std::memset(to + left + middle, zero, row_bytes - left - middle);
    }
  }
}

Source source_of(const CodesCall& call, const Strips& strips, const PackedWeights& weights, const Window& window,
                 int in_zero, int image, int first_row, uint8_t* scratch) {
  const int in_blocks = blocks_of(weights.in_channels);
  Source made;
  if (!strips.copied) {
    made.row_step = static_cast<std::ptrdiff_t>(call.width) * kBlock;
    made.block_step = made.row_step * call.height;
    made.first = call.input + image * in_blocks * made.block_step + first_row * made.row_step;
    made.pixel_step = kBlock;
    made.taps = {0};
    return made;
  }
  copy_strip(call, strips, window, in_blocks, in_zero, image, first_row, scratch);
  const std::ptrdiff_t row = static_cast<std::ptrdiff_t>(strips.copied_width) * kBlock;
  made.first = scratch;
  made.pixel_step = window.stride_x * kBlock;
  made.row_step = row * window.stride_y;
  made.block_step = row * strips.copied_rows;
  for (int y = 0; y < window.height; ++y) {
    for (int x = 0; x < window.width; ++x) made.taps.push_back(y * row + x * kBlock);
  }
  return made;
}

// Returns a product that reads `source`. Its taps must live as long.
Product product_of(const Source& source, int in_channels) {
  Product product{};
  product.in_pixel_step = source.pixel_step;
  product.in_block_step = source.block_step;
  product.quads = (in_channels + 3) / 4;
  product.taps = source.taps.data();
  product.tap_count = static_cast<int>(source.taps.size());
  return product;
}

// Throws std::invalid_argument for shapes that are not supported.
void require_weights(int out, int in, int height, int width) {
  require_channels(out, in);
  if (height < 1 || height > 31 || width < 1 || width > 31) {
    throw std::invalid_argument("the sides of a kernel must be 1 to 31, got " + std::to_string(height) + " x " +
                                std::to_string(width));
  }
  if (static_cast<int64_t>(height * width) * in > 32768) {  // 32768 * 255 * 128 is less than 2^30.
    throw std::invalid_argument("an output must have at most 32768 weights, got " + std::to_string(height * width) +
                                " * " + std::to_string(in));
  }
}

void require_kernel_window(const Window& window, int height, int width) {
  const bool fits = window.height == height && window.width == width && window.stride_y >= 1 && window.stride_x >= 1 &&
                    window.top >= 0 && window.top < height && window.bottom >= 0 && window.bottom < height &&
                    window.left >= 0 && window.left < width && window.right >= 0 && window.right < width;
  if (!fits) throw std::invalid_argument("the kernel must be that of the weights, and larger than the padding");
}

std::vector<int32_t> starts(const PackedWeights& weights, int in_zero, const int32_t* bias) {
  std::vector<int32_t> made(weights.channel_sums.size());
  const int count = weights.in_channels * weights.height * weights.width;
  for (std::size_t i = 0; i < made.size(); ++i) {
    const int32_t offset = bias == nullptr || i >= size(weights.out_channels) ? 0 : bias[i];
    made[i] = start_of(offset, in_zero, weights.channel_sums[i], count);
  }
  return made;
}

}  // namespace

int32_t start_of(int32_t bias, int in_zero, int32_t weight_sum, int weight_count) {
  const int64_t most = std::numeric_limits<int32_t>::max() - int64_t{weight_count} * kMostProduct;
  if (bias < -most || bias > most) {
    throw std::invalid_argument("the bias of an output with " + std::to_string(weight_count) +
                                " weights must be within " + std::to_string(most) + " steps, got " +
                                std::to_string(bias));
  }
  // The sums are right if they wrap on the way, as long as the end fits.
  return static_cast<int32_t>(static_cast<uint32_t>(bias) - static_cast<uint32_t>(in_zero * weight_sum));
}

std::vector<int8_t> whole_numbers(const float* weights, int out, int in, int height, int width) {
  require_weights(out, in, height, width);
  std::vector<int8_t> whole(size(out) * size(in) * size(height) * size(width));
  for (std::size_t i = 0; i < whole.size(); ++i) {
    if (!(weights[i] >= -128 && weights[i] <= 127) || weights[i] != std::nearbyint(weights[i])) {
      throw std::invalid_argument("weights must be whole numbers from -128 to 127, got " + std::to_string(weights[i]));
    }
    whole[i] = static_cast<int8_t>(weights[i]);
  }
  return whole;
}

PackedWeights::PackedWeights(const float* weights, int out, int in, int high, int wide)
    : PackedWeights(whole_numbers(weights, out, in, high, wide), out, in, high, wide) {}

PackedWeights::PackedWeights(const std::vector<int8_t>& weights, int out, int in, int high, int wide)
    : out_channels(out), in_channels(in), height(high), width(wide) {
  const int taps = high * wide, quads = (in + 3) / 4, blocks = blocks_of(out);
  const int group_count = (blocks + kMostBlocks - 1) / kMostBlocks;
  channel_sums.resize(size(blocks) * kBlock);
  values.resize(size(taps) * size(quads) * size(blocks) * 64);
  std::size_t place = 0;
  int first = 0;
  for (int g = 0; g < group_count; ++g) {
    const int end = blocks * (g + 1) / group_count;
    groups.push_back(end - first);
    offsets.push_back(place);
    for (int t = 0; t < taps; ++t) {
      for (int q = 0; q < quads; ++q) {
        for (int o = first * kBlock; o < end * kBlock; ++o) {
          for (int i = q * 4; i < q * 4 + 4; ++i, ++place) {
            if (o >= out || i >= in) continue;
            values[place] = weights[(size(o) * size(in) + size(i)) * size(taps) + size(t)];
            channel_sums[size(o)] += values[place];
          }
        }
      }
    }
    first = end;
  }
}

Conv::Conv(std::shared_ptr<const PackedWeights> weights, const Window& window, const Rounding& rounding,
           const Kernels& kernels)
    : weights_(std::move(weights)),
      window_(window),
      start_(starts(*weights_, rounding.in_zero, rounding.bias)),
      multipliers_(rounding.multipliers, rounding.multipliers + weights_->out_channels),
      in_zero_(rounding.in_zero),
      limits_(rounding.limits),
      kernels_(kernels) {
  require_kernel_window(window, weights_->height, weights_->width);
  multipliers_.resize(start_.size());
}

std::size_t Conv::scratch_bytes(int batch, int height, int width) const {
  const Strips strips(window(), blocks_of(in_channels()), batch, height, width);
  return strips.pieces * strips.bytes;
}

void Conv::run(const CodesCall& call, const ParallelFor& parallel_for) const {
  const Strips strips(window(), blocks_of(in_channels()), call.batch, call.height, call.width);
  const int out_blocks = blocks_of(out_channels());
  strips.for_each(parallel_for, [&](std::size_t piece, int strip) {
    const int image = strip / strips.per_image, first_row = strip % strips.per_image * strips.rows;
    const int rows = std::min(strips.rows, strips.out_height - first_row);
    const Source source =
        source_of(call, strips, *weights_, window_, in_zero_, image, first_row, call.scratch + piece * strips.bytes);
    Product product = product_of(source, in_channels());
    product.out_block_step = static_cast<std::ptrdiff_t>(strips.out_height) * strips.out_width * kBlock;
    product.limits = limits_;
    // Rows that lie behind each other, in the input and the output, are one.
    const int runs = strips.copied ? rows : 1;
    product.count = strips.out_width * (rows / runs);
    int block = 0;
    for (std::size_t g = 0; g < weights_->groups.size(); block += weights_->groups[g++]) {
      product.weights = weights_->values.data() + weights_->offsets[g];
      product.blocks = weights_->groups[g];
      product.start = start_.data() + block * kBlock;
      product.multipliers = multipliers_.data() + block * kBlock;
      for (int run = 0; run < runs; ++run) {
        product.input = source.first + run * source.row_step;
        product.codes = call.codes +
                        (static_cast<std::ptrdiff_t>(image) * out_blocks + block) * product.out_block_step +
                        static_cast<std::ptrdiff_t>(first_row + run) * strips.out_width * kBlock;
        kernels_.multiply(product);
      }
    }
  });
}

struct SplitWeights::Parts {
  std::vector<int8_t> values;  // (2, out, in, height, width).
  std::vector<float> scales;

  Parts(const float* weights, int out, int in, int height, int width) {
    require_weights(out, in, height, width);
    const std::size_t per_channel = size(in) * size(height) * size(width), low = size(out) * per_channel;
    values.resize(2 * low);
    for (std::size_t first = 0; first < low; first += per_channel) {
      float most = 0;
      for (std::size_t i = first; i < first + per_channel; ++i) {
        if (!std::isfinite(weights[i])) throw std::invalid_argument("weights must be finite");
        most = std::max(most, std::fabs(weights[i]));
      }
      const auto unit = std::max(most / kMostUnits, std::numeric_limits<float>::min());
      for (std::size_t i = first; i < first + per_channel; ++i) {
        const auto units = static_cast<int>(std::nearbyint(static_cast<double>(weights[i]) / unit));
        const int high = static_cast<int>(std::floor((units + kHighUnit / 2) / static_cast<double>(kHighUnit)));
        values[i] = static_cast<int8_t>(high);
        values[low + i] = static_cast<int8_t>(units - high * kHighUnit);
      }
      scales.push_back(unit);
    }
  }
};

SplitWeights::SplitWeights(const float* weights, int out, int in, int high, int wide)
    : SplitWeights(Parts(weights, out, in, high, wide), out, in, high, wide) {}

SplitWeights::SplitWeights(const Parts& parts, int out, int in, int high, int wide)
    : PackedWeights(parts.values, 2 * out, in, high, wide), scales(parts.scales) {
  // Weights are only equal if their scales are.
  const auto* bytes = reinterpret_cast<const int8_t*>(scales.data());
  values.insert(values.end(), bytes, bytes + scales.size() * sizeof(float));
}

FloatConv::FloatConv(std::shared_ptr<const SplitWeights> weights, const float* bias, const Window& window,
                     float in_scale, int in_zero, const Kernels& kernels)
    : weights_(std::move(weights)),
      window_(window),
      start_(starts(*weights_, in_zero, nullptr)),
      scales_(weights_->scales),
      bias_(scales_.size()),
      in_zero_(in_zero),
      kernels_(kernels) {
  require_kernel_window(window, weights_->height, weights_->width);
  for (float& scale : scales_) scale *= in_scale;
  if (bias != nullptr) bias_.assign(bias, bias + bias_.size());
}

std::size_t FloatConv::scratch_bytes(int batch, int height, int width) const {
  const Strips strips(window(), blocks_of(in_channels()), batch, height, width);
  return strips.pieces * (strips.bytes + size(strips.out_width) * weights_->channel_sums.size() * sizeof(int32_t));
}

void FloatConv::run(const CodesCall& call, const ParallelFor& parallel_for) const {
  const Strips strips(window(), blocks_of(in_channels()), call.batch, call.height, call.width);
  const std::size_t channels = weights_->channel_sums.size();
  const std::size_t bytes = strips.bytes + size(strips.out_width) * channels * sizeof(int32_t);
  strips.for_each(parallel_for, [&](std::size_t piece, int strip) {
    const int image = strip / strips.per_image, first_row = strip % strips.per_image * strips.rows;
    const int rows = std::min(strips.rows, strips.out_height - first_row);
    uint8_t* scratch = call.scratch + piece * bytes;
    const Source source = source_of(call, strips, *weights_, window_, in_zero_, image, first_row, scratch);
    auto* sums = reinterpret_cast<int32_t*>(scratch + strips.bytes);
    Product product = product_of(source, in_channels());
    product.sums_step = static_cast<std::ptrdiff_t>(channels);
    product.count = strips.out_width;
    const std::size_t plane = size(strips.out_height) * size(strips.out_width);
    for (int y = 0; y < rows; ++y) {
      int block = 0;
      for (std::size_t g = 0; g < weights_->groups.size(); block += weights_->groups[g++]) {
        product.weights = weights_->values.data() + weights_->offsets[g];
        product.blocks = weights_->groups[g];
        product.start = start_.data() + block * kBlock;
        product.input = source.first + y * source.row_step;
        product.sums = sums + block * kBlock;
        kernels_.multiply(product);
      }
      float* row =
          call.numbers + size(image) * size(out_channels()) * plane + size(first_row + y) * size(strips.out_width);
      for (int c = 0; c < out_channels(); ++c, row += plane) {
        const int32_t* high = sums + c;
        const int32_t* low = high + out_channels();
        for (std::size_t x = 0; x < size(strips.out_width); ++x, high += channels, low += channels) {
          const float total = static_cast<float>(*high) * kHighUnit + static_cast<float>(*low);
          row[x] = total * scales_[size(c)] + bias_[size(c)];
        }
      }
    }
  });
}

}  // namespace retinasdk::int8
