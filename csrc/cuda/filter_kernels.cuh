// The kernels that read every logit: the filter, and with top_k_anchors the search for the best logit of each anchor.
#pragma once

#include "cuda/decode_plan.cuh"

namespace retinasdk::cuda {
namespace {

constexpr int kFilterThreads = 256;
constexpr int kFilterVectors = 4;  // Vectors of 16 bytes that a thread loads at once.

// Computes the best logit of each anchor. Grid: (blocks, images, levels); neighboring threads read neighboring cells.
template <typename T>
__global__ void __launch_bounds__(kFilterThreads) best_of_anchors(Plan plan) {
  const Level& level = plan.levels[blockIdx.z];
  const auto classes = static_cast<uint32_t>(plan.classes);
  const T* logits = static_cast<const T*>(level.logits);
  const float threshold = strict_limit(*plan.logit_threshold, plan.or_equal);
  for (uint32_t i = blockIdx.x * kFilterThreads + threadIdx.x; i < level.value_count; i += gridDim.x * kFilterThreads) {
    const Place place = place_of(i, level);  // The channels of the best logits are the anchors.
    const T* first = logits + level.logit_layout.at(blockIdx.y, place.channel * classes, place.cell);
    float best = minus_infinity();
    for (uint32_t class_id = 0; class_id < classes; ++class_id) {
      const float logit = to_float(first[uint64_t{class_id} * level.logit_layout.channel_step]);
      if (passes(logit, threshold) && logit > best && is_wanted(logit, class_id, plan)) best = logit;
    }
    level.maxima[uint64_t{blockIdx.y} * level.value_count + i] = best;
  }
}

// Writes the keys of all values that pass to the buffers, as far as they have room, and counts them by bin. Grid:
// (blocks of all levels, images).
//
// A block takes room for the hits of a tile with one atomic addition. Its part of the histogram stays in shared memory
// until its last tile, because many hits may fall into few bins.
template <typename T>
__global__ void __launch_bounds__(kFilterThreads) filter_values(Plan plan) {
  __shared__ uint32_t histogram[kBins];
  __shared__ BlockPlaces<kFilterThreads> places;
  __shared__ uint32_t room;
  int level_index = 0;
  while (level_index + 1 < plan.level_count && blockIdx.x >= plan.levels[level_index + 1].first_block) ++level_index;
  const Level& level = plan.levels[level_index];
  const uint32_t slot = blockIdx.y * static_cast<uint32_t>(plan.level_count) + static_cast<uint32_t>(level_index);
  uint64_t* buffer = plan.buffer + blockIdx.y * plan.image_keys + level.first_key;
  const float threshold = strict_limit(*plan.logit_threshold, plan.or_equal);
  for (int bin = threadIdx.x; bin < kBins; bin += kFilterThreads) histogram[bin] = 0;
  __syncthreads();

  int turn = 0;
  const Values<T> values(level, blockIdx.y);
  for_each_tile<kFilterThreads, kFilterVectors>(
      values, blockIdx.x - level.first_block, level.blocks,
      [&](const Vector<T>(&loaded)[kFilterVectors], uint32_t offset) {
        constexpr uint32_t kStep = kFilterThreads * Vector<T>::kSize;
        uint32_t hits[kFilterVectors];
        uint32_t count = 0;
#pragma unroll
        for (int v = 0; v < kFilterVectors; ++v) {
          hits[v] = candidates_in(loaded[v], offset + static_cast<uint32_t>(v) * kStep, threshold, plan, level);
          count += static_cast<uint32_t>(__popc(hits[v]));
        }
        uint32_t total;
        uint32_t place = places.place(count, turn, total);
        turn = 1 - turn;
        if (total == 0) return;
        if (threadIdx.x == 0) room = atomicAdd(plan.found + slot, total);
        __syncthreads();
        place += room;
#pragma unroll
        for (int v = 0; v < kFilterVectors; ++v) {
          for_each_bit(loaded[v], hits[v], [&](float value, int i) {
            atomicAdd(&histogram[bin_of(value)], 1u);
            if (place < level.buffer_keys) {
              const uint32_t at = offset + static_cast<uint32_t>(v) * kStep + static_cast<uint32_t>(i);
              buffer[place] = key_at(value, at, plan, level);
            }
            ++place;
          });
        }
      });
  __syncthreads();
  for (int bin = threadIdx.x; bin < kBins; bin += kFilterThreads) {
    if (histogram[bin] > 0u) atomicAdd(plan.histogram + slot * kBins + bin, histogram[bin]);
  }
}

}  // namespace
}  // namespace retinasdk::cuda
