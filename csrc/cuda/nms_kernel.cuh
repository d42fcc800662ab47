// Class-aware NMS in three launches, or five if an image may have more than kBatch candidates.
//
// Note [NMS in launches]
// Greedy NMS visits the candidates from best to worst, and keeps each that no kept one suppresses. Only this decision
// is serial. Everything else is done before, in parallel:
// 1. order_best, one block for each image: sorts the best candidates, at most kBatch. See Note [First batch].
// 2. mark_overlaps, many blocks: compares each of these with all better ones. See Note [Columns].
// 3. keep_best, one block for each image: decides, with bit operations only, and writes the kept boxes. See Note
//    [Greedy by words]. If max_detections are kept, the launches that follow return at once.
// 4. drop_suppressed, many blocks: compares all other candidates, in any order, with the boxes that are kept so far. In
//    a photo, few candidates remain, because most overlap a better box of their object.
// 5. keep_rest, one block for each image: sorts those that remain, and takes them in batches of kRestBatch. Each batch
//    is compared with what this launch has kept, then inside itself. Then it is decided as in 3.
// The decisions are those of the CPU in the same order, so the kept boxes are the same. No block waits for another. The
// sizes of the launches depend on the capacity, the batch and the options only, so they may be captured in a graph. The
// memory is linear in the capacity.
//
// A rule says what a box is and which boxes suppress each other. It has a type Box, the number kValues of floats of a
// box, and these functions: is_usable(boxes, i) and load(boxes, i) of box i, and suppresses(kept, other).
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/block_sort.cuh"
#include "cuda/nms_data.cuh"
#include "cuda/nms_order.cuh"
#include "cuda/nms_select.cuh"

namespace retinasdk::cuda {
namespace {

// 32 boxes in shared memory with which other boxes are compared.
template <typename Rule>
struct Tile {
  typename Rule::Box boxes[32];
  int32_t class_ids[32];
};

// Returns which boxes of a tile suppress a box. Only the bits of `others` are compared.
template <typename Rule>
__device__ uint32_t suppressors(const Rule& rule, const Tile<Rule>& tile, uint32_t others,
                                const typename Rule::Box& box, int32_t class_id, bool across_classes) {
  uint32_t found = 0;
  for (int i = 0; i < 32; ++i) {
    if ((others >> i & 1u) == 0u || !(across_classes || tile.class_ids[i] == class_id)) continue;
    if (rule.suppresses(tile.boxes[i], box)) found |= 1u << i;
  }
  return found;
}

// Copies a candidate to a place of the output.
template <typename Rule>
__device__ void store(const Candidates<Rule>& candidates, uint32_t index, const NmsOutput& output, uint64_t place) {
  output.kept[place] = static_cast<int32_t>(index);
  output.logits[place] = candidates.logits[index];
  output.class_ids[place] = candidates.class_ids[index];
#pragma unroll
  for (int i = 0; i < Rule::kValues; ++i) {
    output.boxes[Rule::kValues * place + i] = candidates.boxes[Rule::kValues * uint64_t{index} + i];
  }
}

// Writes the columns of the first batch. Grid: (words, members / kTileThreads, images).
template <typename Rule>
__global__ void __launch_bounds__(kTileThreads) mark_overlaps(NmsInput input, Rule rule, NmsScratch scratch) {
  __shared__ Tile<Rule> tile;
  const int thread = static_cast<int>(threadIdx.x);
  const uint64_t image = blockIdx.z;
  const int count = scratch.ordered[image].first;
  const int first_other = 32 * static_cast<int>(blockIdx.x);
  const int first_member = kTileThreads * static_cast<int>(blockIdx.y);
  const int last_member = first_member + kTileThreads - 1;
  if (first_member >= count || first_other >= count || first_other > last_member) return;
  const Candidates<Rule> candidates(input, image);
  const uint64_t* best = scratch.best + image * kBatch;
  if (thread < 32 && first_other + thread < count) {
    const uint32_t index = index_of(best[first_other + thread]);
    tile.boxes[thread] = rule.load(candidates.boxes, index);
    tile.class_ids[thread] = candidates.class_ids[index];
  }
  __syncthreads();
  const int member = first_member + thread;
  if (member >= count || member < first_other) return;
  const uint32_t index = index_of(best[member]);
  const int earlier = member - first_other;
  const uint32_t others = earlier < 32 ? (1u << earlier) - 1u : ~0u;
  scratch.columns[(image * kBatchWords + blockIdx.x) * kBatch + static_cast<uint64_t>(member)] = suppressors(
      rule, tile, others, rule.load(candidates.boxes, index), candidates.class_ids[index], input.across_classes);
}

// Decides about the first batch. Grid: (images).
template <typename Rule>
__global__ void __launch_bounds__(kBatch, kBlocksPerMultiprocessor)
    keep_best(NmsInput input, NmsScratch scratch, NmsOutput output) {
  __shared__ Selection<kBatchWords> selection;
  const int thread = static_cast<int>(threadIdx.x);
  const uint64_t image = blockIdx.x;
  const uint64_t results = image * static_cast<uint64_t>(input.max_detections);
  const int count = scratch.ordered[image].first;
  const Candidates<Rule> candidates(input, image);
  const bool exists = thread < count;
  const uint32_t index = exists ? index_of(scratch.best[image * kBatch + threadIdx.x]) : 0u;
  const Member member{exists, exists ? candidates.class_ids[index] : 0, input.max_per_class};
  int kept;
  const int place = select(selection, scratch.columns + image * kBatchWords * kBatch, count, member,
                           input.max_detections, input.limits_classes, kept);
  if (place >= 0) store(candidates, index, output, results + static_cast<uint64_t>(place));
  for (int k = kept + thread; k < input.max_detections; k += kBatch) {
    output.kept[results + static_cast<uint64_t>(k)] = -1;
  }
  if (thread == 0) output.counts[image] = kept;
}

// Whether the first batch has decided everything.
__device__ inline bool is_done(const Ordered& ordered, int kept, int max_detections) {
  return ordered.first == ordered.usable || kept == max_detections;
}

// Marks the candidates that cannot be kept any more: those of the first batch, those that are not usable, and those
// that a kept box suppresses. Grid: (blocks, kept / 32, images).
template <typename Rule>
__global__ void __launch_bounds__(kTileThreads)
    drop_suppressed(NmsInput input, Rule rule, NmsScratch scratch, NmsOutput output) {
  __shared__ Tile<Rule> tile;
  const int thread = static_cast<int>(threadIdx.x);
  const uint64_t image = blockIdx.z;
  const Ordered ordered = scratch.ordered[image];
  const int first_kept = 32 * static_cast<int>(blockIdx.y);
  const int kept = output.counts[image];
  if (is_done(ordered, kept, input.max_detections) || first_kept >= kept) return;
  const int tile_size = kept - first_kept < 32 ? kept - first_kept : 32;
  if (thread < tile_size) {
    const uint64_t source = image * static_cast<uint64_t>(input.max_detections) + static_cast<uint64_t>(first_kept) +
                            static_cast<uint64_t>(thread);
    tile.boxes[thread] = rule.load(output.boxes, source);
    tile.class_ids[thread] = output.class_ids[source];
  }
  __syncthreads();
  const uint32_t others = ~0u >> (32 - tile_size);
  const uint64_t worst = scratch.best[image * kBatch + static_cast<uint64_t>(ordered.first - 1)];
  const Candidates<Rule> candidates(input, image);
  uint32_t* dropped = scratch.dropped + image * static_cast<uint64_t>(scratch.dropped_words);
  const int blocks = static_cast<int>(gridDim.x);
  for (int first = kTileThreads * static_cast<int>(blockIdx.x); first < candidates.count;
       first += kTileThreads * blocks) {
    const int i = first + thread;
    const uint64_t key = candidates.key(rule, i);
    bool is_out = key == kUnusable || key <= worst;
    if (!is_out) {
      is_out = suppressors(rule, tile, others, rule.load(candidates.boxes, static_cast<uint64_t>(i)),
                           candidates.class_ids[i], input.across_classes) != 0u;
    }
    const unsigned lanes = __ballot_sync(kAllLanes, is_out);
    if (thread % 32 == 0 && lanes != 0u && i < candidates.count) atomicOr(&dropped[i / 32], lanes);
  }
}

// Decides about the candidates that are left. Grid: (images).
template <typename Rule>
__global__ void __launch_bounds__(kRestBatch, kBlocksPerMultiprocessor)
    keep_rest(NmsInput input, Rule rule, NmsScratch scratch, NmsOutput output) {
  constexpr int kWords = kRestBatch / 32;
  __shared__ Tile<Rule> tiles[kWords];
  __shared__ Selection<kWords> selection;
  __shared__ uint32_t alive_lanes[kWords];
  __shared__ int left;
  const int thread = static_cast<int>(threadIdx.x);
  const int lane = thread % 32;
  const int warp = thread / 32;
  const uint64_t image = blockIdx.x;
  const uint64_t results = image * static_cast<uint64_t>(input.max_detections);
  const int first_kept = output.counts[image];
  if (is_done(scratch.ordered[image], first_kept, input.max_detections)) return;
  const Candidates<Rule> candidates(input, image);
  const uint32_t* dropped = scratch.dropped + image * static_cast<uint64_t>(scratch.dropped_words);
  uint64_t* keys = scratch.keys + image * static_cast<uint64_t>(scratch.key_capacity);
  uint32_t* columns = scratch.columns + image * kBatchWords * kBatch;

  if (thread == 0) left = 0;
  __syncthreads();
  for (int first = 0; first < candidates.count; first += kRestBatch) {
    const int i = first + thread;
    const bool is_left = i < candidates.count && (dropped[i / 32] >> lane & 1u) == 0u;
    const int place = take_place(&left, is_left);
    if (is_left) keys[place] = rank_key(candidates.logits[i], static_cast<uint32_t>(i));
  }
  __syncthreads();
  const int count = left;
  int sorted = 1;
  while (sorted < count) sorted *= 2;
  for (int i = count + thread; i < sorted; i += kRestBatch) keys[i] = kUnusable;
  block_sort(keys, sorted);

  int kept = first_kept;
  for (int first = 0; first < count && kept < input.max_detections; first += kRestBatch) {
    const bool exists = first + thread < count;
    const uint32_t index = exists ? index_of(keys[first + thread]) : 0u;
    const typename Rule::Box box = rule.load(candidates.boxes, index);
    Member member{exists, candidates.class_ids[index], input.max_per_class};
    // All threads visit the same kept box, so each warp reads it once.
    for (int k = first_kept; k < kept && member.alive; ++k) {
      const uint64_t source = results + static_cast<uint64_t>(k);
      if (!input.across_classes && output.class_ids[source] != member.class_id) continue;
      if (rule.suppresses(rule.load(output.boxes, source), box)) member.alive = false;
    }
    for (int k = 0; input.limits_classes && k < kept; ++k) {
      if (output.class_ids[results + static_cast<uint64_t>(k)] == member.class_id) --member.places;
    }
    const unsigned alive = __ballot_sync(kAllLanes, member.alive);
    if (lane == 0) alive_lanes[warp] = alive;
    tiles[warp].boxes[lane] = box;
    tiles[warp].class_ids[lane] = member.class_id;
    __syncthreads();

    // A warp takes every kWords-th pair of a row of 32 members and a word of its columns.
    int row = 0;
    for (int word = warp;; word += kWords) {
      for (; row < kWords && word > row; ++row) word -= row + 1;
      if (row == kWords) break;
      const uint32_t others = alive_lanes[word] & (word == row ? (1u << lane) - 1u : ~0u);
      columns[kRestBatch * word + 32 * row + lane] =
          suppressors(rule, tiles[word], alive_lanes[row] != 0u ? others : 0u, tiles[row].boxes[lane],
                      tiles[row].class_ids[lane], input.across_classes);
    }
    __syncthreads();
    int more;
    const int place =
        select(selection, columns, count - first, member, input.max_detections - kept, input.limits_classes, more);
    if (place >= 0) store(candidates, index, output, results + static_cast<uint64_t>(kept + place));
    kept += more;
    __syncthreads();
  }
  if (thread == 0) output.counts[image] = kept;
}

}  // namespace
}  // namespace retinasdk::cuda

#ifndef __CUDACC_RTC__  // Device-only compilers stop here.
#include <algorithm>

#include "cuda/cuda_support.h"

namespace retinasdk::cuda {
namespace {

constexpr int kDropBlocks = 1024;  // Of drop_suppressed(), at most, for each image and 32 kept boxes.

// Lays out the scratch memory.
inline NmsScratch lay_out_nms(int batch, int capacity, ScratchLayout& layout) {
  const auto images = static_cast<size_t>(batch);
  NmsScratch scratch{};
  scratch.ordered = layout.take<Ordered>(images);
  scratch.best = layout.take<uint64_t>(images * kBatch);
  scratch.columns = layout.take<uint32_t>(images * kBatchWords * kBatch);
  if (capacity > kBatch) {
    scratch.dropped_words = (capacity + 31) / 32;
    scratch.key_capacity = power_of_two_from(capacity);
    scratch.dropped = layout.take<uint32_t>(images * static_cast<size_t>(scratch.dropped_words));
    scratch.keys = layout.take<uint64_t>(images * static_cast<size_t>(scratch.key_capacity));
  }
  return scratch;
}

// Launches the NMS of a rule, see Note [NMS in launches].
template <typename Rule>
void launch_nms(int batch, const DeviceCandidates& candidates, const DeviceNmsOptions& options, const Rule& rule,
                const DeviceDetections& detections, Scratch memory, Stream stream) {
  require_scratch(memory, nms_scratch_bytes(batch, candidates.capacity, options));
  ScratchLayout layout(memory.data);
  const NmsScratch scratch = lay_out_nms(batch, candidates.capacity, layout);
  const NmsInput input{candidates.boxes,
                       candidates.logits,
                       candidates.class_ids,
                       candidates.counts,
                       candidates.capacity,
                       options.across_classes,
                       options.max_per_class < options.max_detections,
                       options.max_detections,
                       options.max_per_class};
  const NmsOutput output{detections.kept, detections.counts, detections.boxes, detections.logits, detections.class_ids};
  const auto blocks = [](int items, int per_block) {
    return static_cast<unsigned>((items + per_block - 1) / per_block);
  };
  const auto images = static_cast<unsigned>(batch);
  const int members = std::min(candidates.capacity, kBatch);
  launch("order_best", order_best<Rule>, dim3(images), dim3(kOrderThreads), stream, input, rule, scratch);
  launch("mark_overlaps", mark_overlaps<Rule>, dim3(blocks(members, 32), blocks(members, kTileThreads), images),
         dim3(kTileThreads), stream, input, rule, scratch);
  launch("keep_best", keep_best<Rule>, dim3(images), dim3(kBatch), stream, input, scratch, output);
  if (candidates.capacity <= kBatch) return;
  const dim3 grid(std::min<unsigned>(blocks(candidates.capacity, kTileThreads), kDropBlocks),
                  blocks(std::min(options.max_detections, kBatch), 32), images);
  launch("drop_suppressed", drop_suppressed<Rule>, grid, dim3(kTileThreads), stream, input, rule, scratch, output);
  launch("keep_rest", keep_rest<Rule>, dim3(images), dim3(kRestBatch), stream, input, rule, scratch, output);
}

}  // namespace
}  // namespace retinasdk::cuda
#endif
