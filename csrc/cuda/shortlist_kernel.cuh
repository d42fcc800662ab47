// The kernel that reduces the candidates of a level to few more than top_k.
#pragma once

#include "cuda/decode_plan.cuh"
#include "cuda/nth_key.cuh"

namespace retinasdk::cuda {
namespace {

constexpr int kShortlistThreads = 512;
constexpr int kShortlistVectors = 4;  // As kFilterVectors.
constexpr int kKeysPerThread = 10;    // Keys that a thread loads at once.
constexpr uint32_t kKeysAtOnce = kShortlistThreads * kKeysPerThread;
// A segment has room for top_k keys, and for the hits of one vector of each thread.
constexpr uint32_t kMostHitsAtOnce = kShortlistThreads * Vector<__half>::kSize;

// A block's segment of the buffer, and how many keys are on its shortlist, which begins at the front of the segment.
// All threads have the same `kept`.
struct Segment {
  uint64_t* keys;
  uint32_t kept;
  int turn;
};

// Returns the last bin of the histogram that is needed: the bins up to it have at least `wanted` values, or they are
// all bins. All threads must call.
__device__ inline int last_bin_for(uint32_t wanted, const uint32_t* histogram, BlockPlaces<kShortlistThreads>& places) {
  constexpr int kShare = kBins / kShortlistThreads;
  __shared__ int last_bin;
  const int first = static_cast<int>(threadIdx.x) * kShare;
  uint32_t counts[kShare];
  uint32_t share = 0;
#pragma unroll
  for (int i = 0; i < kShare; ++i) {
    counts[i] = histogram[first + i];
    share += counts[i];
  }
  if (threadIdx.x == 0) last_bin = kBins - 1;
  uint32_t total;
  uint32_t up_to = places.place(share, 0, total);
#pragma unroll
  for (int i = 0; i < kShare; ++i) {
    const bool was_enough = up_to >= wanted;
    up_to += counts[i];
    if (!was_enough && up_to >= wanted) last_bin = first + i;
  }
  __syncthreads();
  return last_bin;
}

// Keeps the keys of a segment that `is_kept` accepts. keys: how many it has.
template <typename IsKept>
__device__ void compact(Segment& segment, uint32_t keys, BlockPlaces<kShortlistThreads>& places, IsKept is_kept) {
  segment.kept = 0;
  for (uint32_t first = 0; first < keys; first += kKeysAtOnce) {
    uint64_t loaded[kKeysPerThread];
    uint32_t kept = 0;
#pragma unroll
    for (int i = 0; i < kKeysPerThread; ++i) {
      const uint32_t at = first + static_cast<uint32_t>(i * kShortlistThreads) + threadIdx.x;
      loaded[i] = at < keys ? segment.keys[at] : 0;
      if (at < keys && is_kept(loaded[i])) kept |= 1u << i;
    }
    // All have read their keys at the barrier in place(), so the places may overwrite them.
    uint32_t total;
    uint32_t place = segment.kept + places.place(static_cast<uint32_t>(__popc(kept)), segment.turn, total);
    segment.turn = 1 - segment.turn;
#pragma unroll
    for (int i = 0; i < kKeysPerThread; ++i) {
      if ((kept >> i & 1u) != 0u) segment.keys[place++] = loaded[i];
    }
    segment.kept += total;
  }
}

// Reduces a segment to its best top_k keys, and returns the worst of them.
__device__ inline uint64_t prune(Segment& segment, uint32_t top_k, BlockPlaces<kShortlistThreads>& places) {
  __syncthreads();  // Other threads may have written keys.
  const uint64_t worst = nth_key(top_k, [&](auto body) {
    for (uint32_t i = threadIdx.x; i < segment.kept; i += kShortlistThreads) body(segment.keys[i]);
  });
  compact(segment, segment.kept, places, [&](uint64_t key) { return key <= worst; });
  return worst;
}

// Puts the keys of a level that can be among its best top_k on the shortlists of its segments. Grid: (segments of all
// levels, images). See Note [Decoding].
template <typename T>
__global__ void __launch_bounds__(kShortlistThreads, 1) shortlist(Plan plan) {
  __shared__ BlockPlaces<kShortlistThreads> places;
  int level_index = 0;
  while (level_index + 1 < plan.level_count && blockIdx.x >= plan.levels[level_index + 1].first_segment) ++level_index;
  const Level& level = plan.levels[level_index];
  const uint32_t slot = blockIdx.y * static_cast<uint32_t>(plan.level_count) + static_cast<uint32_t>(level_index);
  const uint32_t index = blockIdx.x - level.first_segment;
  const uint32_t begin = index * plan.segment_keys;
  const uint32_t found = plan.found[slot];
  const uint32_t top_k = static_cast<uint32_t>(plan.top_k);
  Segment segment{plan.buffer + blockIdx.y * plan.image_keys + level.first_key + begin, 0, 1};
  const bool is_complete = found <= level.buffer_keys;  // Whether the buffer holds all candidates.
  if (!is_complete || begin < found) {
    const int last_bin = last_bin_for(top_k, plan.histogram + slot * kBins, places);
    if (is_complete) {
      const uint32_t keys = found - begin < plan.segment_keys ? found - begin : plan.segment_keys;
      compact(segment, keys, places, [&](uint64_t key) { return bin_of(logit_of(key)) <= last_bin; });
    } else {
      const float threshold = strict_limit(*plan.logit_threshold, plan.or_equal);
      uint64_t worst = ~uint64_t{0};  // Keys beyond this one are not among the best of the segment.
      const Values<T> values(level, blockIdx.y);
      for_each_tile<kShortlistThreads, kShortlistVectors>(
          values, index, level.segments, [&](const Vector<T>(&loaded)[kShortlistVectors], uint32_t offset) {
#pragma unroll
            for (int v = 0; v < kShortlistVectors; ++v) {
              const uint32_t at = offset + static_cast<uint32_t>(v * kShortlistThreads * Vector<T>::kSize);
              uint32_t hits = 0;
              for_each_bit(loaded[v], candidates_in(loaded[v], at, threshold, plan, level), [&](float value, int i) {
                if (bin_of(value) > last_bin) return;
                if (key_at(value, at + static_cast<uint32_t>(i), plan, level) <= worst) hits |= 1u << i;
              });
              uint32_t total;
              uint32_t place = places.place(static_cast<uint32_t>(__popc(hits)), segment.turn, total);
              segment.turn = 1 - segment.turn;
              if (segment.kept + total > plan.segment_keys) worst = prune(segment, top_k, places);
              place += segment.kept;
              for_each_bit(loaded[v], hits, [&](float value, int i) {
                segment.keys[place++] = key_at(value, at + static_cast<uint32_t>(i), plan, level);
              });
              segment.kept += total;
            }
          });
      if (segment.kept > top_k) prune(segment, top_k, places);
    }
  }
  if (threadIdx.x == 0) plan.segment_counts[blockIdx.y * plan.image_segments + blockIdx.x] = segment.kept;
}

}  // namespace
}  // namespace retinasdk::cuda
