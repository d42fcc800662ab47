#include "convolution/int8_depthwise.h"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace retinasdk::int8 {
namespace {

constexpr std::size_t kMostPieces = 16;

std::size_t size(int value) { return static_cast<std::size_t>(value); }

// How one call is divided: by blocks of channels, and by rows if there are few blocks.
struct Division {
  int out_height, out_width;
  int per_block;  // Strips of one block.
  int rows;       // Of the output, per strip.
  std::size_t row_bytes, padded, count, pieces;

  Division(const Window& window, int blocks, int batch, int height, int width)
      : out_height(window.out_height(height)), out_width(window.out_width(width)) {
    const int images = batch * blocks;
    const int wanted = (static_cast<int>(kMostPieces) + images - 1) / images;
    rows = std::max(std::min(8, out_height), (out_height + wanted - 1) / wanted);
    per_block = (out_height + rows - 1) / rows;
    row_bytes = arranged_bytes(window.left + width + window.right);
    padded = padded_bytes(window.left + width + window.right);
    count = size(images) * size(per_block);
    pieces = std::min(count, kMostPieces);
  }

  // A row with padding, one of padding alone, and a ring of rows, each of which is arranged once.
  std::size_t bytes(const Window& window) const { return padded + row_bytes * size(window.height + 1); }
};

}  // namespace

bool DepthwiseConv::fits(const Window& window) {
  return window.height == window.width && (window.height == 3 || window.height == 5) &&
         window.stride_y == window.stride_x && (window.stride_y == 1 || window.stride_y == 2) && window.top >= 0 &&
         window.left >= 0 && window.bottom >= 0 && window.right >= 0 && window.top < window.height &&
         window.left < window.width && window.bottom < window.height && window.right < window.width;
}

DepthwiseConv::DepthwiseConv(const float* weights, int channels, const Window& window, const Rounding& rounding,
                             const Kernels& kernels)
    : channels_(channels),
      window_(window),
      multipliers_(rounding.multipliers, rounding.multipliers + channels),
      in_zero_(rounding.in_zero),
      limits_(rounding.limits),
      kernels_(kernels) {
  if (!fits(window)) throw std::invalid_argument("a depthwise kernel must be 3x3 or 5x5 with a stride of 1 or 2");
  const std::vector<int16_t> whole = whole_numbers(weights, channels, 1, window.height, window.width);
  const int blocks = blocks_of(channels), side = window.height, dot = kernels.dot;
  const int vectors = vectors_per_row(side, dot);
  multipliers_.resize(size(blocks) * kBlock);
  start_.resize(multipliers_.size());
  weights_.resize(size(blocks) * size(side * vectors * 2) * kVectorBytes);
  for (int c = 0; c < channels; ++c) {
    int32_t sum = 0;
    for (int y = 0; y < side; ++y) {
      for (int x = 0; x < side; ++x) {
        const int16_t weight = whole[size((c * side + y) * side + x)];
        sum += weight;
        for (int parity = 0; parity < 2; ++parity) {
          const int place = x + parity;
          const int vector = ((c / kBlock * side + y) * vectors + place / dot) * 2 + parity;
          set_weight(weights_.data() + size(vector) * kVectorBytes, dot, c % kBlock, place % dot, weight);
        }
      }
    }
    const int32_t bias = rounding.bias == nullptr ? 0 : rounding.bias[c];
    start_[size(c)] = start_of(bias, in_zero_ - kernels.code_offset, sum, side * side);
  }
}

std::size_t DepthwiseConv::scratch_bytes(int batch, int height, int width) const {
  const Division division(window_, blocks_of(channels_), batch, height, width);
  return division.pieces * division.bytes(window_);
}

void DepthwiseConv::run(const CodesCall& call, const ParallelFor& parallel_for) const {
  const int blocks = blocks_of(channels_), side = window_.height, stride = window_.stride_y;
  const Division division(window_, blocks, call.batch, call.height, call.width);
  const std::size_t in_row = size(call.width) * kBlock, out_row = size(division.out_width) * kBlock;
  const auto do_strip = [&](std::size_t strip, uint8_t* padded) {
    uint8_t* scratch = padded + division.padded;
    const std::size_t image = strip / size(division.per_block), block = image % size(blocks);
    const int first = static_cast<int>(strip % size(division.per_block)) * division.rows;
    const int end = std::min(first + division.rows, division.out_height);
    const uint8_t* input = call.input + image * size(call.height) * in_row;
    DepthwiseRow row{};
    row.side = side;
    row.stride = stride;
    row.count = division.out_width;
    row.weights = weights_.data() + block * (weights_.size() / size(blocks));
    row.start = start_.data() + block * kBlock;
    row.multipliers = multipliers_.data() + block * kBlock;
    row.limits = limits_;
    row.codes = call.codes + (image * size(division.out_height) + size(first)) * out_row;
    int arranged = std::max(0, first * stride - window_.top);  // Rows of the input before this one are in the ring.
    for (int y = first; y < end; ++y, row.codes += out_row) {
      const int top = y * stride - window_.top;
      const uint8_t* rows[5];
      for (int i = 0; i < side; ++i) {
        const int from = top + i;
        const bool inside = from >= 0 && from < call.height;
        rows[i] = scratch + size(inside ? from % side + 1 : 0) * division.row_bytes;
      }
      for (arranged = std::max(arranged, top); arranged < std::min(top + side, call.height); ++arranged) {
        std::copy_n(input + size(arranged) * in_row, in_row, padded + size(window_.left) * kBlock);
        kernels_.arrange(padded, window_.left + call.width + window_.right,
                         scratch + size(arranged % side + 1) * division.row_bytes);
      }
      row.rows = rows;
      kernels_.depthwise_row(row);
    }
  };
  parallel_for(division.pieces, [&](std::size_t piece) {
    uint8_t* scratch = call.scratch + piece * division.bytes(window_);
    std::fill_n(scratch, division.padded, static_cast<uint8_t>(in_zero_));
    kernels_.arrange(scratch, window_.left + call.width + window_.right, scratch + division.padded);
    const std::size_t end = division.count * (piece + 1) / division.pieces;
    for (std::size_t strip = division.count * piece / division.pieces; strip < end; ++strip) do_strip(strip, scratch);
  });
}

}  // namespace retinasdk::int8
