#include "convolution/int8_conv.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <utility>

namespace retinasdk::int8 {
namespace {

constexpr std::size_t kMostPieces = 16;
constexpr std::size_t kStripBytes = 192 << 10;  // Of a strip of the input, which should stay in the second-level cache.

std::size_t size(int value) { return static_cast<std::size_t>(value); }

// How one call is divided: strips of rows of each image. Piece p of `pieces` does the strips of its share.
struct Strips {
  int out_height, out_width;
  // Whether strips of the input are copied, with their padding, as the kernels read them. Else the input is read where
  // it is.
  bool copied;
  int rows;  // Of the output, per strip.
  int per_image, count;
  int copied_rows, copied_width;
  std::size_t bytes;  // Of a copied strip.
  std::size_t pieces;

  Strips(const Window& window, const PackedWeights& weights, int batch, int height, int width)
      : out_height(window.out_height(height)), out_width(window.out_width(width)) {
    const int in_blocks = blocks_of(weights.in_channels), in_pixel = kBlock * code_bytes(weights.kernels);
    copied = weights.kernels.prepare != nullptr || window.height * window.width > 1 ||
             window.top + window.left + window.bottom + window.right > 0 || window.stride_y * window.stride_x > 1;
    copied_width = (out_width - 1) * window.stride_x + window.width;
    const int wanted =
        std::max(1, (batch * out_height + static_cast<int>(kMostPieces) - 1) / static_cast<int>(kMostPieces));
    rows = std::min(wanted, out_height);
    if (copied) {
      const std::size_t row = size(in_blocks) * size(copied_width) * size(in_pixel);
      const auto most = static_cast<int>(std::min<std::size_t>(kStripBytes / row, size(height)));
      rows = std::max(1, std::min(rows, (most - window.height) / window.stride_y + 1));
    }
    copied_rows = (rows - 1) * window.stride_y + window.height;
    per_image = (out_height + rows - 1) / rows;
    count = batch * per_image;
    bytes = copied ? size(in_blocks) * size(copied_rows) * size(copied_width) * size(in_pixel) : 0;
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

// Copies `count` codes, a multiple of 16, as multiply() reads them.
void prepare(const Kernels& kernels, const uint8_t* codes, std::size_t count, uint8_t* to) {
  if (kernels.prepare != nullptr) {
    kernels.prepare(codes, count, to);
  } else {
    std::memcpy(to, codes, count);
  }
}

// Copies rows of the input and fills in the padding.
void copy_strip(const CodesCall& call, const Strips& strips, const Window& window, const PackedWeights& weights,
                int zero, int image, int first_row, uint8_t* to) {
  const Kernels& kernels = weights.kernels;
  const int in_blocks = blocks_of(weights.in_channels), top = first_row * window.stride_y - window.top;
  const std::size_t pixel = size(kBlock * code_bytes(kernels)), row_bytes = size(strips.copied_width) * pixel;
  const int from = std::min(window.left, strips.copied_width);
  const int pixels = std::max(0, std::min(call.width, strips.copied_width - from));
  uint8_t zeros[kBlock], padding[kBlock * 2];  // One pixel of the padding.
  std::fill_n(zeros, kBlock, static_cast<uint8_t>(zero));
  prepare(kernels, zeros, kBlock, padding);
  const auto pad = [&](uint8_t* begin, uint8_t* end) {
    for (; begin < end; begin += pixel) std::memcpy(begin, padding, pixel);
  };
  for (int b = 0; b < in_blocks; ++b) {
    const uint8_t* block =
        call.input + (size(image) * size(in_blocks) + size(b)) * size(call.height) * size(call.width) * kBlock;
    for (int y = top; y < top + strips.copied_rows; ++y, to += row_bytes) {
      uint8_t* middle = y < 0 || y >= call.height ? to + row_bytes : to + size(from) * pixel;
      pad(to, middle);
      if (middle == to + row_bytes) continue;
      prepare(kernels, block + size(y) * size(call.width) * kBlock, size(pixels) * kBlock, middle);
      pad(middle + size(pixels) * pixel, to + row_bytes);
    }
  }
}

Source source_of(const CodesCall& call, const Strips& strips, const PackedWeights& weights, const Window& window,
                 int in_zero, int image, int first_row, uint8_t* scratch) {
  Source made;
  if (!strips.copied) {
    made.row_step = static_cast<std::ptrdiff_t>(call.width) * kBlock;
    made.block_step = made.row_step * call.height;
    made.first = call.input + image * blocks_of(weights.in_channels) * made.block_step + first_row * made.row_step;
    made.pixel_step = kBlock;
    made.taps = {0};
    return made;
  }
  copy_strip(call, strips, window, weights, in_zero, image, first_row, scratch);
  const std::ptrdiff_t pixel = kBlock * code_bytes(weights.kernels), row = strips.copied_width * pixel;
  made.first = scratch;
  made.pixel_step = window.stride_x * pixel;
  made.row_step = row * window.stride_y;
  made.block_step = row * strips.copied_rows;
  for (int y = 0; y < window.height; ++y) {
    for (int x = 0; x < window.width; ++x) made.taps.push_back(y * row + x * pixel);
  }
  return made;
}

// Returns a product that reads `source`. Its taps must live as long.
Product product_of(const Source& source, const PackedWeights& weights) {
  Product product{};
  product.in_pixel_step = source.pixel_step;
  product.in_block_step = source.block_step;
  product.groups = groups_of(weights.in_channels, weights.kernels);
  product.taps = source.taps.data();
  product.tap_count = static_cast<int>(source.taps.size());
  return product;
}

void require_kernel_window(const Window& window, int height, int width) {
  const bool fits = window.height == height && window.width == width && window.stride_y >= 1 && window.stride_x >= 1 &&
                    window.top >= 0 && window.top < height && window.bottom >= 0 && window.bottom < height &&
                    window.left >= 0 && window.left < width && window.right >= 0 && window.right < width;
  if (!fits) throw std::invalid_argument("the kernel must be that of the weights, and larger than the padding");
}

}  // namespace

Conv::Conv(std::shared_ptr<const PackedWeights> weights, const Window& window, const Rounding& rounding)
    : weights_(std::move(weights)),
      window_(window),
      start_(weights_->starts(rounding.in_zero, rounding.bias)),
      multipliers_(rounding.multipliers, rounding.multipliers + weights_->out_channels),
      in_zero_(rounding.in_zero),
      limits_(rounding.limits) {
  require_kernel_window(window, weights_->height, weights_->width);
  multipliers_.resize(start_.size());
}

std::size_t Conv::scratch_bytes(int batch, int height, int width) const {
  const Strips strips(window_, *weights_, batch, height, width);
  return strips.pieces * strips.bytes;
}

void Conv::run(const CodesCall& call, const ParallelFor& parallel_for) const {
  const Strips strips(window_, *weights_, call.batch, call.height, call.width);
  const int out_blocks = blocks_of(out_channels());
  strips.for_each(parallel_for, [&](std::size_t piece, int strip) {
    const int image = strip / strips.per_image, first_row = strip % strips.per_image * strips.rows;
    const int rows = std::min(strips.rows, strips.out_height - first_row);
    const Source source =
        source_of(call, strips, *weights_, window_, in_zero_, image, first_row, call.scratch + piece * strips.bytes);
    Product product = product_of(source, *weights_);
    product.out_block_step = static_cast<std::ptrdiff_t>(strips.out_height) * strips.out_width * kBlock;
    product.limits = limits_;
    // Rows that lie behind each other, in the input and the output, are one.
    const int runs = source.row_step == strips.out_width * source.pixel_step ? 1 : rows;
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
        weights_->kernels.multiply(product);
      }
    }
  });
}

FloatConv::FloatConv(std::shared_ptr<const FineWeights> weights, const float* bias, const Window& window,
                     float in_scale, int in_zero)
    : weights_(std::move(weights)),
      window_(window),
      start_(weights_->starts(in_zero, nullptr)),
      scales_(weights_->scales),
      bias_(scales_.size()),
      in_zero_(in_zero) {
  require_kernel_window(window, weights_->height, weights_->width);
  for (float& scale : scales_) scale *= in_scale;
  if (bias != nullptr) bias_.assign(bias, bias + bias_.size());
}

std::size_t FloatConv::scratch_bytes(int batch, int height, int width) const {
  const Strips strips(window_, *weights_, batch, height, width);
  return strips.pieces * (strips.bytes + size(strips.out_width) * weights_->channel_sums.size() * sizeof(int32_t));
}

void FloatConv::run(const CodesCall& call, const ParallelFor& parallel_for) const {
  const Strips strips(window_, *weights_, call.batch, call.height, call.width);
  const std::size_t channels = weights_->channel_sums.size();
  const std::size_t bytes = strips.bytes + size(strips.out_width) * channels * sizeof(int32_t);
  const auto total = [&](const int32_t* sum) {
    if (!weights_->are_split()) return static_cast<float>(*sum);
    const uint32_t whole = static_cast<uint32_t>(sum[0]) * kHighUnit + static_cast<uint32_t>(sum[out_channels()]);
    return static_cast<float>(static_cast<int32_t>(whole));
  };
  strips.for_each(parallel_for, [&](std::size_t piece, int strip) {
    const int image = strip / strips.per_image, first_row = strip % strips.per_image * strips.rows;
    const int rows = std::min(strips.rows, strips.out_height - first_row);
    uint8_t* scratch = call.scratch + piece * bytes;
    const Source source = source_of(call, strips, *weights_, window_, in_zero_, image, first_row, scratch);
    auto* sums = reinterpret_cast<int32_t*>(scratch + strips.bytes);
    Product product = product_of(source, *weights_);
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
        weights_->kernels.multiply(product);
      }
      float* row =
          call.numbers + size(image) * size(out_channels()) * plane + size(first_row + y) * size(strips.out_width);
      // By cache lines of the sums, which do not fit into the nearest caches.
      for (int first = 0; first < out_channels(); first += kBlock) {
        const int end = std::min(first + kBlock, out_channels());
        for (std::size_t x = 0; x < size(strips.out_width); ++x) {
          const int32_t* pixel = sums + x * channels;
          for (int c = first; c < end; ++c) {
            row[size(c) * plane + x] = total(pixel + c) * scales_[size(c)] + bias_[size(c)];
          }
        }
      }
    }
  });
}

}  // namespace retinasdk::int8
