// The arguments of the decode kernels, and how logits are addressed and judged.
#pragma once

#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "math/box_math.h"
#include "math/divisor.h"
#include "math/rotated_math.h"

namespace retinasdk::cuda {
namespace {

constexpr int kLevels = 16;  // kMaxLevels of ops_cuda.h, which device-only compilers cannot include.
constexpr int kBins = 2048;  // Of the histogram of logits, see bin_of().
constexpr unsigned kAllLanes = 0xffffffffu;

// Where the values of a head output lie.
struct HeadLayout {
  uint32_t channel_step, cell_step;  // From one channel to the next, and from one cell to the next.
  uint64_t image_step;

  __device__ uint64_t at(uint32_t image, uint32_t channel, uint32_t cell) const {
    return image * image_step + uint64_t{channel} * channel_step + uint64_t{cell} * cell_step;
  }
};

// A feature level.
struct Level {
  const void* logits;
  const void* deltas;
  const float* base_anchors;
  HeadLayout logit_layout, delta_layout;
  int height, width;
  float stride_y, stride_x;
  float clip_height, clip_width;
  // What the filter reads for each image: the logits, or with top_k_anchors the best logit of each anchor.
  // They lie by channel and cell, or by cell and channel. The channels are the pairs of an anchor and a class, or the
  // anchors. Behind the channels of a cell there may be values without a meaning.
  const void* values;
  float* maxima;           // Scratch, the same array as `values`, to be written. With top_k_anchors only.
  uint32_t value_count;    // For each image.
  bool channels_last;      // Whether values lie by cell and channel.
  uint32_t outer_step;     // Values of a channel, or with channels_last of a cell.
  Divisor outer;           // outer_step.
  uint32_t first_block;    // The level's first block in the grid of the filter.
  uint32_t blocks;         // How many blocks filter one image of the level.
  uint32_t first_segment;  // The level's first segment in an image's buffer.
  uint32_t segments;       // How many segments it has.
  uint64_t first_key;      // Where the level's part of an image's buffer begins.
  uint32_t buffer_keys;    // How many keys that part holds.
};

// The arguments of the kernels. They are passed by value, so nothing has to be copied to the device before a launch.
// A slot is a level of an image: image * level_count + level.
struct Plan {
  Level levels[kLevels];
  int level_count, anchors, classes, top_k;
  bool by_anchor;         // top_k_anchors, see Note [Top-k over anchors].
  Divisor class_divisor;  // classes.
  uint32_t channels;      // Of the values: A * K, or A with top_k_anchors.
  uint64_t image_keys;    // The sum of buffer_keys over all levels.
  uint32_t image_segments;
  uint32_t segment_keys;  // How many keys a segment of the buffer holds.
  int best_keys;          // How many keys `best` holds for each slot. A power of two.
  BoxCoder coder;
  RotatedCoder rotated;  // For rotated boxes only.
  bool or_equal, drop_empty;
  const float* logit_threshold;
  const uint8_t* class_mask;  // Or null, if all classes are enabled.
  const float* clip_sizes;
  const float* class_thresholds;  // Or null.
  const float* ignored;
  int ignored_regions;
  // Scratch that is zero before the first kernel:
  uint32_t* found;      // (slots,), how many values passed the filter, including those without room in the buffer.
  uint32_t* finished;   // (images,), how many levels have their boxes.
  uint32_t* histogram;  // (slots, kBins), how many values passed the filter, by bin.
  // Other scratch:
  uint32_t* usable;          // (slots,), how many boxes met the limits.
  uint32_t* segment_counts;  // (images, image_segments), how many keys of each segment are on the shortlist.
  uint64_t* best;            // (slots, best_keys).
  uint64_t* buffer;          // (images, image_keys), the keys of the values that passed.
};

__device__ inline float to_float(float value) { return value; }
__device__ inline float to_float(__half value) { return __half2float(value); }

// A value that never passes: NaN.
template <typename T>
__device__ inline T rejected();
template <>
__device__ inline float rejected<float>() {
  return __uint_as_float(0x7fffffffu);
}
template <>
__device__ inline __half rejected<__half>() {
  return __ushort_as_half(0x7fffu);
}

// The bin of a logit in the histogram. A higher logit is never in a higher bin. The bins are 1/64 wide, because scores
// differ visibly over that distance, and cover -16 to 16. The first and the last one take what lies outside.
__device__ inline int bin_of(float logit) {
  const float place = (16.0f - logit) * 64.0f;
  return place < 0.0f ? 0 : place < static_cast<float>(kBins) ? static_cast<int>(place) : kBins - 1;
}

// Whether a class is enabled, and the logit passes its threshold.
__device__ inline bool is_wanted(float logit, uint32_t class_id, const Plan& plan) {
  if (plan.class_mask != nullptr && plan.class_mask[class_id] == 0) return false;
  return plan.class_thresholds == nullptr ||
         passes(logit, strict_limit(plan.class_thresholds[class_id], plan.or_equal));
}

// The channel and the cell of a value.
struct Place {
  uint32_t channel, cell;
};

// Returns the place of the value at `offset` among the values of an image.
__device__ inline Place place_of(uint32_t offset, const Level& level) {
  const uint32_t outer = divide(offset, level.outer);
  const uint32_t inner = offset - outer * level.outer_step;
  return level.channels_last ? Place{inner, outer} : Place{outer, inner};
}

// Returns the key of the value at `offset` among the values of an image, see Note [Rank]. The index in the key counts
// cells first, then anchors, then classes, as on the CPU.
__device__ inline uint64_t key_at(float value, uint32_t offset, const Plan& plan, const Level& level) {
  const Place place = place_of(offset, level);
  return rank_key(value, place.cell * plan.channels + place.channel);
}

// 16 bytes that are loaded at once.
template <typename T>
struct alignas(16) Vector {
  static constexpr int kSize = 16 / sizeof(T);
  T values[kSize];
};

// The values of a level for one image: aligned vectors, and loose values before the first and after the last of them.
template <typename T>
struct Values {
  const T* first;
  uint32_t count, head, vectors;

  __device__ Values(const Level& level, uint32_t image)
      : first(static_cast<const T*>(level.values) + uint64_t{image} * level.value_count), count(level.value_count) {
    const auto beyond = static_cast<uint32_t>(reinterpret_cast<uintptr_t>(first) % sizeof(Vector<T>));
    head = (static_cast<uint32_t>(sizeof(Vector<T>)) - beyond) % sizeof(Vector<T>) / sizeof(T);
    head = head < count ? head : count;
    vectors = (count - head) / Vector<T>::kSize;
  }
  __device__ uint32_t loose() const { return count - vectors * Vector<T>::kSize; }
  __device__ uint32_t loose_offset(uint32_t i) const { return i < head ? i : i + vectors * Vector<T>::kSize; }
};

// Calls body(loaded, offset) for each tile of values that falls to a block, `block` of `blocks`. In a tile, each thread
// has kVectors vectors, all loaded before the first is used, to hide latency. Vector v begins at the value
// offset + v * kThreads * kSize. Values without a place in the level are rejected<T>().
template <int kThreads, int kVectors, typename T, typename Body>
__device__ void for_each_tile(const Values<T>& values, uint32_t block, uint32_t blocks, Body body) {
  constexpr uint32_t kTile = kThreads * kVectors;
  const uint32_t tiles = (values.vectors + kTile - 1) / kTile;
  const uint32_t loose_tiles = values.loose() > 0 ? 1 : 0;  // The last one. Loose values are fewer than a warp.
  for (uint32_t tile = block; tile < tiles + loose_tiles; tile += blocks) {
    Vector<T> loaded[kVectors];
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
#pragma unroll
      for (int i = 0; i < Vector<T>::kSize; ++i) loaded[v].values[i] = rejected<T>();
    }
    uint32_t offset = 0;
    if (tile < tiles) {
      const uint32_t mine = tile * kTile + threadIdx.x;
      offset = values.head + mine * Vector<T>::kSize;
#pragma unroll
      for (int v = 0; v < kVectors; ++v) {
        if (mine + v * kThreads >= values.vectors) continue;
        loaded[v] = *reinterpret_cast<const Vector<T>*>(values.first + offset + v * kThreads * Vector<T>::kSize);
      }
    } else if (threadIdx.x < values.loose()) {
      offset = values.loose_offset(threadIdx.x);
      loaded[0].values[0] = values.first[offset];
    }
    body(loaded, offset);
  }
}

// Calls body(value, i) for each set bit i of `bits`, where bit i stands for vector.values[i]. The loop visits bits, but
// the index of the vector must be a constant for it to stay in registers. Hence the comparison with each position.
template <typename T, typename Body>
__device__ inline void for_each_bit(const Vector<T>& vector, uint32_t bits, Body body) {
  while (bits != 0u) {
    const int bit = __ffs(static_cast<int>(bits)) - 1;
    T value = vector.values[0];
#pragma unroll
    for (int i = 1; i < Vector<T>::kSize; ++i) {
      if (bit == i) value = vector.values[i];
    }
    body(to_float(value), bit);
    bits &= bits - 1u;
  }
}

// Returns which values of a vector pass the threshold, the mask and the thresholds of classes. Bit i stands for
// vector.values[i], which is the value `offset + i` of the level.
template <typename T>
__device__ inline uint32_t candidates_in(const Vector<T>& vector, uint32_t offset, float threshold, const Plan& plan,
                                         const Level& level) {
  uint32_t passing = 0;
#pragma unroll
  for (int i = 0; i < Vector<T>::kSize; ++i) {
    if (passes(to_float(vector.values[i]), threshold)) passing |= 1u << i;
  }
  if (plan.by_anchor) return passing;  // The best logits of anchors are of wanted classes only.
  uint32_t wanted = 0;
  for_each_bit(vector, passing, [&](float logit, int i) {
    const uint32_t channel = place_of(offset + static_cast<uint32_t>(i), level).channel;
    if (channel >= plan.channels) return;
    const uint32_t anchor = divide(channel, plan.class_divisor);
    if (is_wanted(logit, channel - anchor * static_cast<uint32_t>(plan.classes), plan)) wanted |= 1u << i;
  });
  return wanted;
}

// Places for what the threads of a block count. All threads must call.
template <int kThreads>
struct BlockPlaces {
  // A call writes one array and reads it after a barrier. The next call uses the other array, so it needs no second
  // barrier.
  uint32_t of_warp[2][kThreads / 32];

  // Returns the sum of the counts of all earlier threads, and sets `total` to the sum of all counts. `turn` must be 0
  // or 1, and differ from that of the previous call.
  __device__ uint32_t place(uint32_t count, int turn, uint32_t& total) {
    const int lane = static_cast<int>(threadIdx.x % 32);
    uint32_t up_to = count;
    for (int distance = 1; distance < 32; distance *= 2) {
      const uint32_t lower = __shfl_up_sync(kAllLanes, up_to, static_cast<unsigned>(distance));
      if (lane >= distance) up_to += lower;
    }
    if (lane == 31) of_warp[turn][threadIdx.x / 32] = up_to;
    __syncthreads();
    uint32_t before = 0;
    total = 0;
    for (int warp = 0; warp < kThreads / 32; ++warp) {
      if (warp == static_cast<int>(threadIdx.x / 32)) before = total;
      total += of_warp[turn][warp];
    }
    return before + up_to - count;
  }
};

}  // namespace
}  // namespace retinasdk::cuda
