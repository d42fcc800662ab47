// Class-aware NMS in one launch, with one block per image.
//
// The block sorts the candidates and processes them in chunks of kChunk. First, boxes that an earlier kept box
// suppresses are removed from the chunk. Then the overlaps inside the chunk are written to a bitmask. Finally one warp
// visits the rows of the mask greedily. These are the decisions of the CPU in the same order, so the kept boxes are the
// same.
//
// The memory is linear in the number of candidates, and the work ends early once max_detections boxes are kept.
//
// A rule says what a box is and which boxes suppress each other. It has a type Box, the number kValues of floats of a
// box, and these functions: is_usable(boxes, i) and load(boxes, i) of box i, and suppresses(kept, other).
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/block_sort.cuh"
#include "math/box_math.h"

namespace retinasdk::cuda {
namespace {

constexpr int kNmsThreads = 512;
constexpr int kChunk = 256;
constexpr int kWords = kChunk / 32;
constexpr uint64_t kUnusable = ~uint64_t{0};  // Larger than the key of every usable candidate.
constexpr int32_t kUnusableClass = -1;        // The class of places in a chunk without a usable candidate.
constexpr int32_t kNoClass = -2;              // Equals the class of no member.
constexpr unsigned kAllLanes = 0xffffffffu;

struct NmsInput {
  const float* boxes;
  const float* logits;
  const int32_t* class_ids;
  const int32_t* counts;
  int capacity;
  bool across_classes, limits_classes;
  int max_detections, max_per_class;
  uint64_t* keys;  // Scratch, key_capacity per image.
  int key_capacity;
};

struct NmsOutput {
  int32_t* kept;
  int32_t* counts;
  float* boxes;
  float* logits;
  int32_t* class_ids;
};

// A chunk of candidates in shared memory. Its members are in order, best first.
template <typename Rule>
struct Chunk {
  typename Rule::Box boxes[kChunk];
  int32_t class_ids[kChunk];
  uint32_t indices[kChunk];
  uint32_t removed[kWords];           // Member i is bit i % 32 of word i / 32.
  uint32_t overlaps[kChunk][kWords];  // Row i: the later members that member i suppresses.
  int places[kChunk];  // How many more boxes of the member's class may be kept. Used with max_per_class only.
  int kept[kChunk];    // The kept members, best first.
  int kept_count;
};

// Counts one more kept box of a class. Lane w returns the members of word w whose class is full now. With kNoClass, it
// counts nothing. One warp must call.
template <typename Rule>
__device__ uint32_t take_place(Chunk<Rule>& chunk, int32_t class_id) {
  const int lane = static_cast<int>(threadIdx.x);
  uint32_t full = 0;
  for (int word = 0; word < kWords; ++word) {
    const int member = 32 * word + lane;
    if (chunk.class_ids[member] == class_id) --chunk.places[member];
    const unsigned full_lanes = __ballot_sync(kAllLanes, chunk.places[member] <= 0);
    if (lane == word) full = full_lanes;
  }
  return full;
}

// Keeps the best remaining member, removes the members that it suppresses, and repeats until `most` are kept. Lane w
// holds word w of the removed members. One warp must call.
template <typename Rule>
__device__ void keep_greedily(Chunk<Rule>& chunk, int most, bool limits_classes) {
  const int lane = static_cast<int>(threadIdx.x);
  uint32_t removed = lane < kWords ? chunk.removed[lane] : ~0u;
  if (limits_classes) removed |= take_place(chunk, kNoClass);
  int kept = 0;
  for (int word = 0; word < kWords; ++word) {
    uint32_t alive = ~__shfl_sync(kAllLanes, removed, word);
    while (alive != 0u && kept < most) {
      const int bit = __ffs(static_cast<int>(alive)) - 1;
      const int member = 32 * word + bit;
      if (lane == 0) chunk.kept[kept] = member;
      ++kept;
      if (lane < kWords) removed |= chunk.overlaps[member][lane];
      if (limits_classes) removed |= take_place(chunk, chunk.class_ids[member]);
      const uint32_t later = ~((2u << bit) - 1u);
      alive = ~__shfl_sync(kAllLanes, removed, word) & later;
    }
  }
  if (lane == 0) chunk.kept_count = kept;
}

// Processes the candidates of one image. Grid: (images).
template <typename Rule>
__global__ void __launch_bounds__(kNmsThreads) nms_kernel(NmsInput input, Rule rule, NmsOutput output) {
  __shared__ Chunk<Rule> chunk;
  const int thread = static_cast<int>(threadIdx.x);
  const uint64_t image = blockIdx.x;
  const float* boxes = input.boxes + Rule::kValues * image * static_cast<uint64_t>(input.capacity);
  const float* logits = input.logits + image * static_cast<uint64_t>(input.capacity);
  const int32_t* class_ids = input.class_ids + image * static_cast<uint64_t>(input.capacity);
  uint64_t* keys = input.keys + image * static_cast<uint64_t>(input.key_capacity);
  const uint64_t results = image * static_cast<uint64_t>(input.max_detections);
  const int counted = input.counts[image];
  const int count = counted < input.capacity ? counted : input.capacity;

  int sorted = 1;
  while (sorted < count) sorted *= 2;
  for (int i = thread; i < sorted; i += kNmsThreads) {
    const bool usable = i < count && logits[i] == logits[i] && rule.is_usable(boxes, static_cast<uint64_t>(i));
    keys[i] = usable ? rank_key(logits[i], static_cast<uint32_t>(i)) : kUnusable;
  }
  block_sort(keys, sorted);

  int kept = 0;
  for (int first = 0; first < count && kept < input.max_detections; first += kChunk) {
    if (keys[first] == kUnusable) break;
    if (thread < kChunk) {
      const uint64_t key = first + thread < sorted ? keys[first + thread] : kUnusable;
      const bool usable = key != kUnusable;
      if (usable) {
        chunk.boxes[thread] = rule.load(boxes, index_of(key));
        chunk.class_ids[thread] = class_ids[index_of(key)];
        chunk.indices[thread] = index_of(key);
      } else {
        chunk.boxes[thread] = typename Rule::Box{};
        chunk.class_ids[thread] = kUnusableClass;
      }
      chunk.places[thread] = input.max_per_class;
      const unsigned unusable_lanes = __ballot_sync(kAllLanes, !usable);
      if (thread % 32 == 0) chunk.removed[thread / 32] = unusable_lanes;
    }
    __syncthreads();

    // The threads of a warp have consecutive members and the same kept box, so a warp reads that box once.
    const int member = thread % kChunk;
    for (int k = thread / kChunk; k < kept; k += kNmsThreads / kChunk) {
      const bool same_class = output.class_ids[results + static_cast<uint64_t>(k)] == chunk.class_ids[member];
      if (same_class && input.limits_classes) atomicAdd(&chunk.places[member], -1);
      if ((same_class || input.across_classes) &&
          rule.suppresses(rule.load(output.boxes, results + static_cast<uint64_t>(k)), chunk.boxes[member])) {
        atomicOr(&chunk.removed[member / 32], 1u << (member % 32));
        break;
      }
    }
    for (int item = thread; item < kChunk * kWords; item += kNmsThreads) {
      const int row = item % kChunk;
      const int word = item / kChunk;
      uint32_t overlaps = 0;
      for (int bit = row + 1 > 32 * word ? row + 1 - 32 * word : 0; bit < 32; ++bit) {
        const int other = 32 * word + bit;
        if ((chunk.class_ids[row] == chunk.class_ids[other] || input.across_classes) &&
            rule.suppresses(chunk.boxes[row], chunk.boxes[other])) {
          overlaps |= 1u << bit;
        }
      }
      chunk.overlaps[row][word] = overlaps;
    }
    __syncthreads();
    if (thread < 32) keep_greedily(chunk, input.max_detections - kept, input.limits_classes);
    __syncthreads();
    for (int k = thread; k < chunk.kept_count; k += kNmsThreads) {
      const int source = chunk.kept[k];
      const uint64_t at = results + static_cast<uint64_t>(kept + k);
      output.kept[at] = static_cast<int32_t>(chunk.indices[source]);
      for (int i = 0; i < Rule::kValues; ++i) {
        output.boxes[Rule::kValues * at + i] = boxes[Rule::kValues * uint64_t{chunk.indices[source]} + i];
      }
      output.logits[at] = logits[chunk.indices[source]];
      output.class_ids[at] = chunk.class_ids[source];
    }
    kept += chunk.kept_count;
    __syncthreads();
  }
  for (int k = kept + thread; k < input.max_detections; k += kNmsThreads) {
    output.kept[results + static_cast<uint64_t>(k)] = -1;
  }
  if (thread == 0) output.counts[image] = kept;
}

}  // namespace
}  // namespace retinasdk::cuda

#ifndef __CUDACC_RTC__  // Device-only compilers stop here.
#include "cuda/cuda_support.h"

namespace retinasdk::cuda {
namespace {

// Launches the NMS of a rule.
template <typename Rule>
void launch_nms(const char* name, int batch, const DeviceCandidates& candidates, const DeviceNmsOptions& options,
                const Rule& rule, const DeviceDetections& detections, Scratch scratch, Stream stream) {
  require_scratch(scratch, nms_scratch_bytes(batch, candidates.capacity, options));
  const NmsInput input{candidates.boxes,
                       candidates.logits,
                       candidates.class_ids,
                       candidates.counts,
                       candidates.capacity,
                       options.across_classes,
                       options.max_per_class < options.max_detections,
                       options.max_detections,
                       options.max_per_class,
                       static_cast<uint64_t*>(scratch.data),
                       power_of_two_from(candidates.capacity)};
  const NmsOutput output{detections.kept, detections.counts, detections.boxes, detections.logits, detections.class_ids};
  launch(name, nms_kernel<Rule>, dim3(static_cast<unsigned>(batch)), dim3(kNmsThreads), stream, input, rule, output);
}

}  // namespace
}  // namespace retinasdk::cuda
#endif
