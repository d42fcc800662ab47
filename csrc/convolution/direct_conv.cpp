// Direct convolution: products of pixels and weights, for each position of the kernel.
//
// The work is divided into pieces: some rows and columns of the output, and some blocks of its channels. Where the
// window reaches beyond the image, a piece copies its part of the input, with zeros around it.
#include "convolution/direct_conv.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>
#include <utility>

#include "convolution/band.h"
#include "convolution/kernels.h"
#include "convolution/scratch_slots.h"

namespace retinasdk {

namespace {

using convolution::Product;
using Step = std::ptrdiff_t;

constexpr int kMostSide = 31;          // Of a kernel.
constexpr int kPieces = 64;            // At least so many, where the work allows it: up to 16 threads get equal shares.
constexpr int kFewPixels = 28;         // Of a piece. Fewer do not make up for loading the weights.
constexpr int kManyPixels = 1024;      // Of a piece.
constexpr int kPieceFloats = 1 << 17;  // In the input of a piece: it stays in the L2 cache.
constexpr int kPlanarPixels = 64;      // The products of a planar output are on the stack.

int divided(int value, int by) { return (value + by - 1) / by; }

// How one call is computed.
struct Plan {
  int height, width, out_height, out_width;  // Of an image.
  int lanes, planes;                         // Channels that lie together in the input, and groups of them.
  bool padded;                               // The pieces copy their input.
  int rows, columns, blocks;                 // The size of a piece in the output.
  int row_chunks, column_chunks, block_chunks;
  std::size_t pieces;
  convolution::Band band;  // Of a piece.

  std::size_t band_floats() const { return padded ? band.floats() : 0; }
};

Plan make_plan(const DirectWeights& weights, const Window& window, Addition addition, int batch, int height,
               int width) {
  require_window(window, height, width);
  Plan plan{};
  plan.height = height;
  plan.width = width;
  plan.padded = window.top > 0 || window.left > 0 || window.bottom > 0 || window.right > 0;
  const bool pointwise = window.height == 1 && window.width == 1 && window.stride_y == 1 && window.stride_x == 1;
  const Step pixels = static_cast<Step>(height) * width;
  if (pointwise && !plan.padded && addition != Addition::kUpsampled && pixels < (1 << 30)) {
    plan.height = 1;  // All pixels are one row.
    plan.width = static_cast<int>(pixels);
  }
  plan.out_height = window.out_height(plan.height);
  plan.out_width = window.out_width(plan.width);
  plan.lanes = weights.input == Layout::kBlocked ? kBlock : 1;
  plan.planes = weights.input == Layout::kBlocked ? blocks_of(weights.in_channels) : weights.in_channels;

  // The floats of the input for one pixel of the output; neighbors share most of a window.
  const int pixel_floats = plan.planes * plan.lanes * window.stride_x * std::max(window.stride_y, window.height);
  const int most = std::clamp(kPieceFloats / pixel_floats, kFewPixels, kManyPixels);
  plan.columns = divided(plan.out_width, divided(plan.out_width, most));
  plan.rows = std::clamp(most / plan.columns, 1, plan.out_height);
  const auto pixel_pieces = [&] {
    plan.row_chunks = divided(plan.out_height, plan.rows);
    plan.column_chunks = divided(plan.out_width, plan.columns);
    return std::max<Step>(1, batch) * plan.row_chunks * plan.column_chunks;
  };
  while (pixel_pieces() < kPieces && plan.rows > 1 && plan.rows * plan.columns > kFewPixels) {
    plan.rows = divided(plan.rows, 2);
  }
  while (pixel_pieces() < kPieces && plan.columns > kFewPixels) plan.columns = divided(plan.columns, 2);
  const int out_blocks = blocks_of(weights.out_channels);
  const auto wanted = static_cast<int>(std::min<Step>(out_blocks, (kPieces + pixel_pieces() - 1) / pixel_pieces()));
  plan.blocks = std::min(out_blocks, round_up(divided(out_blocks, wanted), 2));
  plan.block_chunks = divided(out_blocks, plan.blocks);
  plan.pieces = batch < 1 ? 0 : static_cast<std::size_t>(pixel_pieces() * plan.block_chunks);
  plan.band = {plan.planes,
               plan.height,
               plan.width,
               plan.lanes,
               (plan.rows - 1) * window.stride_y + window.height,
               (plan.columns - 1) * window.stride_x + window.width};
  return plan;
}

}  // namespace

DirectWeights::DirectWeights(const float* weights, int out_channels_, int in_channels_, int height_, int width_,
                             Layout input_)
    : out_channels(out_channels_), in_channels(in_channels_), height(height_), width(width_), input(input_) {
  require_channels(out_channels, in_channels);
  if (height < 1 || width < 1 || height > kMostSide || width > kMostSide) {
    throw std::invalid_argument("a kernel must have 1 to " + std::to_string(kMostSide) + " rows and columns, got " +
                                std::to_string(height) + " x " + std::to_string(width));
  }
  const Step taps = static_cast<Step>(height) * width;
  const Step lanes = input == Layout::kBlocked ? kBlock : 1;
  const Step planes = input == Layout::kBlocked ? blocks_of(in_channels) : in_channels;
  const Step block_step = planes * taps * lanes * kBlock;
  count_ = static_cast<std::size_t>(blocks_of(out_channels) * block_step);
  values = make_aligned(count_);
  std::fill(values.get(), values.get() + count_, 0.0f);
  for (Step out = 0; out < out_channels; ++out) {
    for (Step in = 0; in < in_channels; ++in) {
      for (Step tap = 0; tap < taps; ++tap, ++weights) {
        // Blocked: (block, tap, block of the input, lane, 16). Planar: (block, input channel, tap, 16).
        const Step at =
            input == Layout::kBlocked ? (tap * planes + in / kBlock) * kBlock + in % kBlock : in * taps + tap;
        values[static_cast<std::size_t>(out / kBlock * block_step + at * kBlock + out % kBlock)] = *weights;
      }
    }
  }
}

DirectConv::DirectConv(std::shared_ptr<const DirectWeights> weights, const float* bias, const Window& window,
                       Clamp clamp, Addition addition, Layout output)
    : DirectConv(std::move(weights), bias, window, clamp, addition, output, convolution::best_kernels()) {}

DirectConv::DirectConv(std::shared_ptr<const DirectWeights> weights, const float* bias, const Window& window,
                       Clamp clamp, Addition addition, Layout output, const convolution::Kernels& kernels)
    : weights_(std::move(weights)),
      bias_(padded_bias(bias, weights_->out_channels, round_up(weights_->out_channels, kBlock))),
      window_(window),
      clamp_(clamp),
      addition_(addition),
      output_(output),
      kernels_(kernels) {
  if (window.height != weights_->height || window.width != weights_->width) {
    throw std::invalid_argument("the window is " + std::to_string(window.height) + " x " +
                                std::to_string(window.width) + ", but the weights are " +
                                std::to_string(weights_->height) + " x " + std::to_string(weights_->width));
  }
}

std::size_t DirectConv::scratch_floats(int batch, int height, int width) const {
  const Plan plan = make_plan(*weights_, window_, addition_, batch, height, width);
  return ScratchSlots::floats(plan.pieces, plan.band_floats());
}

void DirectConv::run(const ConvCall& call, const ParallelFor& parallel_for) const {
  const DirectWeights& weights = *weights_;
  const Plan plan = make_plan(weights, window_, addition_, call.batch, call.height, call.width);
  const int out_blocks = blocks_of(weights.out_channels);
  const Step in_plane = static_cast<Step>(plan.height) * plan.width * plan.lanes;
  const Step out_plane = static_cast<Step>(plan.out_height) * plan.out_width * kBlock;
  const Step row_step = static_cast<Step>(plan.padded ? plan.band.row_pixels : plan.width) * plan.lanes;
  const Step plane_step = plan.padded ? plan.band.rows * row_step : in_plane;
  const bool blocked_input = weights.input == Layout::kBlocked;
  std::vector<Step> taps;
  for (int plane = 0; plane < (blocked_input ? 1 : plan.planes); ++plane) {
    for (int y = 0; y < window_.height; ++y) {
      for (int x = 0; x < window_.width; ++x) taps.push_back(plane * plane_step + y * row_step + x * plan.lanes);
    }
  }

  Product common{};
  common.in_pixel_step = static_cast<Step>(window_.stride_x) * plan.lanes;
  common.in_block_step = plane_step;
  common.in_blocks = blocked_input ? plan.planes : 1;
  common.is_far = true;
  common.empty_lanes = plan.planes * plan.lanes - weights.in_channels;
  common.taps = taps.data();
  common.tap_count = static_cast<int>(taps.size());
  common.out_pixel_step = common.added_pixel_step = kBlock;
  common.out_block_step = common.added_block_step = out_plane;
  if (addition_ != Addition::kUpsampled) common.clamp = clamp_;
  const Step weights_step = static_cast<Step>(weights.count()) / out_blocks;
  const auto multiply = blocked_input ? kernels_.multiply.multiply : kernels_.multiply.multiply_planar;

  ScratchSlots slots(call.scratch, plan.pieces, plan.band_floats());
  parallel_for(plan.pieces, [&](std::size_t piece) {
    auto rest = static_cast<Step>(piece);
    const auto next = [&](int count) {
      const auto index = static_cast<int>(rest % count);
      rest /= count;
      return index;
    };
    const int first_block = next(plan.block_chunks) * plan.blocks, x = next(plan.column_chunks) * plan.columns;
    const int first_row = next(plan.row_chunks) * plan.rows, image = next(call.batch);
    const int end_row = std::min(plan.out_height, first_row + plan.rows);
    const int end_block = std::min(out_blocks, first_block + plan.blocks);
    const int columns = std::min(plan.columns, plan.out_width - x);
    const float* input = call.input + image * plan.planes * in_plane;
    const int top = first_row * window_.stride_y - window_.top, left = x * window_.stride_x - window_.left;

    const ScratchSlots::Slot slot(slots);
    if (plan.padded) {
      plan.band.copy(input, top, left, plan.band.row_pixels, slot.data());
      input = slot.data();
    } else {
      input += top * row_step + left * plan.lanes;
    }
    for (int y = first_row; y < end_row; ++y) {
      Product product = common;
      product.count = columns;
      product.input = input + static_cast<Step>(y - first_row) * window_.stride_y * row_step;
      product.weights = weights.values.get() + first_block * weights_step;
      product.out_blocks = end_block - first_block;
      product.empty_outputs = empty_lanes(weights.out_channels, first_block, product.out_blocks);
      product.bias = bias_.empty() ? nullptr : bias_.data() + static_cast<Step>(first_block) * kBlock;
      const Step block = static_cast<Step>(image) * out_blocks + first_block;
      const Step at = block * out_plane + (static_cast<Step>(y) * plan.out_width + x) * kBlock;
      if (addition_ == Addition::kSame) product.added = call.added + at;
      const auto finish = [&](float* output, Step block_step, int first, int count, int blocks, int offset) {
        if (addition_ != Addition::kUpsampled) return;
        const Step added_y = static_cast<Step>(y) * call.added_height / plan.out_height;
        for (int b = 0; b < blocks; ++b) {
          const float* added =
              call.added + ((block + offset + b) * call.added_height + added_y) * call.added_width * kBlock;
          kernels_.layout.add_row({output + b * block_step, added, first, count, plan.out_width, call.added_width,
                                   clamp_, output + b * block_step});
        }
      };
      if (output_ == Layout::kBlocked) {
        product.output = call.output + at;
        multiply(product);
        finish(product.output, out_plane, x, columns, product.out_blocks, 0);
        continue;
      }
      alignas(kAlignment) float products[kPlanarPixels * kBlock * 2];
      for (int b = first_block; b < end_block; b += 2) {
        const int blocks = std::min(2, end_block - b);
        for (int first = 0; first < columns; first += kPlanarPixels) {
          Product part = product;
          part.count = std::min(kPlanarPixels, columns - first);
          part.input += first * part.in_pixel_step;
          part.weights += (b - first_block) * weights_step;
          part.out_blocks = blocks;
          part.empty_outputs = empty_lanes(weights.out_channels, b, blocks);
          part.output = products;
          part.out_block_step = kPlanarPixels * kBlock;
          if (part.bias != nullptr) part.bias += (b - first_block) * kBlock;
          if (part.added != nullptr) part.added += (b - first_block) * out_plane + first * kBlock;
          multiply(part);
          finish(products, part.out_block_step, x + first, part.count, blocks, b - first_block);
          for (int i = 0; i < blocks; ++i) {
            const int channel = (b + i) * kBlock;
            const Step plane = static_cast<Step>(plan.out_height) * plan.out_width;
            float* to = call.output + (static_cast<Step>(image) * weights.out_channels + channel) * plane +
                        static_cast<Step>(y) * plan.out_width + x + first;
            kernels_.layout.scatter(products + i * part.out_block_step,
                                    std::min(kBlock, weights.out_channels - channel), part.count, to, plane);
          }
        }
      }
    }
  });
}

}  // namespace retinasdk
