// The first launch of NMS: finds and sorts the best candidates. nms_kernel.cuh explains the algorithm.
//
// Note [First batch]
// Not all candidates are sorted. Their keys are counted in kBins bins that follow the order of the keys. The first bins
// that together hold at most kBatch keys become the first batch. Only these keys are gathered and sorted.
// The bins are steps of 1/64 of the logit, which spreads the candidates of a trained network well.
// If one bin is crowded, for example because many logits are equal, the range of its keys is divided into kBins bins
// again. Every key is different, and the range shrinks by a factor of kBins each time. So this ends soon.
#pragma once

#include "cuda/block_min.cuh"
#include "cuda/block_sort.cuh"
#include "cuda/nms_data.cuh"

namespace retinasdk::cuda {
namespace {

constexpr int kOrderThreads = 1024;
constexpr int kBins = 2 * kOrderThreads;
constexpr int kEnough = kBatch / 2;  // A first batch of this size is large enough, so no bin is divided.
constexpr int kKeysAtOnce = 4;       // Keys that a thread loads before it uses the first, to hide latency.
constexpr int kByLogit = -1;

// Returns the bin of a logit: from 0 for 16 and above to kBins - 1 for about -16 and below.
__device__ inline int logit_bin(float logit) {
  const float bin = (16.0f - logit) * 64.0f;
  if (!(bin > 0.0f)) return 0;
  return bin < static_cast<float>(kBins) ? static_cast<int>(bin) : kBins - 1;
}

// A range of keys that is divided into bins.
struct KeyRange {
  uint64_t low, high;  // The first and the last key.
  int shift;           // A bin has 2^shift keys. With kByLogit, logit_bin() decides.

  __device__ bool contains(uint64_t key) const { return low <= key && key <= high; }
  __device__ int bin(uint64_t key) const {
    return shift == kByLogit ? logit_bin(logit_of(key)) : static_cast<int>((key - low) >> shift);
  }
};

// The bins in front of `bin` hold `below` keys. All bins together hold `total` keys.
struct alignas(16) Cut {
  int bin, below, total;
};

// Calls body(key) for each candidate, and with kUnusable for those that are not usable. All threads must call, and the
// lanes of a warp call body() together.
template <typename Rule, typename Body>
__device__ void for_each_key(const Candidates<Rule>& candidates, const Rule& rule, Body body) {
  for (int first = 0; first < candidates.count; first += kKeysAtOnce * kOrderThreads) {
    uint64_t keys[kKeysAtOnce];
#pragma unroll
    for (int k = 0; k < kKeysAtOnce; ++k) {
      keys[k] = candidates.key(rule, first + k * kOrderThreads + static_cast<int>(threadIdx.x));
    }
#pragma unroll
    for (int k = 0; k < kKeysAtOnce; ++k) body(keys[k]);
  }
}

// Returns the cut in front of which as many whole bins lie as have room for their keys.
__device__ inline Cut cut_bins(const int* bins, int room) {
  __shared__ int totals[kOrderThreads / 32];
  __shared__ Cut cut;
  const int thread = static_cast<int>(threadIdx.x);
  const int first = bins[2 * thread];
  const int both = first + bins[2 * thread + 1];
  int up_to = both;
  for (int distance = 1; distance < 32; distance *= 2) {
    const int lower = __shfl_up_sync(kAllLanes, up_to, distance);
    if (thread % 32 >= distance) up_to += lower;
  }
  if (thread % 32 == 31) totals[thread / 32] = up_to;
  __syncthreads();
  int below = up_to - both;
  int total = 0;
  for (int warp = 0; warp < kOrderThreads / 32; ++warp) {
    if (warp < thread / 32) below += totals[warp];
    total += totals[warp];
  }
  if (total <= room) return {kBins, total, total};
  if (below <= room && below + both > room) {
    cut = below + first > room ? Cut{2 * thread, below, total} : Cut{2 * thread + 1, below + first, total};
  }
  __syncthreads();
  return cut;
}

// Sorts the first batch of each image, see Note [First batch]. Grid: (images).
template <typename Rule>
__global__ void __launch_bounds__(kOrderThreads) order_best(NmsInput input, Rule rule, NmsScratch scratch) {
  __shared__ uint64_t best[kBatch];
  __shared__ int bins[kBins];
  __shared__ int gathered;
  const int thread = static_cast<int>(threadIdx.x);
  const uint64_t image = blockIdx.x;
  const Candidates<Rule> candidates(input, image);
  uint32_t* dropped = scratch.dropped + image * static_cast<uint64_t>(scratch.dropped_words);
  for (int word = thread; word < scratch.dropped_words; word += kOrderThreads) dropped[word] = 0;
  if (thread == 0) gathered = 0;

  KeyRange range{0, kUnusable - 1, kByLogit};
  Cut cut{};
  int count = 0;
  int usable = 0;
  for (;;) {
    for (int bin = thread; bin < kBins; bin += kOrderThreads) bins[bin] = 0;
    __syncthreads();
    for_each_key(candidates, rule, [&](uint64_t key) {
      if (range.contains(key)) atomicAdd(&bins[range.bin(key)], 1);
    });
    __syncthreads();
    cut = cut_bins(bins, kBatch - count);
    if (range.shift == kByLogit) usable = cut.total;
    count += cut.below;
    if (count >= kEnough || cut.bin == kBins) break;
    uint64_t low = kUnusable;
    uint64_t high = 0;
    for_each_key(candidates, rule, [&](uint64_t key) {
      if (!range.contains(key) || range.bin(key) != cut.bin) return;
      low = key < low ? key : low;
      high = key > high ? key : high;
    });
    low = block_min<kOrderThreads>(low);
    high = ~block_min<kOrderThreads>(~high);
    int shift = 0;
    while ((high - low) >> shift >= kBins) ++shift;
    range = {low, high, shift};
  }

  for_each_key(candidates, rule, [&](uint64_t key) {
    const bool is_best = key < range.low || (range.contains(key) && range.bin(key) < cut.bin);
    const int place = take_place(&gathered, is_best);
    if (is_best) best[place] = key;
  });
  int sorted = 1;
  while (sorted < count) sorted *= 2;
  for (int i = count + thread; i < sorted; i += kOrderThreads) best[i] = kUnusable;
  sort_in_shared(best, sorted);
  for (int i = thread; i < count; i += kOrderThreads) scratch.best[image * kBatch + static_cast<uint64_t>(i)] = best[i];
  if (thread == 0) scratch.ordered[image] = {usable, count};
}

}  // namespace
}  // namespace retinasdk::cuda
