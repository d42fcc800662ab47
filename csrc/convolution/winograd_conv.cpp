// The Winograd convolution: transforms the weights, divides the work into blocks of patches that stay in the cache, and
// into pieces for threads.
#include "convolution/winograd_conv.h"

#include <algorithm>
#include <atomic>
#include <climits>
#include <thread>

#include "convolution/kernels.h"

namespace retinasdk {

using namespace convolution;

namespace {

using std::ptrdiff_t;

// -- weights ---------------------------------------------------------------------------------------------------------

// One value per output channel of a block, in double: the transform would lose precision that cannot be won back.
using Lanes = double[kBlock];

// Applies G: the three values of a row or column of a kernel become eight or six positions.
void expand(const Lanes& a, const Lanes& b, const Lanes& c, Lanes (&u)[8]) {
  for (int o = 0; o < kBlock; ++o) {
    const double even = -2.0 / 9.0 * (a[o] + c[o]), odd = -2.0 / 9.0 * b[o];
    const double even2 = (a[o] + 4.0 * c[o]) * (1.0 / 90.0), odd2 = b[o] * (2.0 / 90.0);
    const double even3 = (32.0 * a[o] + 8.0 * c[o]) * (1.0 / 45.0), odd3 = b[o] * (16.0 / 45.0);
    u[0][o] = a[o];
    u[1][o] = even + odd;
    u[2][o] = even - odd;
    u[3][o] = even2 + odd2;
    u[4][o] = even2 - odd2;
    u[5][o] = even3 + odd3;
    u[6][o] = even3 - odd3;
    u[7][o] = c[o];
  }
}

void expand(const Lanes& a, const Lanes& b, const Lanes& c, Lanes (&u)[6]) {
  for (int o = 0; o < kBlock; ++o) {
    const double even = (a[o] + c[o]) * (-1.0 / 6.0), odd = b[o] * (-1.0 / 6.0);
    const double even2 = (a[o] + 4.0 * c[o]) * (1.0 / 24.0), odd2 = b[o] * (2.0 / 24.0);
    u[0][o] = 0.25 * a[o];
    u[1][o] = even + odd;
    u[2][o] = even - odd;
    u[3][o] = even2 + odd2;
    u[4][o] = even2 - odd2;
    u[5][o] = c[o];
  }
}

// Transforms the kernels of one input channel and at most sixteen output channels. Position p of output channel o is
// stored at to + p * step + o.
template <int Side>
void transform_kernels(const float* weights, int out_channels, ptrdiff_t out_step, float* to, ptrdiff_t step) {
  Lanes kernel[3][3] = {}, columns[3][Side], row[Side];
  for (int o = 0; o < out_channels; ++o) {
    for (int at = 0; at < 9; ++at) kernel[at / 3][at % 3][o] = weights[o * out_step + at];
  }
  for (int x = 0; x < 3; ++x) expand(kernel[0][x], kernel[1][x], kernel[2][x], columns[x]);
  for (int y = 0; y < Side; ++y) {
    expand(columns[0][y], columns[1][y], columns[2][y], row);
    for (int x = 0; x < Side; ++x) {
      for (int o = 0; o < kBlock; ++o) to[(y * Side + x) * step + o] = static_cast<float>(row[x][o]);
    }
  }
}

int positions_of(int patch) { return (patch + 2) * (patch + 2); }

// -- plan ------------------------------------------------------------------------------------------------------------

// The images of one call of run(), in a row of patches.
struct Level {
  const ConvCall* call;
  Patches patches;  // All of its patches.
  int first;        // Its first patch among those of all levels.
};

// How a convolution is divided. A block of patches is transformed, multiplied with the weights and transformed back.
struct Plan {
  Level levels[WinogradConv::kMaxLevels];
  int level_count;
  int patches;        // Of all levels.
  int block_patches;  // Of the largest block.
  int blocks;
  int lanes;  // Blocks that are in work at the same time, each by one thread. 1: all threads work on one block.
  int group;  // Output blocks whose products are kept at a time.
  ptrdiff_t in_position_step, in_block_step, out_position_step, out_block_step;
  ptrdiff_t lane_floats;  // Scratch of a block.

  // Calls part(call, patches, i) for the patches first to first + count - 1: once for those of each level. i counts
  // them from `first`.
  template <typename Part>
  void each_part(int first, int count, const Part& part) const {
    for (int i = 0; i < level_count; ++i) {
      const Level& level = levels[i];
      const int begin = std::max(first, level.first);
      const int end = std::min(first + count, level.first + level.patches.count);
      if (begin >= end) continue;
      Patches own = level.patches;
      own.first = begin - level.first;
      own.count = end - begin;
      part(*level.call, own, begin - first);
    }
  }
};

// Note: The size of a block of patches
//
//     All weights are read once per block, so a block must not be small. What a block keeps for each patch, all
//     positions of all input channels and of a group of output channels, must stay in the cache, so it must not be
//     large.
//
//     If the weights are small, each thread has blocks of its own. So threads wait for each other only at the end, and
//     a block stays in the cache of one core. If the weights are large, or a thread would have only a few patches, all
//     threads work on one block, because each thread reading all weights would take longer. Results do not depend on
//     the division: each sum is taken in one order.
constexpr int kOwnPatches = 42, kLeastOwnPatches = 11, kSharedPatches = 96;
constexpr int kGroup = 5;
constexpr int kChunkPatches = 48;               // Of a piece of work that transforms a block of channels.
constexpr std::size_t kSmallWeights = 5 << 18;  // In values: 5 MiB.

int divided_up(int value, int by) { return (value + by - 1) / by; }

Plan make_plan(const WinogradWeights& weights, const ConvCall* levels, int count) {
  if (count < 0 || count > WinogradConv::kMaxLevels) {
    throw std::invalid_argument("there must be at most " + std::to_string(WinogradConv::kMaxLevels) + " levels, got " +
                                std::to_string(count));
  }
  Plan plan{};
  for (int i = 0; i < count; ++i) {
    const ConvCall& call = levels[i];
    const int columns = divided_up(call.width, weights.patch), rows = divided_up(call.height, weights.patch);
    const int patches = call.batch * rows * columns;
    if (patches > INT_MAX - plan.patches) throw std::invalid_argument("the levels have too many pixels together");
    const Patches all{call.height, call.width, columns, rows * columns, 0, patches};
    plan.levels[plan.level_count++] = {&call, all, plan.patches};
    plan.patches += patches;
  }
  const int in_blocks = blocks_of(weights.in_channels), out_blocks = blocks_of(weights.out_channels);
  static const int threads = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  const bool shared = weights.count() > kSmallWeights || plan.patches < threads * kLeastOwnPatches;
  // Blocks of similar size, instead of a small one at the end.
  plan.blocks = divided_up(plan.patches, shared ? kSharedPatches : kOwnPatches);
  if (!shared) plan.blocks = divided_up(plan.blocks, threads) * threads;
  plan.block_patches = std::max(1, divided_up(plan.patches, std::max(1, plan.blocks)));
  plan.lanes = shared ? 1 : threads;
  plan.group = divided_up(out_blocks, divided_up(out_blocks, kGroup));
  // An odd number of cache lines from one position to the next, because steps of a power of two would use few of the
  // cache's sets.
  plan.in_position_step = plan.out_position_step = ptrdiff_t{plan.block_patches | 1} * kBlock;
  plan.in_block_step = plan.out_block_step = plan.in_position_step * positions_of(weights.patch) + 13 * kBlock;
  plan.lane_floats = plan.in_block_step * in_blocks + plan.out_block_step * plan.group;
  return plan;
}

void in_turn(std::size_t count, const Piece& piece) {
  for (std::size_t i = 0; i < count; ++i) piece(i);
}

}  // namespace

WinogradWeights::WinogradWeights(const float* weights, int out_channels_, int in_channels_, int patch_)
    : out_channels(out_channels_), in_channels(in_channels_), patch(patch_) {
  require_channels(out_channels, in_channels);
  if (patch != 6 && patch != 4) throw std::invalid_argument("patch must be 6 or 4, got " + std::to_string(patch));
  const ptrdiff_t in_blocks = blocks_of(in_channels), out_blocks = blocks_of(out_channels);
  const int positions = positions_of(patch);
  constexpr int kSquare = kBlock * kBlock;
  count_ = static_cast<std::size_t>(positions * out_blocks * in_blocks * kSquare);
  values = make_aligned(count_);
  // The positions lie far apart, often by a power of two. Writing to them in turn would thrash the cache, so they are
  // written to a small array first.
  std::vector<float> square(static_cast<std::size_t>(positions) * kSquare);
  for (ptrdiff_t block = 0; block < out_blocks * in_blocks; ++block) {
    const int out = static_cast<int>(block / in_blocks) * kBlock, in = static_cast<int>(block % in_blocks) * kBlock;
    std::fill(square.begin(), square.end(), 0.0f);
    for (int i = 0; i < std::min(kBlock, in_channels - in); ++i) {
      const float* from = weights + (static_cast<ptrdiff_t>(out) * in_channels + in + i) * 9;
      const auto transform = patch == 6 ? transform_kernels<8> : transform_kernels<6>;
      transform(from, std::min(kBlock, out_channels - out), ptrdiff_t{in_channels} * 9, square.data() + i * kBlock,
                kSquare);
    }
    for (int position = 0; position < positions; ++position) {
      std::copy_n(square.data() + position * kSquare, kSquare,
                  values.get() + (position * out_blocks * in_blocks + block) * kSquare);
    }
  }
}

WinogradConv::WinogradConv(std::shared_ptr<const WinogradWeights> weights, const float* bias, Clamp clamp,
                           Addition addition, Layout output)
    : WinogradConv(std::move(weights), bias, clamp, addition, output, best_kernels()) {}

WinogradConv::WinogradConv(std::shared_ptr<const WinogradWeights> weights, const float* bias, Clamp clamp,
                           Addition addition, Layout output, const Kernels& kernels)
    : weights_(std::move(weights)),
      bias_(padded_bias(bias, weights_->out_channels, blocks_of(weights_->out_channels) * kBlock)),
      clamp_(clamp),
      addition_(addition),
      output_(output),
      kernels_(kernels) {}

std::size_t WinogradConv::scratch_floats(const ConvCall* levels, int count) const {
  const Plan plan = make_plan(*weights_, levels, count);
  return static_cast<std::size_t>(plan.lane_floats * plan.lanes) + kAlignment / sizeof(float);
}

void WinogradConv::run(const ConvCall* levels, int count, float* scratch, const ParallelFor& parallel_for) const {
  const WinogradWeights& weights = *weights_;
  const Plan plan = make_plan(weights, levels, count);
  const int in_blocks = blocks_of(weights.in_channels), out_blocks = blocks_of(weights.out_channels);
  const int positions = positions_of(weights.patch);
  const ptrdiff_t weights_square = kBlock * kBlock * ptrdiff_t{in_blocks};
  const bool planar = output_ == Layout::kPlanar;

  const auto run_block = [&](int block, float* values, const ParallelFor& for_each) {
    const int first = block * plan.block_patches, patches = std::min(plan.block_patches, plan.patches - first);
    if (patches <= 0) return;
    float* const products = values + plan.in_block_step * in_blocks;
    const int chunks = divided_up(patches, kChunkPatches);

    for_each(static_cast<std::size_t>(in_blocks * chunks), [&](std::size_t piece) {
      const auto in = static_cast<ptrdiff_t>(piece) / chunks;
      const int begin = static_cast<int>(piece) % chunks * kChunkPatches;
      const auto transform = [&](const ConvCall& call, const Patches& part, int at) {
        const ptrdiff_t pixels = static_cast<ptrdiff_t>(call.height) * call.width;
        float* const to = values + in * plan.in_block_step + ptrdiff_t{begin + at} * kBlock;
        kernels_.winograd.transform_input(weights.patch, {part, call.input + in * pixels * kBlock,
                                                          in_blocks * pixels * kBlock, to, plan.in_position_step});
      };
      plan.each_part(first + begin, std::min(kChunkPatches, patches - begin), transform);
    });
    for (int out = 0; out < out_blocks; out += plan.group) {
      const int group = std::min(plan.group, out_blocks - out);
      for_each(static_cast<std::size_t>(positions), [&](std::size_t piece) {
        const auto position = static_cast<ptrdiff_t>(piece);
        const ptrdiff_t tap = 0;
        Product product{};
        product.count = patches;
        product.input = values + position * plan.in_position_step;
        product.in_pixel_step = kBlock;
        product.in_block_step = plan.in_block_step;
        product.in_blocks = in_blocks;
        product.is_far = true;
        product.taps = &tap;
        product.tap_count = 1;
        product.weights = weights.values.get() + (position * out_blocks + out) * weights_square;
        product.out_blocks = group;
        product.output = products + position * plan.out_position_step;
        product.out_pixel_step = kBlock;
        product.out_block_step = plan.out_block_step;
        product.empty_lanes = in_blocks * kBlock - weights.in_channels;
        product.empty_outputs = empty_lanes(weights.out_channels, out, group);
        kernels_.multiply.multiply(product);
      });
      for_each(static_cast<std::size_t>(group * chunks), [&](std::size_t piece) {
        const auto place = static_cast<ptrdiff_t>(piece) / chunks, channel = (out + place) * kBlock;
        const int begin = static_cast<int>(piece) % chunks * kChunkPatches;
        const auto transform_part = [&](const ConvCall& call, const Patches& part, int at) {
          const ptrdiff_t pixels = static_cast<ptrdiff_t>(call.height) * call.width;
          const ptrdiff_t added_pixels = static_cast<ptrdiff_t>(call.added_height) * call.added_width;
          OutputTransform transform{};
          transform.patches = part;
          transform.values = products + place * plan.out_block_step + ptrdiff_t{begin + at} * kBlock;
          transform.position_step = plan.out_position_step;
          transform.bias = bias_.empty() ? nullptr : bias_.data() + channel;
          if (addition_ != Addition::kNone) transform.added = call.added + channel * added_pixels;
          transform.added_image_step = out_blocks * added_pixels * kBlock;
          transform.added_height = call.added_height;
          transform.added_width = call.added_width;
          transform.clamp = clamp_;
          transform.output = call.output + channel * pixels;
          transform.image_step = (planar ? weights.out_channels : out_blocks * kBlock) * pixels;
          if (planar) transform.planar_channels = std::min(kBlock, weights.out_channels - static_cast<int>(channel));
          kernels_.winograd.transform_output(weights.patch, transform);
        };
        plan.each_part(first + begin, std::min(kChunkPatches, patches - begin), transform_part);
      });
    }
  };

  scratch = aligned(scratch);
  if (plan.lanes == 1) {
    for (int block = 0; block < plan.blocks; ++block) run_block(block, scratch, parallel_for);
    return;
  }
  std::atomic<int> next{0};
  parallel_for(static_cast<std::size_t>(plan.lanes), [&](std::size_t lane) {
    float* const own = scratch + static_cast<ptrdiff_t>(lane) * plan.lane_floats;
    for (int block = next++; block < plan.blocks; block = next++) run_block(block, own, in_turn);
  });
}

}  // namespace retinasdk
