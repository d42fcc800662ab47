// Class-aware NMS in one launch, a block for each image.
//
// Candidates are put in order, then taken kNmsTile at a time: what a box kept earlier suppresses is removed, the
// overlaps inside the tile become a bitmask, and one warp goes greedily down its rows. That is the CPU's order of
// decisions, so the kept boxes are the same. Memory grows with the candidates, not with their square, and full results
// end the work early.
#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/block_sort.cuh"
#include "math/box_math.h"

namespace retinasdk::cuda {
namespace {

constexpr int kNmsThreads = 512;
constexpr int kNmsTile = 256;
constexpr int kWords = kNmsTile / 32;
constexpr uint64_t kUnusable = ~uint64_t{0};  // behind every key of a usable candidate
constexpr int32_t kUnusableClass = -1;
constexpr int32_t kNoClass = -2;
constexpr unsigned kAllLanes = 0xffffffffu;

struct NmsInput {
  const float* boxes;
  const float* logits;
  const int32_t* class_ids;
  const int32_t* counts;
  int capacity;
  float iou_limit;
  bool inclusive_pixels, across_classes, limits_classes;
  int max_detections, max_per_class;
  uint64_t* keys;  // scratch, key_capacity for each image
  int key_capacity;
};

struct NmsOutput {
  int32_t* kept;
  int32_t* counts;
  float* boxes;
  float* logits;
  int32_t* class_ids;
};

struct Tile {
  Box outlines[kNmsTile];
  int32_t class_ids[kNmsTile];
  uint32_t indices[kNmsTile];
  uint32_t removed[kWords];             // bit i % 32 of word i / 32
  uint32_t overlaps[kNmsTile][kWords];  // row i: the later members that member i suppresses
  int room[kNmsTile];                   // that is left for the member's class, where classes are limited
  int kept[kNmsTile];                   // members, best first
  int kept_count;
};

// One warp: takes a place from the room of a class, if it is a class of members; lane w gets the members of word w
// whose class has no room left.
__device__ inline uint32_t take_room(Tile& tile, int32_t class_id) {
  const int lane = static_cast<int>(threadIdx.x);
  uint32_t full = 0;
  for (int word = 0; word < kWords; ++word) {
    const int member = 32 * word + lane;
    if (tile.class_ids[member] == class_id) --tile.room[member];
    const unsigned full_lanes = __ballot_sync(kAllLanes, tile.room[member] <= 0);
    if (lane == word) full = full_lanes;
  }
  return full;
}

// One warp: keeps the best member that is left, removes what it suppresses, goes on. Lane w holds word w.
__device__ inline void keep_greedily(Tile& tile, int room, bool limits_classes) {
  const int lane = static_cast<int>(threadIdx.x);
  uint32_t removed = lane < kWords ? tile.removed[lane] : ~0u;
  if (limits_classes) removed |= take_room(tile, kNoClass);
  int kept = 0;
  for (int word = 0; word < kWords; ++word) {
    uint32_t alive = ~__shfl_sync(kAllLanes, removed, word);
    while (alive != 0u && kept < room) {
      const int bit = __ffs(static_cast<int>(alive)) - 1;
      const int member = 32 * word + bit;
      if (lane == 0) tile.kept[kept] = member;
      ++kept;
      if (lane < kWords) removed |= tile.overlaps[member][lane];
      if (limits_classes) removed |= take_room(tile, tile.class_ids[member]);
      const uint32_t later = ~((2u << bit) - 1u);
      alive = ~__shfl_sync(kAllLanes, removed, word) & later;
    }
  }
  if (lane == 0) tile.kept_count = kept;
}

// Grid: (images).
__global__ void __launch_bounds__(kNmsThreads) nms_kernel(NmsInput input, NmsOutput output) {
  __shared__ Tile tile;
  const int thread = static_cast<int>(threadIdx.x);
  const uint64_t image = blockIdx.x;
  const float* boxes = input.boxes + 4 * image * static_cast<uint64_t>(input.capacity);
  const float* logits = input.logits + image * static_cast<uint64_t>(input.capacity);
  const int32_t* class_ids = input.class_ids + image * static_cast<uint64_t>(input.capacity);
  uint64_t* keys = input.keys + image * static_cast<uint64_t>(input.key_capacity);
  const uint64_t results = image * static_cast<uint64_t>(input.max_detections);
  const int counted = input.counts[image];
  const int count = counted < input.capacity ? counted : input.capacity;

  int sorted = 1;
  while (sorted < count) sorted *= 2;
  for (int i = thread; i < sorted; i += kNmsThreads) {
    const bool usable = i < count && logits[i] == logits[i] && is_finite(box_at(boxes, i));
    keys[i] = usable ? rank_key(logits[i], static_cast<uint32_t>(i)) : kUnusable;
  }
  block_sort(keys, sorted);

  int kept = 0;
  for (int first = 0; first < count && kept < input.max_detections; first += kNmsTile) {
    if (keys[first] == kUnusable) break;
    if (thread < kNmsTile) {
      const uint64_t key = first + thread < sorted ? keys[first + thread] : kUnusable;
      const bool usable = key != kUnusable;
      if (usable) {
        tile.outlines[thread] = outline(box_at(boxes, index_of(key)), input.inclusive_pixels);
        tile.class_ids[thread] = class_ids[index_of(key)];
        tile.indices[thread] = index_of(key);
      } else {
        tile.outlines[thread] = Box{0.0f, 0.0f, 0.0f, 0.0f};
        tile.class_ids[thread] = kUnusableClass;
      }
      tile.room[thread] = input.max_per_class;
      const unsigned unusable_lanes = __ballot_sync(kAllLanes, !usable);
      if (thread % 32 == 0) tile.removed[thread / 32] = unusable_lanes;
    }
    __syncthreads();

    // Neighbouring threads have neighbouring members and the same kept box, which then is read once for a warp.
    const int member = thread % kNmsTile;
    for (int k = thread / kNmsTile; k < kept; k += kNmsThreads / kNmsTile) {
      const bool same_class = output.class_ids[results + static_cast<uint64_t>(k)] == tile.class_ids[member];
      if (same_class && input.limits_classes) atomicAdd(&tile.room[member], -1);
      if ((same_class || input.across_classes) &&
          suppresses(outline(box_at(output.boxes, results + static_cast<uint64_t>(k)), input.inclusive_pixels),
                     tile.outlines[member], input.iou_limit)) {
        atomicOr(&tile.removed[member / 32], 1u << (member % 32));
        break;
      }
    }
    for (int item = thread; item < kNmsTile * kWords; item += kNmsThreads) {
      const int row = item % kNmsTile;
      const int word = item / kNmsTile;
      uint32_t overlaps = 0;
      for (int bit = row + 1 > 32 * word ? row + 1 - 32 * word : 0; bit < 32; ++bit) {
        const int other = 32 * word + bit;
        if ((tile.class_ids[row] == tile.class_ids[other] || input.across_classes) &&
            suppresses(tile.outlines[row], tile.outlines[other], input.iou_limit)) {
          overlaps |= 1u << bit;
        }
      }
      tile.overlaps[row][word] = overlaps;
    }
    __syncthreads();
    if (thread < 32) keep_greedily(tile, input.max_detections - kept, input.limits_classes);
    __syncthreads();
    for (int k = thread; k < tile.kept_count; k += kNmsThreads) {
      const int source = tile.kept[k];
      const uint64_t at = results + static_cast<uint64_t>(kept + k);
      output.kept[at] = static_cast<int32_t>(tile.indices[source]);
      for (int i = 0; i < 4; ++i) output.boxes[4 * at + i] = boxes[4 * uint64_t{tile.indices[source]} + i];
      output.logits[at] = logits[tile.indices[source]];
      output.class_ids[at] = tile.class_ids[source];
    }
    kept += tile.kept_count;
    __syncthreads();
  }
  for (int k = kept + thread; k < input.max_detections; k += kNmsThreads) {
    output.kept[results + static_cast<uint64_t>(k)] = -1;
  }
  if (thread == 0) output.counts[image] = kept;
}

}  // namespace
}  // namespace retinasdk::cuda

#ifndef __CUDACC_RTC__  // device-only compilers stop here
#include "cuda/cuda_support.h"

namespace retinasdk::cuda {

size_t nms_scratch_bytes(int batch, int capacity, const DeviceNmsOptions& options) {
  require_suppression(batch, capacity, options, 1);
  ScratchLayout layout;
  layout.take<uint64_t>(static_cast<size_t>(batch) * static_cast<size_t>(power_of_two_from(capacity)));
  return layout.size_bytes();
}

void nms(int batch, const DeviceCandidates& candidates, const DeviceNmsOptions& options,
         const DeviceDetections& detections, Scratch scratch, Stream stream) {
  require_scratch(scratch, nms_scratch_bytes(batch, candidates.capacity, options));
  const NmsInput input{candidates.boxes,
                       candidates.logits,
                       candidates.class_ids,
                       candidates.counts,
                       candidates.capacity,
                       strict_limit(options.iou_threshold, options.or_equal),
                       options.inclusive_pixels,
                       options.across_classes,
                       options.max_per_class < options.max_detections,
                       options.max_detections,
                       options.max_per_class,
                       static_cast<uint64_t*>(scratch.data),
                       power_of_two_from(candidates.capacity)};
  const NmsOutput output{detections.kept, detections.counts, detections.boxes, detections.logits, detections.class_ids};
  launch("nms_kernel", nms_kernel, dim3(static_cast<unsigned>(batch)), dim3(kNmsThreads), stream, input, output);
}

}  // namespace retinasdk::cuda
#endif
