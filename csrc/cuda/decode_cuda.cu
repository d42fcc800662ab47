// Decoding: from the network's logits and deltas to candidates with boxes.
//
// Note [Decoding]
// Three launches, in which no logit is read more than twice and no block reads a whole level:
// 1. filter_values() reads the logits once. It writes the keys of those that pass to a buffer of fixed size, in no
//    particular order, and counts all that pass in a histogram of their logits.
// 2. shortlist() finds the bin of the histogram that holds the top_k-th candidate, and keeps the keys up to that bin:
//    few more than top_k. Each block does this for a segment of the buffer.
//    If more candidates passed than the buffer holds, as with an untrained network, the blocks read the logits of that
//    level again instead, each a share of them, and fill their segments. DeviceCandidates::rescans counts these levels.
//    A segment that gets full is reduced to its best top_k keys. So no candidate is lost, even if all logits are equal.
// 3. select_best() selects and sorts the best top_k of each level and computes their boxes.
// The order of keys is total, see Note [Rank]. So the result does not depend on the order in which threads run.
//
// Note [Top-k over anchors]
// With top_k_anchors, one more launch before these reads the logits and writes the best one of each anchor. The filter
// and the shortlist then work on these, as on a level with one class. The last launch reads the logits of the selected
// anchors again.
#include "cuda/filter_kernels.cuh"
#include "cuda/select_kernel.cuh"
#include "cuda/shortlist_kernel.cuh"

#ifndef __CUDACC_RTC__  // Device-only compilers stop here.
#include <algorithm>
#include <cmath>
#include <limits>

#include "cuda/cuda_support.h"

namespace retinasdk::cuda {
namespace {

static_assert(kLevels == kMaxLevels);
// The buffer of a level and image has kLeastSegments segments, or room for one in kValuesPerKey values if that is more.
// In a photo full of objects, about 0.3% of the logits are above a score of 0.05.
constexpr int64_t kLeastSegments = 12;
constexpr int64_t kValuesPerKey = 64;
constexpr uint32_t kTilesPerBlock = 4;   // Of the filter, so that a block adds up its histogram for several tiles.
constexpr unsigned kAnchorBlocks = 512;  // Of best_of_anchors(), for each level and image. Each takes several anchors.

// Returns the number of blocks that filter one image of a level.
template <typename T>
uint32_t filter_blocks(uint32_t values) {
  constexpr uint32_t kTile = kFilterThreads * kFilterVectors * Vector<T>::kSize;
  const uint32_t tiles = values / kTile + 2;  // One more for a part of a tile, and one for loose values.
  return (tiles + kTilesPerBlock - 1) / kTilesPerBlock;
}

// Returns `value`, rounded up to a multiple of `unit`.
int64_t round_up(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }

// Divides the buffer of an image into parts for the levels, and these into segments. See kernel shortlist().
void lay_out_buffer(Plan& plan) {
  // Segments must have room for top_k keys and the hits of a vector of each thread. In shared memory, there is room for
  // kMaxSegments counts.
  int64_t most_keys = 0;
  for (int l = 0; l < plan.level_count; ++l) {
    most_keys = std::max<int64_t>(most_keys, plan.levels[l].value_count / kValuesPerKey);
  }
  const int64_t segment_keys =
      std::max<int64_t>(plan.top_k + int64_t{kMostHitsAtOnce}, (most_keys + kMaxSegments - 2) / (kMaxSegments - 1));
  plan.segment_keys = static_cast<uint32_t>(round_up(segment_keys, kShortlistThreads));
  for (int l = 0; l < plan.level_count; ++l) {
    Level& level = plan.levels[l];
    int64_t keys = std::max<int64_t>(level.value_count / kValuesPerKey, kLeastSegments * plan.segment_keys);
    keys = std::min<int64_t>(round_up(keys, plan.segment_keys), level.value_count);
    level.first_segment = plan.image_segments;
    level.segments = static_cast<uint32_t>((keys + plan.segment_keys - 1) / plan.segment_keys);
    level.first_key = plan.image_keys;
    level.buffer_keys = static_cast<uint32_t>(keys);
    plan.image_segments += level.segments;
    plan.image_keys += static_cast<uint64_t>(keys);
  }
}

template <typename Coder>
void require_coder(const Coder& coder) {
  for (const float weight : coder.weights) {
    require(weight > 0.0f, "box coder weights must be above 0, got " + std::to_string(weight));
  }
  for (const float mean : coder.means) {
    require(std::isfinite(mean), "box coder means must be finite, got " + std::to_string(mean));
  }
}

// Returns where the values of a head output lie. cell_stride: as in DeviceLevel.
HeadLayout head_layout(const char* name, int cell_stride, int64_t channels, int64_t cells) {
  if (cell_stride == 0) {
    return {static_cast<uint32_t>(cells), 1, static_cast<uint64_t>(channels * cells)};
  }
  require(cell_stride >= channels, "the cell stride of the " + std::string(name) + " must be 0 or at least " +
                                       std::to_string(channels) + ", their number of channels, got " +
                                       std::to_string(cell_stride));
  require(cells <= std::numeric_limits<int32_t>::max() / cell_stride,
          "a level has " + std::to_string(cells) + " cells of " + std::to_string(cell_stride) +
              " values, but at most 2147483647 values are supported");
  return {1, static_cast<uint32_t>(cell_stride), static_cast<uint64_t>(cells * cell_stride)};
}

// Checks the arguments and returns the plan without its scratch parts.
Plan checked_plan(const std::vector<DeviceLevel>& levels, const DeviceDecodeOptions& options) {
  require(!levels.empty() && levels.size() <= kMaxLevels,
          "decode takes 1 to " + std::to_string(kMaxLevels) + " levels, got " + std::to_string(levels.size()));
  require(options.batch >= 1 && options.batch <= 65535,
          "batch must be 1 to 65535, got " + std::to_string(options.batch));
  require(options.anchors >= 1 && options.anchors <= 1024,
          "anchors per cell must be 1 to 1024, got " + std::to_string(options.anchors));
  require(options.classes >= 1 && options.classes <= 1 << 16,
          "classes must be 1 to 65536, got " + std::to_string(options.classes));
  require(options.top_k >= 1 && options.top_k <= 1 << 20,
          "top_k must be 1 to 1048576, got " + std::to_string(options.top_k));
  require_coder(options.coder);
  Plan plan{};
  if (options.rotated != nullptr) {
    require_coder(*options.rotated);
    plan.rotated = *options.rotated;
  }
  plan.level_count = static_cast<int>(levels.size());
  plan.anchors = options.anchors;
  plan.classes = options.classes;
  plan.top_k = options.top_k;
  plan.by_anchor = options.top_k_anchors;
  plan.class_divisor = make_divisor(static_cast<uint32_t>(options.classes));
  plan.channels = static_cast<uint32_t>(options.anchors * (plan.by_anchor ? 1 : options.classes));
  plan.best_keys = power_of_two_from(std::max(options.top_k, kSharedKeys));
  plan.coder = options.coder;
  plan.or_equal = options.or_equal;
  plan.drop_empty = options.drop_empty;
  plan.logit_threshold = options.logit_threshold;
  plan.class_mask = options.class_mask;
  plan.clip_sizes = options.clip_sizes;
  plan.class_thresholds = options.class_thresholds;
  plan.ignored = options.ignored;
  plan.ignored_regions = options.ignored_regions;
  int64_t blocks = 0;
  for (size_t l = 0; l < levels.size(); ++l) {
    const DeviceLevel& given = levels[l];
    require(
        given.height >= 1 && given.height <= 1 << 16 && given.width >= 1 && given.width <= 1 << 16,
        "level sides must be 1 to 65536, got " + std::to_string(given.height) + " x " + std::to_string(given.width));
    // The check has two steps, because the product of all four numbers may exceed int64.
    const int64_t cells = int64_t{given.height} * given.width;
    const int64_t channels = int64_t{options.anchors} * options.classes;
    require(cells <= std::numeric_limits<int32_t>::max() / channels,
            "a level has " + std::to_string(cells) + " cells of " + std::to_string(channels) +
                " (anchor, class) pairs, but at most 2147483647 pairs are supported");
    Level& level = plan.levels[l];
    level.logits = given.logits;
    level.deltas = given.deltas;
    level.base_anchors = given.base_anchors;
    level.height = given.height;
    level.width = given.width;
    level.stride_y = given.stride_y;
    level.stride_x = given.stride_x;
    level.clip_height = given.clip_height;
    level.clip_width = given.clip_width;
    level.logit_layout = head_layout("logits", given.logit_cell_stride, channels, cells);
    const int64_t deltas = int64_t{options.anchors} * (options.rotated != nullptr ? delta_count(*options.rotated) : 4);
    level.delta_layout = head_layout("deltas", given.delta_cell_stride, deltas, cells);
    level.values = given.logits;
    level.channels_last = !plan.by_anchor && given.logit_cell_stride != 0;
    level.outer_step = static_cast<uint32_t>(level.channels_last ? given.logit_cell_stride : cells);
    level.outer = make_divisor(level.outer_step);
    level.value_count = static_cast<uint32_t>(plan.by_anchor ? cells * options.anchors : level.logit_layout.image_step);
    level.first_block = static_cast<uint32_t>(blocks);
    level.blocks = !plan.by_anchor && options.input == Scalar::kFloat16 ? filter_blocks<__half>(level.value_count)
                                                                        : filter_blocks<float>(level.value_count);
    blocks += level.blocks;
  }
  lay_out_buffer(plan);
  return plan;
}

// The part of the scratch memory that must be zero before the first kernel.
struct Counters {
  void* data;
  size_t size_bytes;
};

// Sets the scratch parts of a plan.
Counters lay_out(Plan& plan, int batch, ScratchLayout& scratch) {
  const auto images = static_cast<size_t>(batch);
  const size_t slots = images * static_cast<size_t>(plan.level_count);
  const size_t counters = slots * kBins + slots + images;
  plan.histogram = scratch.take<uint32_t>(counters);
  if (plan.histogram != nullptr) {  // It is null when only the size is wanted, and nothing may be added to null.
    plan.found = plan.histogram + slots * kBins;
    plan.finished = plan.found + slots;
  }
  plan.usable = scratch.take<uint32_t>(slots);
  plan.segment_counts = scratch.take<uint32_t>(images * plan.image_segments);
  plan.best = scratch.take<uint64_t>(slots * static_cast<size_t>(plan.best_keys));
  plan.buffer = scratch.take<uint64_t>(images * plan.image_keys);
  for (int l = 0; plan.by_anchor && l < plan.level_count; ++l) {
    Level& level = plan.levels[l];
    level.maxima = scratch.take<float>(images * level.value_count);
    level.values = level.maxima;
  }
  return {plan.histogram, counters * sizeof(uint32_t)};
}

// Launches the kernels that read what the filter reads: logits of type T, or the best logits of anchors.
template <typename T>
void launch_filter(const Plan& plan, unsigned images, Stream stream) {
  const Level& last = plan.levels[plan.level_count - 1];
  launch("filter_values", filter_values<T>, dim3(last.first_block + last.blocks, images), dim3(kFilterThreads), stream,
         plan);
  launch("shortlist", shortlist<T>, dim3(plan.image_segments, images), dim3(kShortlistThreads), stream, plan);
}

template <typename T>
void launch_decode(const Plan& plan, const DeviceDecodeOptions& options, const Output& output, Stream stream) {
  const auto images = static_cast<unsigned>(options.batch);
  const auto levels = static_cast<unsigned>(plan.level_count);
  if (plan.by_anchor) {
    launch("best_of_anchors", best_of_anchors<T>, dim3(kAnchorBlocks, images, levels), dim3(kFilterThreads), stream,
           plan);
    launch_filter<float>(plan, images, stream);
  } else {
    launch_filter<T>(plan, images, stream);
  }
  launch("select_best", options.rotated != nullptr ? select_best<T, RotatedBoxes> : select_best<T, UprightBoxes>,
         dim3(levels, images), dim3(kSelectThreads), stream, plan, output);
}

}  // namespace

size_t decode_scratch_bytes(const std::vector<DeviceLevel>& levels, const DeviceDecodeOptions& options) {
  Plan plan = checked_plan(levels, options);
  ScratchLayout layout;
  lay_out(plan, options.batch, layout);
  return layout.size_bytes();
}

void decode(const std::vector<DeviceLevel>& levels, const DeviceDecodeOptions& options,
            const DeviceCandidates& candidates, Scratch scratch, Stream stream) {
  require_scratch(scratch, decode_scratch_bytes(levels, options));
  Plan plan = checked_plan(levels, options);
  ScratchLayout layout(scratch.data);
  const Counters counters = lay_out(plan, options.batch, layout);
  const int64_t classes_of_key = plan.by_anchor ? plan.classes : 1;
  const int64_t wanted = int64_t{plan.level_count} * options.top_k * classes_of_key;
  require(candidates.capacity >= wanted, "the capacity of the candidates must be at least " + std::to_string(wanted) +
                                             " (levels * top_k, times classes with top_k_anchors), got " +
                                             std::to_string(candidates.capacity));
  const Output output{candidates.boxes,  candidates.logits,  candidates.class_ids,
                      candidates.counts, candidates.rescans, candidates.capacity};
  check(cudaMemsetAsync(counters.data, 0, counters.size_bytes, static_cast<cudaStream_t>(stream)), "cudaMemsetAsync");
  if (options.input == Scalar::kFloat16) {
    launch_decode<__half>(plan, options, output, stream);
  } else {
    launch_decode<float>(plan, options, output, stream);
  }
}

}  // namespace retinasdk::cuda
#endif
