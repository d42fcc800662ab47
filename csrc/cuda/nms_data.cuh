// What the kernels of NMS share: their arguments, and how they read candidates. nms_kernel.cuh explains the algorithm.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "math/box_math.h"

namespace retinasdk::cuda {
namespace {

constexpr int kBatch = 1024;  // The best candidates, which are treated first. Also the threads of a block for them.
constexpr int kBatchWords = kBatch / 32;
constexpr int kRestBatch = 512;               // The rest is treated in batches of this size, by as many threads.
constexpr int kTileThreads = 128;             // Of a block that compares candidates with a tile of 32 others.
constexpr uint64_t kUnusable = ~uint64_t{0};  // Larger than the key of every usable candidate.
constexpr unsigned kAllLanes = 0xffffffffu;

struct NmsInput {
  const float* boxes;
  const float* logits;
  const int32_t* class_ids;
  const int32_t* counts;
  int capacity;
  bool across_classes, limits_classes;
  int max_detections, max_per_class;
};

struct NmsOutput {
  int32_t* kept;
  int32_t* counts;
  float* boxes;
  float* logits;
  int32_t* class_ids;
};

// How many candidates of an image are usable, and how many of them are in the first batch.
struct alignas(8) Ordered {
  int usable, first;
};

// Scratch memory. The sizes are those of one image.
struct NmsScratch {
  Ordered* ordered;
  uint64_t* best;     // (kBatch,), the keys of the first batch, best first.
  uint32_t* columns;  // (kBatchWords, kBatch), see Note [Columns] in nms_select.cuh.
  // Only if an image may have more than kBatch candidates:
  uint32_t* dropped;  // (dropped_words,), bit i % 32 of word i / 32: candidate i is out, or was in the first batch.
  uint64_t* keys;     // (key_capacity,), the keys of the candidates that are left after the first batch.
  int dropped_words, key_capacity;
};

// The candidates of one image.
template <typename Rule>
struct Candidates {
  const float* boxes;
  const float* logits;
  const int32_t* class_ids;
  int count;

  __device__ Candidates(const NmsInput& input, uint64_t image)
      : boxes(input.boxes + Rule::kValues * image * static_cast<uint64_t>(input.capacity)),
        logits(input.logits + image * static_cast<uint64_t>(input.capacity)),
        class_ids(input.class_ids + image * static_cast<uint64_t>(input.capacity)),
        count(input.counts[image] < input.capacity ? input.counts[image] : input.capacity) {}

  // Returns the key of candidate i, or kUnusable. There must be candidates, but i may lie behind the last one.
  // Something is loaded in any case, so that the loads for several keys can overlap.
  __device__ uint64_t key(const Rule& rule, int i) const {
    const int at = i < count ? i : count - 1;
    const float logit = logits[at];
    const bool is_usable = rule.is_usable(boxes, static_cast<uint64_t>(at));
    return i < count && logit == logit && is_usable ? rank_key(logit, static_cast<uint32_t>(i)) : kUnusable;
  }
};

// Reserves room for one element for each lane with `wanted`, with one atomic addition for the warp. Returns the place
// of the lane's element. All lanes of the warp must call.
__device__ inline int take_place(int* count, bool wanted) {
  const unsigned lane = threadIdx.x % 32;
  const unsigned lanes = __ballot_sync(kAllLanes, wanted);
  int place = 0;
  if (lane == 0 && lanes != 0u) place = atomicAdd(count, __popc(lanes));
  return __shfl_sync(kAllLanes, place, 0) + __popc(lanes & ((1u << lane) - 1u));
}

}  // namespace
}  // namespace retinasdk::cuda
