// Decoding in three launches: filter the logits into keys, select and sort the best keys of each level, compute boxes.
//
// Note [Rescan]
// The filter writes keys to a buffer of fixed size, in no particular order.
// If more logits pass than fit into the buffer of a level, the second launch reads the logits of that level again and
// does not use the buffer. This happens with an untrained network, for example.
// It is slower, but no candidate is lost, and the result equals that of the CPU.
// DeviceCandidates::rescans counts the levels that were read again, per image.
//
// Note [Top-k over anchors]
// With top_k_anchors, one more launch before these reads the logits and writes the best one of each anchor. The filter
// and the selection then work on these, as on a level with one class. The last launch reads the logits of the selected
// anchors again.
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/block_sort.cuh"
#include "math/box_math.h"
#include "math/rotated_math.h"

namespace retinasdk::cuda {
namespace {

constexpr int kLevels = 16;  // kMaxLevels of ops_cuda.h, which device-only compilers cannot include.
constexpr int kFilterThreads = 256;
constexpr int kVectorsPerThread = 4;  // Vectors of 16 bytes. All are loaded before the first is used, to hide latency.
constexpr int kSelectThreads = 512;
constexpr int kBoxThreads = 256;
constexpr int kDigitBits = 11;
constexpr int kDigits = 1 << kDigitBits;
constexpr unsigned kAllLanes = 0xffffffffu;

// A feature level.
struct Level {
  const void* logits;
  const void* deltas;
  const float* base_anchors;
  int height, width;
  float stride_y, stride_x;
  float clip_height, clip_width;
  uint32_t pairs;        // A * K * height * width, the number of logits of one image.
  int first_block;       // The level's first block in the grid of the filter.
  uint64_t first_key;    // Where the level's part of an image's buffer begins.
  uint32_t buffer_keys;  // How many keys that part holds.
  // Scratch with top_k_anchors, (images, A, height, width): the best logit of each anchor that passes, or -infinity.
  float* maxima;
};

// The arguments of the kernels. They are passed by value, so nothing has to be copied to the device before a launch.
struct Plan {
  Level levels[kLevels];
  int level_count, anchors, classes, top_k;
  int classes_of_key;   // How many candidates a selected key can give: K with top_k_anchors, else 1.
  uint64_t image_keys;  // The sum of buffer_keys over all levels.
  int sorted_keys;      // top_k, rounded up to a power of two.
  bool aligned;         // Whether the logits of all levels are aligned to 16 bytes.
  BoxCoder coder;
  RotatedCoder rotated;  // For rotated boxes only.
  bool or_equal, drop_empty;
  const float* logit_threshold;
  const uint8_t* class_mask;  // Or null, if all classes are enabled.
  const float* clip_sizes;
  const float* class_thresholds;  // Or null.
  const float* ignored;
  int ignored_regions;
  // Scratch, one entry for each image and level:
  uint32_t* passed;  // How many logits passed the filter, including those that did not fit into the buffer.
  uint64_t* best;    // (sorted_keys,), the best keys.
  int* best_counts;
  // Scratch, (images, image_keys): the keys that the filter found.
  uint64_t* buffer;
};

// Returns the buffer of a level and image.
__device__ inline uint64_t* buffer_of(const Plan& plan, const Level& level, uint32_t image) {
  return plan.buffer + image * plan.image_keys + level.first_key;
}

__device__ inline float to_float(float value) { return value; }
__device__ inline float to_float(__half value) { return __half2float(value); }

// 16 bytes that are loaded at once.
template <typename T>
struct alignas(16) Vector {
  static constexpr int kSize = 16 / sizeof(T);
  T values[kSize];
};

// The class of a logit, and its index for Note [Rank].
struct Pair {
  uint32_t class_id;
  uint32_t index;
};

// Returns the pair at `offset` in the logits of one image.
__device__ inline Pair pair_at(uint32_t offset, const Plan& plan, const Level& level) {
  const uint32_t cells = static_cast<uint32_t>(level.height) * static_cast<uint32_t>(level.width);
  const uint32_t channel = offset / cells;
  const uint32_t cell = offset - channel * cells;
  const uint32_t classes = static_cast<uint32_t>(plan.classes);
  const uint32_t anchor = channel / classes;
  const uint32_t class_id = channel - anchor * classes;
  return {class_id, (cell * static_cast<uint32_t>(plan.anchors) + anchor) * classes + class_id};
}

// Whether a class is enabled, and the logit passes its threshold.
__device__ inline bool is_wanted(float logit, uint32_t class_id, const Plan& plan) {
  if (plan.class_mask != nullptr && plan.class_mask[class_id] == 0) return false;
  return plan.class_thresholds == nullptr ||
         passes(logit, strict_limit(plan.class_thresholds[class_id], plan.or_equal));
}

// Whether the logit at `offset` passes the thresholds and its class is enabled.
__device__ inline bool is_candidate(float logit, float threshold, uint32_t offset, const Plan& plan,
                                    const Level& level) {
  if (!passes(logit, threshold)) return false;
  const uint32_t class_id = pair_at(offset, plan, level).class_id;
  return is_wanted(logit, class_id, plan);
}

// -- best of anchors -------------------------------------------------------------------------------------------------

// Computes the best logit of each anchor. Grid: (blocks, images, levels); neighboring threads read neighboring cells.
template <typename T>
__global__ void __launch_bounds__(kFilterThreads) best_of_anchors(Plan plan) {
  const Level& level = plan.levels[blockIdx.z];
  const uint32_t cells = static_cast<uint32_t>(level.height) * static_cast<uint32_t>(level.width);
  const uint32_t count = cells * static_cast<uint32_t>(plan.anchors);
  const uint32_t classes = static_cast<uint32_t>(plan.classes);
  const T* logits = static_cast<const T*>(level.logits) + uint64_t{blockIdx.y} * level.pairs;
  const float threshold = strict_limit(*plan.logit_threshold, plan.or_equal);
  for (uint32_t i = blockIdx.x * kFilterThreads + threadIdx.x; i < count; i += gridDim.x * kFilterThreads) {
    const uint32_t anchor = i / cells;
    const T* channels = logits + uint64_t{anchor} * classes * cells + (i - anchor * cells);
    float best = minus_infinity();
    for (uint32_t class_id = 0; class_id < classes; ++class_id) {
      const float logit = to_float(channels[uint64_t{class_id} * cells]);
      if (passes(logit, threshold) && logit > best && is_wanted(logit, class_id, plan)) best = logit;
    }
    level.maxima[uint64_t{blockIdx.y} * count + i] = best;
  }
}

// -- filter ----------------------------------------------------------------------------------------------------------

// Writes the keys of all logits that pass to the buffers. Grid: (blocks of all levels, images).
//
// Every logit is read once, 16 bytes at a time. A warp reserves space for all its hits with one atomic addition. Most
// warps have no hits.
template <typename T>
__global__ void __launch_bounds__(kFilterThreads) filter_logits(Plan plan) {
  constexpr int kSize = Vector<T>::kSize;
  int level_index = 0;
  while (level_index + 1 < plan.level_count &&
         static_cast<int>(blockIdx.x) >= plan.levels[level_index + 1].first_block) {
    ++level_index;
  }
  const Level& level = plan.levels[level_index];
  const T* logits = static_cast<const T*>(level.logits);
  const float threshold = strict_limit(*plan.logit_threshold, plan.or_equal);
  // Offsets count from the first image, because only its logits are certainly aligned.
  const uint64_t begin = uint64_t{blockIdx.y} * level.pairs;
  const uint64_t end = begin + level.pairs;
  const uint64_t all = uint64_t{gridDim.y} * level.pairs;
  const uint64_t block = blockIdx.x - static_cast<uint32_t>(level.first_block);
  const uint64_t first = begin / kSize + block * kFilterThreads * kVectorsPerThread + threadIdx.x;

  Vector<T> loaded[kVectorsPerThread];
#pragma unroll
  for (int v = 0; v < kVectorsPerThread; ++v) {
    const uint64_t start = (first + static_cast<uint64_t>(v) * kFilterThreads) * kSize;
    if (plan.aligned && start + kSize <= all) {
      loaded[v] = *reinterpret_cast<const Vector<T>*>(logits + start);
    } else {
#pragma unroll
      for (int i = 0; i < kSize; ++i) {
        if (start + i < all) loaded[v].values[i] = logits[start + i];
      }
    }
  }

  uint32_t hits = 0;  // Bit v * kSize + i stands for loaded[v].values[i].
#pragma unroll
  for (int v = 0; v < kVectorsPerThread; ++v) {
    const uint64_t start = (first + static_cast<uint64_t>(v) * kFilterThreads) * kSize;
#pragma unroll
    for (int i = 0; i < kSize; ++i) {
      const uint64_t at = start + i;
      if (at < begin || at >= end) continue;  // Belongs to another image, or lies behind the last one.
      if (is_candidate(to_float(loaded[v].values[i]), threshold, static_cast<uint32_t>(at - begin), plan, level)) {
        hits |= 1u << (v * kSize + i);
      }
    }
  }
  if (!__any_sync(kAllLanes, hits != 0)) return;

  const int lane = threadIdx.x % 32;
  const int count = __popc(hits);
  int before = count;  // First the hits of the lanes up to and including this one, then without this one.
  for (int distance = 1; distance < 32; distance *= 2) {
    const int lower = __shfl_up_sync(kAllLanes, before, distance);
    if (lane >= distance) before += lower;
  }
  const uint32_t warp_hits = static_cast<uint32_t>(__shfl_sync(kAllLanes, before, 31));
  before -= count;
  const uint32_t slot = blockIdx.y * static_cast<uint32_t>(plan.level_count) + static_cast<uint32_t>(level_index);
  uint32_t base = 0;
  if (lane == 0) base = atomicAdd(plan.passed + slot, warp_hits);
  uint32_t place = __shfl_sync(kAllLanes, base, 0) + static_cast<uint32_t>(before);
  uint64_t* buffer = buffer_of(plan, level, blockIdx.y);
  // The loop visits all bits, not only those that are set. Then the indices of loaded[] are constants, and it stays in
  // registers.
#pragma unroll
  for (int v = 0; v < kVectorsPerThread; ++v) {
#pragma unroll
    for (int i = 0; i < kSize; ++i) {
      if ((hits >> (v * kSize + i) & 1u) == 0u || place >= level.buffer_keys) continue;
      const uint64_t at = (first + static_cast<uint64_t>(v) * kFilterThreads) * kSize + i;
      const Pair pair = pair_at(static_cast<uint32_t>(at - begin), plan, level);
      buffer[place] = rank_key(to_float(loaded[v].values[i]), pair.index);
      ++place;
    }
  }
}

// -- select ----------------------------------------------------------------------------------------------------------

// Calls body(key) once for every candidate of a level and image. The keys come from the buffer, or from the logits as
// described in Note [Rescan].
template <typename T, typename Body>
__device__ void for_each_candidate(const Plan& plan, const Level& level, uint32_t slot, Body body) {
  const uint32_t passed = plan.passed[slot];
  if (passed <= level.buffer_keys) {
    const uint64_t* buffer = buffer_of(plan, level, blockIdx.y);
    for (uint32_t i = threadIdx.x; i < passed; i += blockDim.x) body(buffer[i]);
    return;
  }
  const T* logits = static_cast<const T*>(level.logits) + uint64_t{blockIdx.y} * level.pairs;
  const float threshold = strict_limit(*plan.logit_threshold, plan.or_equal);
  for (uint64_t i = threadIdx.x; i < level.pairs; i += blockDim.x) {
    const float logit = to_float(logits[i]);
    if (!is_candidate(logit, threshold, static_cast<uint32_t>(i), plan, level)) continue;
    body(rank_key(logit, pair_at(static_cast<uint32_t>(i), plan, level).index));
  }
}

// Returns an upper bound that exactly `wanted` keys of a level do not exceed. It is a radix selection: count the keys
// by their highest digit, find the digit of the wanted-th smallest key, and go on with the keys of that digit. All keys
// are different, so the selection ends with the last digit at the latest.
template <typename T>
__device__ uint64_t nth_key(const Plan& plan, const Level& level, uint32_t slot, uint32_t wanted) {
  __shared__ uint32_t counts[kDigits];
  __shared__ uint32_t chosen_digit, below_chosen, in_chosen;
  uint64_t prefix = 0;
  uint64_t known = 0;  // The bits of `prefix` that are determined.
  for (int shift = 55; shift >= 0; shift -= kDigitBits) {
    for (int digit = threadIdx.x; digit < kDigits; digit += blockDim.x) counts[digit] = 0;
    __syncthreads();
    for_each_candidate<T>(plan, level, slot, [&](uint64_t key) {
      if ((key & known) == prefix) atomicAdd(&counts[key >> shift & (kDigits - 1)], 1u);
    });
    __syncthreads();
    // Each lane sums a share of the digits. The lane that contains the wanted-th key searches its share.
    if (threadIdx.x < 32) {
      constexpr uint32_t kShare = kDigits / 32;
      const uint32_t first = threadIdx.x * kShare;
      uint32_t share = 0;
      for (uint32_t i = 0; i < kShare; ++i) share += counts[first + i];
      uint32_t up_to = share;
      for (int distance = 1; distance < 32; distance *= 2) {
        const uint32_t lower = __shfl_up_sync(kAllLanes, up_to, distance);
        if (static_cast<int>(threadIdx.x) >= distance) up_to += lower;
      }
      uint32_t below = up_to - share;
      if (below < wanted && wanted <= up_to) {
        uint32_t digit = first;
        while (below + counts[digit] < wanted) below += counts[digit++];
        chosen_digit = digit;
        below_chosen = below;
        in_chosen = counts[digit];
      }
    }
    __syncthreads();
    prefix |= uint64_t{chosen_digit} << shift;
    known |= static_cast<uint64_t>(kDigits - 1) << shift;
    wanted -= below_chosen;
    if (wanted == in_chosen) break;  // All keys with this digit are wanted.
  }
  return prefix | ~known;
}

// Selects and sorts the best top_k keys of each level. Grid: (levels, images).
template <typename T>
__global__ void __launch_bounds__(kSelectThreads) select_best(Plan plan) {
  __shared__ int gathered;
  const Level& level = plan.levels[blockIdx.x];
  const uint32_t slot = blockIdx.y * static_cast<uint32_t>(plan.level_count) + blockIdx.x;
  const uint32_t passed = plan.passed[slot];
  const uint32_t top_k = static_cast<uint32_t>(plan.top_k);
  const uint32_t count = passed < top_k ? passed : top_k;
  uint64_t* best = plan.best + uint64_t{slot} * static_cast<uint64_t>(plan.sorted_keys);

  const uint64_t worst = passed > top_k ? nth_key<T>(plan, level, slot, top_k) : ~uint64_t{0};
  if (threadIdx.x == 0) gathered = 0;
  __syncthreads();
  for_each_candidate<T>(plan, level, slot, [&](uint64_t key) {
    if (key <= worst) best[atomicAdd(&gathered, 1)] = key;
  });
  int sorted = 1;
  while (sorted < static_cast<int>(count)) sorted *= 2;
  for (int i = static_cast<int>(count + threadIdx.x); i < sorted; i += blockDim.x) best[i] = ~uint64_t{0};
  block_sort(best, sorted);
  if (threadIdx.x == 0) plan.best_counts[slot] = static_cast<int>(count);
}

// -- boxes -----------------------------------------------------------------------------------------------------------

// The arrays of DeviceCandidates.
struct Output {
  float* boxes;
  float* logits;
  int32_t* class_ids;
  int32_t* counts;
  int32_t* rescans;
  int capacity;
};

// How an upright box is decoded: the numbers of its values, of those of its anchor, and of its deltas.
struct UprightBoxes {
  static constexpr int kValues = 4, kAnchorValues = 4;
  __device__ static int deltas(const Plan&) { return 4; }
  __device__ static bool decode(const Plan& plan, const Level& level, const float* base, int row, int column,
                                const float (&delta)[kMaxDeltas], const BoxLimits& limits, float* values) {
    const Box anchor = anchor_box(base, level.stride_y, level.stride_x, row, column);
    Box box;
    const bool usable = decode_box(anchor, {delta[0], delta[1], delta[2], delta[3]}, plan.coder, limits, box);
    values[0] = box.x1;
    values[1] = box.y1;
    values[2] = box.x2;
    values[3] = box.y2;
    return usable;
  }
};

// How a rotated box is decoded.
struct RotatedBoxes {
  static constexpr int kValues = kRotatedValues, kAnchorValues = kRotatedAnchorValues;
  __device__ static int deltas(const Plan& plan) { return delta_count(plan.rotated); }
  __device__ static bool decode(const Plan& plan, const Level& level, const float* base, int row, int column,
                                const float (&delta)[kMaxDeltas], const BoxLimits& limits, float* values) {
    RotatedBox box;
    const RotatedBox anchor = rotated_anchor(base, level.stride_y, level.stride_x, row, column);
    const bool usable = decode_rotated_box(anchor, base[4], delta, plan.rotated, limits, box);
    store(box, values);
    return usable;
  }
};

// Computes the boxes of the best keys, level by level. Boxes outside the limits are dropped. Grid: (1, images).
template <typename T, typename Boxes>
__global__ void __launch_bounds__(kBoxThreads) make_boxes(Plan plan, Output output) {
  __shared__ int warp_counts[kBoxThreads / 32];
  const uint32_t image = blockIdx.y;
  const uint64_t offset = uint64_t{image} * static_cast<uint64_t>(output.capacity);
  const IgnoredRegions ignored{plan.ignored + int64_t{4} * image * plan.ignored_regions, plan.ignored_regions};
  const float threshold = strict_limit(*plan.logit_threshold, plan.or_equal);
  const uint32_t classes = static_cast<uint32_t>(plan.classes);
  const uint32_t classes_of_key = static_cast<uint32_t>(plan.classes_of_key);
  const uint32_t lane = threadIdx.x % 32;
  const uint32_t warp = threadIdx.x / 32;
  int written = 0;
  int rescans = 0;
  for (int l = 0; l < plan.level_count; ++l) {
    const Level& level = plan.levels[l];
    const uint32_t slot = image * static_cast<uint32_t>(plan.level_count) + static_cast<uint32_t>(l);
    const uint64_t* best = plan.best + uint64_t{slot} * static_cast<uint64_t>(plan.sorted_keys);
    const int64_t count = int64_t{plan.best_counts[slot]} * classes_of_key;
    const int64_t cells = int64_t{level.height} * level.width;
    const T* logits = static_cast<const T*>(level.logits) + uint64_t{image} * level.pairs;
    const T* deltas = static_cast<const T*>(level.deltas) + int64_t{image} * plan.anchors * Boxes::deltas(plan) * cells;
    const BoxLimits limits{level.clip_width >= 0.0f ? level.clip_width : plan.clip_sizes[2 * image + 1],
                           level.clip_height >= 0.0f ? level.clip_height : plan.clip_sizes[2 * image], plan.drop_empty,
                           ignored};
    if (plan.passed[slot] > level.buffer_keys) ++rescans;
    for (int64_t first = 0; first < count; first += kBoxThreads) {
      const int64_t i = first + threadIdx.x;
      const uint64_t key = i < count ? best[i / classes_of_key] : 0;
      const bool by_anchor = classes_of_key > 1;  // See Note [Top-k over anchors].
      const uint32_t pair = by_anchor ? index_of(key) : index_of(key) / classes;
      const int64_t cell = pair / static_cast<uint32_t>(plan.anchors);
      const int64_t anchor = pair - cell * plan.anchors;
      const uint32_t class_id = by_anchor ? static_cast<uint32_t>(i % classes_of_key) : index_of(key) - pair * classes;
      float logit = logit_of(key);
      float values[Boxes::kValues];
      bool usable = i < count;
      if (usable && by_anchor) {
        logit = to_float(logits[(anchor * classes + class_id) * cells + cell]) + 0.0f;  // +0 in place of -0.
        usable = passes(logit, threshold) && is_wanted(logit, class_id, plan);
      }
      if (usable) {
        const int count_of_deltas = Boxes::deltas(plan);
        float delta[kMaxDeltas];
#pragma unroll
        for (int d = 0; d < kMaxDeltas; ++d) {
          delta[d] = d < count_of_deltas ? to_float(deltas[(anchor * count_of_deltas + d) * cells + cell]) : 0.0f;
        }
        usable = Boxes::decode(plan, level, level.base_anchors + Boxes::kAnchorValues * anchor,
                               static_cast<int>(cell / level.width), static_cast<int>(cell % level.width), delta,
                               limits, values);
      }
      const unsigned usable_lanes = __ballot_sync(kAllLanes, usable);
      if (lane == 0) warp_counts[warp] = __popc(usable_lanes);
      __syncthreads();
      int place = written + __popc(usable_lanes & ((1u << lane) - 1u));
      for (uint32_t w = 0; w < kBoxThreads / 32; ++w) {
        if (w < warp) place += warp_counts[w];
        written += warp_counts[w];
      }
      __syncthreads();
      if (!usable) continue;
      const uint64_t at = offset + static_cast<uint64_t>(place);
#pragma unroll
      for (int v = 0; v < Boxes::kValues; ++v) output.boxes[Boxes::kValues * at + v] = values[v];
      output.logits[at] = logit;
      output.class_ids[at] = static_cast<int32_t>(class_id);
    }
  }
  if (threadIdx.x == 0) {
    output.counts[image] = written;
    if (output.rescans != nullptr) output.rescans[image] = rescans;
  }
}

}  // namespace
}  // namespace retinasdk::cuda

#ifndef __CUDACC_RTC__  // Device-only compilers stop here.
#include <algorithm>
#include <cmath>
#include <limits>

#include "cuda/cuda_support.h"

namespace retinasdk::cuda {
namespace {

static_assert(kLevels == kMaxLevels);
// The buffer of a level and image holds kBufferKeys keys, or one key for kPairsPerKey logits if that is more. In a
// photo full of objects, about 0.3% of the logits are above a score of 0.05. See Note [Rescan].
constexpr int64_t kBufferKeys = 32768;
constexpr int64_t kPairsPerKey = 64;
constexpr unsigned kAnchorBlocks = 512;  // Of best_of_anchors(), for each level and image. Each takes several anchors.

// Returns the number of blocks that filter one image of a level.
template <typename T>
int filter_blocks(uint32_t pairs) {
  // The logits of an image may begin and end inside a vector.
  const uint64_t vectors = pairs / Vector<T>::kSize + 2;
  const uint64_t per_block = uint64_t{kFilterThreads} * kVectorsPerThread;
  return static_cast<int>((vectors + per_block - 1) / per_block);
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
  plan.classes_of_key = options.top_k_anchors ? options.classes : 1;
  plan.sorted_keys = power_of_two_from(options.top_k);
  plan.aligned = true;
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
    const DeviceLevel& level = levels[l];
    require(
        level.height >= 1 && level.height <= 1 << 16 && level.width >= 1 && level.width <= 1 << 16,
        "level sides must be 1 to 65536, got " + std::to_string(level.height) + " x " + std::to_string(level.width));
    // The check has two steps, because the product of all four numbers may exceed int64.
    const int64_t cells = int64_t{level.height} * level.width;
    const int64_t channels = int64_t{options.anchors} * options.classes;
    require(cells <= std::numeric_limits<int32_t>::max() / channels,
            "a level has " + std::to_string(cells) + " cells of " + std::to_string(channels) +
                " (anchor, class) pairs, but at most 2147483647 pairs are supported");
    const auto pairs = static_cast<uint32_t>(cells * channels);
    const auto keys = static_cast<uint32_t>(std::min<int64_t>(pairs, std::max(kBufferKeys, pairs / kPairsPerKey)));
    plan.levels[l] = {level.logits,
                      level.deltas,
                      level.base_anchors,
                      level.height,
                      level.width,
                      level.stride_y,
                      level.stride_x,
                      level.clip_height,
                      level.clip_width,
                      pairs,
                      static_cast<int>(blocks),
                      plan.image_keys,
                      keys,
                      nullptr};
    plan.image_keys += keys;
    plan.aligned = plan.aligned && reinterpret_cast<uintptr_t>(level.logits) % 16 == 0;
    blocks += options.input == Scalar::kFloat16 ? filter_blocks<__half>(pairs) : filter_blocks<float>(pairs);
  }
  require(blocks <= std::numeric_limits<int32_t>::max(),
          "the levels have too many logits for one launch; reduce the input size or the batch");
  return plan;
}

// Sets the scratch parts of a plan.
void lay_out(Plan& plan, int batch, ScratchLayout& scratch) {
  const size_t slots = static_cast<size_t>(batch) * static_cast<size_t>(plan.level_count);
  plan.passed = scratch.take<uint32_t>(slots);
  plan.best_counts = scratch.take<int>(slots);
  plan.best = scratch.take<uint64_t>(slots * static_cast<size_t>(plan.sorted_keys));
  plan.buffer = scratch.take<uint64_t>(static_cast<size_t>(batch) * plan.image_keys);
}

// The plans of the launches. They differ with top_k_anchors only, see Note [Top-k over anchors].
struct Plans {
  Plan select;  // Of the filter and the selection.
  Plan boxes;   // Of the boxes.
};

// Checks the arguments, and lays out the scratch memory.
Plans make_plans(const std::vector<DeviceLevel>& levels, const DeviceDecodeOptions& options, ScratchLayout& scratch) {
  Plans plans{};
  plans.boxes = checked_plan(levels, options);
  if (!options.top_k_anchors) {
    lay_out(plans.boxes, options.batch, scratch);
    plans.select = plans.boxes;
    return plans;
  }
  std::vector<DeviceLevel> of_anchors = levels;
  for (size_t l = 0; l < levels.size(); ++l) {
    const int64_t anchors = int64_t{levels[l].height} * levels[l].width * options.anchors;
    plans.boxes.levels[l].maxima = scratch.take<float>(static_cast<size_t>(options.batch * anchors));
    of_anchors[l].logits = plans.boxes.levels[l].maxima;
  }
  DeviceDecodeOptions one_class = options;
  one_class.classes = 1;
  one_class.input = Scalar::kFloat32;
  one_class.class_mask = nullptr;
  one_class.class_thresholds = nullptr;
  one_class.top_k_anchors = false;
  plans.select = checked_plan(of_anchors, one_class);
  lay_out(plans.select, options.batch, scratch);
  plans.boxes.passed = plans.select.passed;
  plans.boxes.best = plans.select.best;
  plans.boxes.best_counts = plans.select.best_counts;
  for (size_t l = 0; l < levels.size(); ++l) plans.boxes.levels[l].buffer_keys = plans.select.levels[l].buffer_keys;
  return plans;
}

template <typename T>
void launch_selection(const Plan& plan, unsigned images, Stream stream) {
  const Level& last = plan.levels[plan.level_count - 1];
  const auto blocks = static_cast<unsigned>(last.first_block + filter_blocks<T>(last.pairs));
  launch("filter_logits", filter_logits<T>, dim3(blocks, images), dim3(kFilterThreads), stream, plan);
  launch("select_best", select_best<T>, dim3(static_cast<unsigned>(plan.level_count), images), dim3(kSelectThreads),
         stream, plan);
}

template <typename T>
void launch_decode(const Plans& plans, const DeviceDecodeOptions& options, const Output& output, Stream stream) {
  const auto images = static_cast<unsigned>(options.batch);
  if (options.top_k_anchors) {
    const auto levels = static_cast<unsigned>(plans.boxes.level_count);
    launch("best_of_anchors", best_of_anchors<T>, dim3(kAnchorBlocks, images, levels), dim3(kFilterThreads), stream,
           plans.boxes);
    launch_selection<float>(plans.select, images, stream);
  } else {
    launch_selection<T>(plans.select, images, stream);
  }
  launch("make_boxes", options.rotated != nullptr ? make_boxes<T, RotatedBoxes> : make_boxes<T, UprightBoxes>,
         dim3(1, images), dim3(kBoxThreads), stream, plans.boxes, output);
}

}  // namespace

size_t decode_scratch_bytes(const std::vector<DeviceLevel>& levels, const DeviceDecodeOptions& options) {
  ScratchLayout layout;
  make_plans(levels, options, layout);
  return layout.size_bytes();
}

void decode(const std::vector<DeviceLevel>& levels, const DeviceDecodeOptions& options,
            const DeviceCandidates& candidates, Scratch scratch, Stream stream) {
  require_scratch(scratch, decode_scratch_bytes(levels, options));
  ScratchLayout layout(scratch.data);
  const Plans plans = make_plans(levels, options, layout);
  const int64_t wanted = int64_t{plans.boxes.level_count} * options.top_k * plans.boxes.classes_of_key;
  require(candidates.capacity >= wanted, "the capacity of the candidates must be at least " + std::to_string(wanted) +
                                             " (levels * top_k, times classes with top_k_anchors), got " +
                                             std::to_string(candidates.capacity));
  const Output output{candidates.boxes,  candidates.logits,  candidates.class_ids,
                      candidates.counts, candidates.rescans, candidates.capacity};
  const size_t slots = static_cast<size_t>(options.batch) * static_cast<size_t>(plans.select.level_count);
  check(cudaMemsetAsync(plans.select.passed, 0, slots * sizeof(uint32_t), static_cast<cudaStream_t>(stream)),
        "cudaMemsetAsync");
  if (options.input == Scalar::kFloat16) {
    launch_decode<__half>(plans, options, output, stream);
  } else {
    launch_decode<float>(plans, options, output, stream);
  }
}

}  // namespace retinasdk::cuda
#endif
