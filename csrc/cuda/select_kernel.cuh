// The kernel that selects the best top_k keys of a level, sorts them, and decodes their boxes.
#pragma once

#include "cuda/block_sort.cuh"
#include "cuda/decode_plan.cuh"
#include "cuda/nth_key.cuh"

namespace retinasdk::cuda {
namespace {

constexpr int kSelectThreads = 512;
constexpr int kMaxSegments = kSelectThreads;  // Of a level. Each thread reads the count of one.

// The arrays of DeviceCandidates.
struct Output {
  float* boxes;
  float* logits;
  int32_t* class_ids;
  int32_t* counts;
  int32_t* rescans;
  int capacity;
};

// The shortlists of the segments of a slot, as one list.
struct Shortlist {
  const uint64_t* keys;    // Of the first segment.
  const uint32_t* before;  // (segments,), in shared memory: how many keys the earlier segments have.
  uint32_t segments, segment_keys;
  uint32_t count;

  // Returns key i.
  __device__ uint64_t operator[](uint32_t i) const {
    uint32_t segment = 0;
    for (uint32_t step = kMaxSegments / 2; step > 0; step /= 2) {
      if (segment + step < segments && before[segment + step] <= i) segment += step;
    }
    return keys[uint64_t{segment} * segment_keys + (i - before[segment])];
  }
};

// Writes the best top_k keys of a list to `best`, sorted, and returns how many they are.
__device__ inline uint32_t sort_best(const Shortlist& list, uint64_t* best, const Plan& plan) {
  __shared__ uint32_t gathered;
  const auto top_k = static_cast<uint32_t>(plan.top_k);
  uint32_t count = list.count;
  if (count <= static_cast<uint32_t>(plan.best_keys)) {
    for (uint32_t i = threadIdx.x; i < count; i += kSelectThreads) best[i] = list[i];
  } else {  // Many candidates have almost the same logit.
    const uint64_t worst = nth_key(top_k, [&](auto body) {
      for (uint32_t i = threadIdx.x; i < list.count; i += kSelectThreads) body(list[i]);
    });
    if (threadIdx.x == 0) gathered = 0;
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < list.count; i += kSelectThreads) {
      const uint64_t key = list[i];
      if (key <= worst) best[atomicAdd(&gathered, 1u)] = key;
    }
    count = top_k;
  }
  int sorted = 1;
  while (sorted < static_cast<int>(count)) sorted *= 2;
  for (int i = static_cast<int>(count + threadIdx.x); i < sorted; i += kSelectThreads) best[i] = ~uint64_t{0};
  block_sort(best, sorted);
  return count < top_k ? count : top_k;
}

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

// A candidate in registers.
template <typename Boxes>
struct Candidate {
  float values[Boxes::kValues];
  float logit;
  int32_t class_id;
};

// Writes a candidate to place `at` of all images.
template <typename Boxes>
__device__ inline void store(const Candidate<Boxes>& candidate, const Output& output, uint64_t at) {
#pragma unroll
  for (int v = 0; v < Boxes::kValues; ++v) output.boxes[Boxes::kValues * at + v] = candidate.values[v];
  output.logits[at] = candidate.logit;
  output.class_ids[at] = candidate.class_id;
}

// Computes candidate i of a level: that of key i, or with top_k_anchors that of class i % K of key i / K. Returns
// whether it is one: its logit passes, and its box meets the limits.
template <typename T, typename Boxes>
__device__ inline bool decode_candidate(const Plan& plan, const Level& level, uint32_t image, const uint64_t* best,
                                        uint32_t i, Candidate<Boxes>& candidate) {
  const auto classes = static_cast<uint32_t>(plan.classes);
  const uint64_t key = best[plan.by_anchor ? i / classes : i];
  const uint32_t pair = plan.by_anchor ? index_of(key) : index_of(key) / classes;
  const uint32_t class_id = plan.by_anchor ? i % classes : index_of(key) - pair * classes;
  const uint32_t cell = pair / static_cast<uint32_t>(plan.anchors);
  const uint32_t anchor = pair - cell * static_cast<uint32_t>(plan.anchors);
  candidate.class_id = static_cast<int32_t>(class_id);
  candidate.logit = logit_of(key);
  if (plan.by_anchor) {
    const uint64_t at = level.logit_layout.at(image, anchor * classes + class_id, cell);
    candidate.logit = to_float(static_cast<const T*>(level.logits)[at]) + 0.0f;  // +0 in place of -0.
    const float threshold = strict_limit(*plan.logit_threshold, plan.or_equal);
    if (!passes(candidate.logit, threshold) || !is_wanted(candidate.logit, class_id, plan)) return false;
  }
  const auto count_of_deltas = static_cast<uint32_t>(Boxes::deltas(plan));
  const T* deltas = static_cast<const T*>(level.deltas) + level.delta_layout.at(image, anchor * count_of_deltas, cell);
  float delta[kMaxDeltas];
#pragma unroll
  for (uint32_t d = 0; d < kMaxDeltas; ++d) {
    delta[d] = d < count_of_deltas ? to_float(deltas[uint64_t{d} * level.delta_layout.channel_step]) : 0.0f;
  }
  const IgnoredRegions ignored{plan.ignored + int64_t{4} * image * plan.ignored_regions, plan.ignored_regions};
  const BoxLimits limits{level.clip_width >= 0.0f ? level.clip_width : plan.clip_sizes[2 * image + 1],
                         level.clip_height >= 0.0f ? level.clip_height : plan.clip_sizes[2 * image], plan.drop_empty,
                         ignored};
  return Boxes::decode(plan, level, level.base_anchors + Boxes::kAnchorValues * anchor,
                       static_cast<int>(cell / static_cast<uint32_t>(level.width)),
                       static_cast<int>(cell % static_cast<uint32_t>(level.width)), delta, limits, candidate.values);
}

// Moves the candidates of an image together, where boxes of a level did not meet the limits, and writes their count.
// The block must be the last one of the image: the arrays of the other levels are complete.
template <typename Boxes>
__device__ void close_gaps(const Plan& plan, uint32_t image, uint32_t classes_of_key, const Output& output) {
  const uint32_t first_slot = image * static_cast<uint32_t>(plan.level_count);
  const uint64_t first = uint64_t{image} * static_cast<uint64_t>(output.capacity);
  const auto top_k = static_cast<uint32_t>(plan.top_k);
  uint32_t from = 0;
  uint32_t to = 0;
  int rescans = 0;
  for (int l = 0; l < plan.level_count; ++l) {
    const uint32_t found = plan.found[first_slot + static_cast<uint32_t>(l)];
    const uint32_t usable = __ldcg(plan.usable + first_slot + static_cast<uint32_t>(l));
    for (uint32_t i = 0; from > to && i < usable; i += kSelectThreads) {
      Candidate<Boxes> candidate{};
      const bool is_mine = i + threadIdx.x < usable;
      if (is_mine) {
        const uint64_t at = first + from + i + threadIdx.x;
#pragma unroll
        for (int v = 0; v < Boxes::kValues; ++v) candidate.values[v] = __ldcg(output.boxes + Boxes::kValues * at + v);
        candidate.logit = __ldcg(output.logits + at);
        candidate.class_id = __ldcg(output.class_ids + at);
      }
      __syncthreads();  // The places of some may be those of others.
      if (is_mine) store(candidate, output, first + to + i + threadIdx.x);
      __syncthreads();
    }
    from += (found < top_k ? found : top_k) * classes_of_key;
    to += usable;
    if (found > plan.levels[l].buffer_keys) ++rescans;
  }
  if (threadIdx.x == 0) {
    output.counts[image] = static_cast<int32_t>(to);
    if (output.rescans != nullptr) output.rescans[image] = rescans;
  }
}

// Selects and sorts the best keys of each level and computes their boxes. Grid: (levels, images). See Note [Decoding].
template <typename T, typename Boxes>
__global__ void __launch_bounds__(kSelectThreads, 1) select_best(Plan plan, Output output) {
  __shared__ BlockPlaces<kSelectThreads> places;
  __shared__ uint32_t before[kMaxSegments];
  __shared__ uint32_t finished;
  const Level& level = plan.levels[blockIdx.x];
  const uint32_t image = blockIdx.y;
  const uint32_t slot = image * static_cast<uint32_t>(plan.level_count) + blockIdx.x;
  const uint32_t* counts = plan.segment_counts + image * plan.image_segments + level.first_segment;
  Shortlist list{plan.buffer + image * plan.image_keys + level.first_key, before, level.segments, plan.segment_keys, 0};
  const uint32_t in_segment = threadIdx.x < level.segments ? counts[threadIdx.x] : 0;
  before[threadIdx.x] = places.place(in_segment, 0, list.count);
  __syncthreads();
  uint64_t* best = plan.best + uint64_t{slot} * static_cast<uint64_t>(plan.best_keys);
  const uint32_t selected = sort_best(list, best, plan);

  // As long as all boxes meet the limits, this is where the level's candidates belong. Else close_gaps() moves them.
  const uint32_t classes_of_key = plan.by_anchor ? static_cast<uint32_t>(plan.classes) : 1;
  const auto top_k = static_cast<uint32_t>(plan.top_k);
  uint64_t at = uint64_t{image} * static_cast<uint64_t>(output.capacity);
  for (uint32_t l = 0; l < blockIdx.x; ++l) {
    const uint32_t found = plan.found[slot - blockIdx.x + l];
    at += uint64_t{found < top_k ? found : top_k} * classes_of_key;
  }
  uint32_t usable = 0;
  int turn = 1;
  for (uint32_t first = 0; first < selected * classes_of_key; first += kSelectThreads) {
    const uint32_t i = first + threadIdx.x;
    Candidate<Boxes> candidate{};
    const bool is_usable = i < selected * classes_of_key && decode_candidate<T>(plan, level, image, best, i, candidate);
    uint32_t total;
    const uint32_t place = usable + places.place(is_usable ? 1 : 0, turn, total);
    turn = 1 - turn;
    if (is_usable) store(candidate, output, at + place);
    usable += total;
  }

  if (threadIdx.x == 0) plan.usable[slot] = usable;
  __threadfence();  // The last block of the image must see what all threads wrote.
  __syncthreads();
  if (threadIdx.x == 0) finished = atomicAdd(plan.finished + image, 1u) + 1;
  __syncthreads();
  if (finished < static_cast<uint32_t>(plan.level_count)) return;
  __threadfence();
  close_gaps<Boxes>(plan, image, classes_of_key, output);
}

}  // namespace
}  // namespace retinasdk::cuda
