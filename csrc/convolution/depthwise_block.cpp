// A depthwise convolution and its neighbors: what is computed when, and where it lies. See Note [Tiles of a block].
#include "convolution/depthwise_block.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>

#include "convolution/band.h"
#include "convolution/kernels.h"
#include "convolution/scratch_slots.h"

namespace retinasdk {

namespace {

AlignedFloats blocked_vector(const float* values, int channels, int count) {
  const auto size = static_cast<std::size_t>(blocks_of(channels)) * count * kBlock;
  AlignedFloats blocked = make_aligned(size);
  std::fill_n(blocked.get(), size, 0.0f);
  if (values == nullptr) return blocked;
  for (int c = 0; c < channels; ++c) {
    for (int i = 0; i < count; ++i) {
      blocked[(static_cast<std::size_t>(c / kBlock) * count + i) * kBlock + c % kBlock] =
          values[static_cast<std::size_t>(c) * count + i];
    }
  }
  return blocked;
}

// Returns the weights of a 1x1 convolution for the outputs from some block on.
const float* weights_from(const DirectWeights& weights, int block) {
  return weights.values.get() + static_cast<std::ptrdiff_t>(block) * blocks_of(weights.in_channels) * kBlock * kBlock;
}

}  // namespace

DepthwiseBlock::DepthwiseBlock(const std::optional<NeighborStep>& expand, const DepthwiseStep& depthwise,
                               const std::optional<NeighborStep>& project, Addition addition, int threads)
    : DepthwiseBlock(expand, depthwise, project, addition, threads, convolution::best_kernels()) {}

DepthwiseBlock::DepthwiseBlock(const std::optional<NeighborStep>& expand, const DepthwiseStep& depthwise,
                               const std::optional<NeighborStep>& project, Addition addition, int threads,
                               const convolution::Kernels& kernels)
    : channels_(depthwise.channels),
      window_(depthwise.window),
      clamp_(depthwise.clamp),
      addition_(addition),
      threads_(threads),
      kernels_(kernels) {
  require_channels(channels_, channels_);
  const Window& w = window_;
  if (std::min({w.height, w.width, w.stride_y, w.stride_x}) < 1 ||
      std::max({w.height, w.width, w.stride_y, w.stride_x}) > convolution::kLongestWindow) {
    throw std::invalid_argument("sides and strides of a depthwise window must be 1 to 31, got a window of " +
                                std::to_string(w.height) + "x" + std::to_string(w.width) + " with strides " +
                                std::to_string(w.stride_y) + ", " + std::to_string(w.stride_x));
  }
  if (std::min({w.top, w.left, w.bottom, w.right}) < 0 ||
      std::max({w.top, w.left, w.bottom, w.right}) > convolution::kLongestWindow) {
    throw std::invalid_argument("the padding of a depthwise convolution must be 0 to 31 on each side");
  }
  for (const auto* step : {&expand, &project}) {
    if (!*step) continue;
    const DirectWeights& weights = *(*step)->weights;
    const bool is_first_layer = step == &expand && weights.input == Layout::kPlanar;
    if (!is_first_layer && (weights.height != 1 || weights.width != 1 || weights.input != Layout::kBlocked)) {
      throw std::invalid_argument("the neighbors of a depthwise convolution must be 1x1 and blocked, got " +
                                  std::to_string(weights.height) + "x" + std::to_string(weights.width));
    }
    if (is_first_layer && weights.in_channels > kBlock) {
      throw std::invalid_argument("a planar image before a depthwise convolution must have at most 16 channels, got " +
                                  std::to_string(weights.in_channels));
    }
    const Window& walk = (*step)->window;
    if (walk.height != weights.height || walk.width != weights.width ||
        (!is_first_layer && (walk.stride_y != 1 || walk.stride_x != 1 || walk.top != 0 || walk.left != 0 ||
                             walk.bottom != 0 || walk.right != 0))) {
      throw std::invalid_argument("the window of a neighbor of a depthwise convolution does not fit its weights, " +
                                  std::to_string(weights.height) + "x" + std::to_string(weights.width));
    }
    const int channels = step == &expand ? weights.out_channels : weights.in_channels;
    if (channels != channels_) {
      throw std::invalid_argument("a depthwise convolution of " + std::to_string(channels_) +
                                  " channels is next to a 1x1 convolution of " + std::to_string(channels));
    }
  }
  if (!project && addition != Addition::kNone) {
    throw std::invalid_argument("a depthwise block adds only after a projection, and this one has none");
  }
  if (expand) {
    expand_ = expand->weights;
    expand_bias_ = padded_bias(expand->bias, channels_, round_up(channels_, kBlock));
    expand_clamp_ = expand->clamp;
    expand_window_ = expand->window;
  }
  if (project) {
    project_ = project->weights;
    project_bias_ = padded_bias(project->bias, project_->out_channels, round_up(project_->out_channels, kBlock));
    project_clamp_ = project->clamp;
  }
  weights_ = blocked_vector(depthwise.weights, channels_, w.height * w.width);
  bias_ = blocked_vector(depthwise.bias, channels_, 1);
}

DepthwisePlan DepthwiseBlock::plan(int batch, int height, int width) const {
  const Window& w = window_;
  require_window(expand_window_, height, width);
  height = expand_window_.out_height(height);
  width = expand_window_.out_width(width);
  if (height + w.top + w.bottom < w.height || width + w.left + w.right < w.width) {
    throw std::invalid_argument("the window of a depthwise convolution is " + std::to_string(w.height) + "x" +
                                std::to_string(w.width) +
                                ", larger than the padded image: " + std::to_string(height + w.top + w.bottom) + "x" +
                                std::to_string(width + w.left + w.right));
  }
  return plan_depthwise(
      {expand_ ? expand_->in_channels : 0, channels_, project_ ? project_->out_channels : 0, w,
       addition_ == Addition::kUpsampled, input() == Layout::kPlanar ? in_channels() : 0, expand_window_, threads_},
      std::max(batch, 1), height, width);
}

std::size_t DepthwiseBlock::scratch_floats(int batch, int height, int width) const {
  const DepthwisePlan planned = plan(batch, height, width);
  const std::size_t pieces = std::max(planned.tiles(planned.images), planned.projections(planned.images));
  return planned.waiting * static_cast<std::size_t>(planned.images) + kAlignment / sizeof(float) +
         ScratchSlots::floats(pieces, planned.slot());
}

// How an expansion reads a planar image: where the values of a window lie, in the image and in a padded copy.
struct DepthwiseBlock::PlanarTaps {
  PlanarTaps(const DepthwiseBlock& block, const DepthwisePlan& plan, const ConvCall& call) {
    if (block.input() != Layout::kPlanar) return;
    const Window& w = block.expand_window_;
    band = {block.in_channels(), call.height, call.width, 1, w.height, plan.band_pixels};
    const std::ptrdiff_t plane = static_cast<std::ptrdiff_t>(call.height) * call.width;
    image_step = band.planes * plane;
    for (int channel = 0; channel < band.planes; ++channel) {
      for (int y = 0; y < w.height; ++y) {
        for (int x = 0; x < w.width; ++x) {
          in_image.push_back(channel * plane + static_cast<std::ptrdiff_t>(y) * call.width + x);
          in_band.push_back((static_cast<std::ptrdiff_t>(channel) * w.height + y) * plan.band_pixels + x);
        }
      }
    }
  }

  convolution::Band band{};
  std::ptrdiff_t image_step = 0;
  std::vector<std::ptrdiff_t> in_image, in_band;
};

// A piece of work of the first round. See Note [Tiles of a block].
class DepthwiseBlock::Tile {
 public:
  // planar: how the expansion reads a planar image, if it does. waiting: the results that wait for the second round, if
  // there is one, of the images from first_image on.
  Tile(const DepthwiseBlock& block, const DepthwisePlan& plan, const PlanarTaps& planar, const ConvCall& call,
       float* slot, float* waiting, int first_image)
      : block_(block),
        plan_(plan),
        planar_(planar),
        call_(call),
        ring_(slot),
        waiting_(waiting),
        first_image_(first_image) {}

  void run(int index) {
    const Window& w = block_.window_;
    x_ = index % plan_.tiles_x * plan_.tile_width;
    index /= plan_.tiles_x;
    const int top = index % plan_.tiles_y * plan_.tile_height;
    index /= plan_.tiles_y;
    first_block_ = index % plan_.groups * plan_.tile_blocks;
    image_ = first_image_ + index / plan_.groups;
    blocks_ = std::min(plan_.tile_blocks, plan_.blocks - first_block_);
    count_ = std::min(plan_.tile_width, plan_.out_width - x_);
    const int end = std::min(top + plan_.tile_height, plan_.out_height);
    const int left = x_ * w.stride_x - w.left;
    in_x_ = std::clamp(left, 0, plan_.width);
    in_count_ = std::clamp(left + plan_.ring_width, 0, plan_.width) - in_x_;
    before_ = in_count_ > 0 ? in_x_ - left : plan_.ring_width;
    clear_padding();
    int filled = 0;
    for (int y = top; y < end; y += plan_.step_rows) {
      const int rows = std::min(plan_.step_rows, end - y);
      const int first = y * w.stride_y - w.top, last = first + (rows - 1) * w.stride_y + w.height;
      for (filled = std::max(filled, std::max(first, 0)); filled < std::min(last, plan_.height); ++filled) fill(filled);
      convolve(y, rows);
      if (block_.project_ != nullptr && !plan_.in_two_rounds) project(y, rows);
    }
  }

 private:
  float* ring_row(int y) const {
    return ring_ + static_cast<std::ptrdiff_t>(y % plan_.ring_rows) * plan_.ring_width * kBlock;
  }
  float* middle() const { return ring_ + plan_.ring; }
  float* added() const { return middle() + plan_.middle; }
  float* band() const { return plan_.in_two_rounds ? ring_ + plan_.ring : added() + plan_.added; }

  void clear_padding() {
    const int after = plan_.ring_width - before_ - in_count_;
    for (int b = 0; b < blocks_; ++b) {
      for (int y = 0; y < plan_.ring_rows; ++y) {
        float* row = ring_row(y) + b * plan_.ring_block;
        std::fill_n(row, before_ * kBlock, 0.0f);
        std::fill_n(row + (before_ + in_count_) * kBlock, after * kBlock, 0.0f);
      }
    }
  }

  // Writes a row of the image, expanded, to the ring buffer.
  void fill(int y) {
    if (in_count_ == 0) return;
    if (block_.input() == Layout::kPlanar) return fill_from_planar(y);
    const std::ptrdiff_t in_block = static_cast<std::ptrdiff_t>(plan_.height) * plan_.width * kBlock;
    const int in_blocks = blocks_of(block_.in_channels());
    const float* input =
        call_.input + image_ * in_blocks * in_block + (static_cast<std::ptrdiff_t>(y) * plan_.width + in_x_) * kBlock;
    float* row = ring_row(y) + before_ * kBlock;
    if (block_.expand_ == nullptr) {
      for (int b = 0; b < blocks_; ++b) {
        std::memcpy(row + b * plan_.ring_block, input + (first_block_ + b) * in_block,
                    in_count_ * kBlock * sizeof(float));
      }
      return;
    }
    const std::ptrdiff_t tap = 0;
    const float* bias = block_.expand_bias_.empty() ? nullptr : block_.expand_bias_.data() + first_block_ * kBlock;
    block_.kernels_.multiply.multiply(
        {in_count_, input, kBlock, in_block, in_blocks, &tap, 1, weights_from(*block_.expand_, first_block_), blocks_,
         row, kBlock, plan_.ring_block, bias, nullptr, 0, 0, block_.expand_clamp_,
         in_blocks * kBlock - block_.in_channels(), empty_lanes(block_.channels_, first_block_, blocks_)});
  }

  void fill_from_planar(int y) {
    const Window& w = block_.expand_window_;
    const int top = y * w.stride_y - w.top, end = in_x_ + in_count_;
    // The columns whose windows lie in the image.
    int first = end, last = end;
    if (top >= 0 && top + w.height <= call_.height && w.width <= call_.width + w.left) {
      first = std::clamp(depthwise_plan::quotient_up(w.left, w.stride_x), in_x_, end);
      last = std::clamp((call_.width + w.left - w.width) / w.stride_x + 1, first, end);
    }
    fill_from_planar(y, in_x_, first, true);
    fill_from_planar(y, first, last, false);
    fill_from_planar(y, last, end, true);
  }

  // Writes the columns first..last - 1 of a row. padded: their windows reach beyond the image.
  void fill_from_planar(int y, int first, int last, bool padded) {
    if (first == last) return;
    const Window& w = block_.expand_window_;
    const int count = last - first, top = y * w.stride_y - w.top, left = first * w.stride_x - w.left;
    const float* input = call_.input + image_ * planar_.image_step;
    if (padded) {
      planar_.band.copy(input, top, left, (count - 1) * w.stride_x + w.width, band());
      input = band();
    } else {
      input += static_cast<std::ptrdiff_t>(top) * call_.width + left;
    }
    const std::vector<std::ptrdiff_t>& taps = padded ? planar_.in_band : planar_.in_image;
    const auto tap_count = static_cast<int>(taps.size());
    const float* bias = block_.expand_bias_.empty() ? nullptr : block_.expand_bias_.data() + first_block_ * kBlock;
    block_.kernels_.multiply.multiply_planar(
        {count, input, w.stride_x, 0, 1, taps.data(), tap_count,
         block_.expand_->values.get() + static_cast<std::ptrdiff_t>(first_block_) * tap_count * kBlock, blocks_,
         ring_row(y) + (before_ + first - in_x_) * kBlock, kBlock, plan_.ring_block, bias, nullptr, 0, 0,
         block_.expand_clamp_, 0, empty_lanes(block_.channels_, first_block_, blocks_)});
  }

  // Convolves rows of the ring buffer to where the projection reads them, or into the output if there is none.
  void convolve(int top, int rows) {
    const Window& w = block_.window_;
    const float* lines[convolution::kLongestWindow];
    for (int b = 0; b < blocks_; ++b) {
      for (int y = top; y < top + rows; ++y) {
        for (int ky = 0; ky < w.height; ++ky) {
          const int in_y = y * w.stride_y - w.top + ky;
          lines[ky] = in_y < 0 || in_y >= plan_.height ? nullptr : ring_row(in_y) + b * plan_.ring_block;
        }
        const float* weights =
            block_.weights_.get() + static_cast<std::ptrdiff_t>(first_block_ + b) * w.height * w.width * kBlock;
        block_.kernels_.depthwise.row({count_, lines, w.height, w.width, w.stride_x, weights,
                                       block_.bias_.get() + (first_block_ + b) * kBlock, block_.clamp_,
                                       convolved(b, y, top)});
      }
    }
  }

  // Returns where a row of the convolution goes.
  float* convolved(int block, int y, int top) const {
    const std::ptrdiff_t pixel = static_cast<std::ptrdiff_t>(y) * plan_.out_width + x_;
    if (plan_.in_two_rounds) {
      return waiting_ + (image_ - first_image_) * static_cast<std::ptrdiff_t>(plan_.waiting) +
             (first_block_ + block) * plan_.middle_block + pixel * kBlock;
    }
    if (block_.project_ != nullptr) {
      return middle() + block * plan_.middle_block + static_cast<std::ptrdiff_t>(y - top) * count_ * kBlock;
    }
    const std::ptrdiff_t plane = static_cast<std::ptrdiff_t>(image_) * plan_.blocks + first_block_ + block;
    return call_.output + (plane * plan_.out_height * plan_.out_width + pixel) * kBlock;
  }

  void project(int top, int rows) {
    // Rows that are as wide as the image lie one after the other: one product for all of them.
    const int step = count_ == plan_.out_width ? rows : 1;
    for (int y = 0; y < rows; y += step) {
      block_.project(plan_, call_, image_, (top + y) * plan_.out_width + x_, count_ * step,
                     middle() + static_cast<std::ptrdiff_t>(y) * count_ * kBlock, 0, blocks_of(block_.out_channels()),
                     added());
    }
  }

  const DepthwiseBlock& block_;
  const DepthwisePlan& plan_;
  const PlanarTaps& planar_;
  const ConvCall& call_;
  float *ring_, *waiting_;
  int first_image_;
  int image_ = 0, first_block_ = 0, blocks_ = 0;
  int x_ = 0, count_ = 0;        // The columns of the output,
  int in_x_ = 0, in_count_ = 0;  // and those of the input that the ring buffer has,
  int before_ = 0;               // after so many columns of padding.
};

void DepthwiseBlock::project(const DepthwisePlan& plan, const ConvCall& call, int image, int pixel, int count,
                             const float* input, int first_block, int blocks, float* enlarged) const {
  const int all_blocks = blocks_of(out_channels());
  const std::ptrdiff_t out_block = static_cast<std::ptrdiff_t>(plan.out_height) * plan.out_width * kBlock;
  const std::ptrdiff_t at =
      (static_cast<std::ptrdiff_t>(image) * all_blocks + first_block) * out_block + pixel * kBlock;
  const float* added = nullptr;
  std::ptrdiff_t added_block = out_block;
  if (addition_ == Addition::kSame) {
    added = call.added + at;
  } else if (addition_ == Addition::kUpsampled) {
    added = enlarged, added_block = plan.added_block;
    const std::ptrdiff_t plane = static_cast<std::ptrdiff_t>(call.added_height) * call.added_width;
    const float* from = call.added + (static_cast<std::ptrdiff_t>(image) * all_blocks + first_block) * plane * kBlock;
    for (int i = 0; i < count; ++i) {
      const std::int64_t y = (pixel + i) / plan.out_width, x = (pixel + i) % plan.out_width;
      const std::int64_t nearest =
          y * call.added_height / plan.out_height * call.added_width + x * call.added_width / plan.out_width;
      for (int b = 0; b < blocks; ++b) {
        std::memcpy(enlarged + b * added_block + i * kBlock, from + (b * plane + nearest) * kBlock,
                    kBlock * sizeof(float));
      }
    }
  }
  const std::ptrdiff_t tap = 0;
  const float* bias = project_bias_.empty() ? nullptr : project_bias_.data() + first_block * kBlock;
  kernels_.multiply.multiply({count, input, kBlock, plan.middle_block, plan.blocks, &tap, 1,
                              weights_from(*project_, first_block), blocks, call.output + at, kBlock, out_block, bias,
                              added, kBlock, added_block, project_clamp_, plan.blocks * kBlock - channels_,
                              empty_lanes(out_channels(), first_block, blocks)});
}

void DepthwiseBlock::run(const ConvCall& call, const ParallelFor& parallel_for) const {
  const DepthwisePlan planned = plan(call.batch, call.height, call.width);
  const PlanarTaps planar(*this, planned, call);
  float* waiting = aligned(call.scratch);
  float* slots = waiting + planned.waiting * static_cast<std::size_t>(planned.images);
  for (int first = 0; first < call.batch; first += planned.images) {
    const int images = std::min(planned.images, call.batch - first);
    ScratchSlots tile_slots(slots, planned.tiles(images), planned.slot());
    parallel_for(planned.tiles(images), [&](std::size_t piece) {
      const ScratchSlots::Slot slot(tile_slots);
      Tile(*this, planned, planar, call, slot.data(), waiting, first).run(static_cast<int>(piece));
    });
    if (!planned.in_two_rounds) continue;
    ScratchSlots project_slots(slots, planned.projections(images), planned.slot());
    parallel_for(planned.projections(images), [&](std::size_t piece) {
      const ScratchSlots::Slot slot(project_slots);
      auto index = static_cast<int>(piece);
      const int pixel = index % planned.project_tiles * planned.project_pixels;
      index /= planned.project_tiles;
      const int block = index % planned.project_groups * planned.project_blocks;
      const int image = index / planned.project_groups;
      project(planned, call, first + image, pixel,
              std::min(planned.project_pixels, planned.out_height * planned.out_width - pixel),
              waiting + static_cast<std::size_t>(image) * planned.waiting + pixel * kBlock, block,
              std::min(planned.project_blocks, blocks_of(out_channels()) - block), slot.data());
    });
  }
}

}  // namespace retinasdk
