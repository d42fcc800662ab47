// Weighted boxes fusion in one launch, with one block per image.
//
// The block sorts the candidates. Then they join clusters one after the other, because each candidate may change a
// fused box. The threads compare a candidate with all clusters in parallel.
#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/block_min.cuh"
#include "cuda/block_sort.cuh"
#include "math/overlap_math.h"

namespace retinasdk::cuda {
namespace {

constexpr int kFusionThreads = 256;
constexpr uint64_t kNone = ~uint64_t{0};  // Larger than every valid key.

struct FusionInput {
  const float* boxes;
  const float* logits;
  const int32_t* class_ids;
  const int32_t* counts;
  int capacity;
  float iou_limit;
  bool inclusive_pixels, across_classes, limits_classes, are_logits, is_mean;
  int max_detections, max_per_class, models, classes;
  uint64_t* keys;  // Scratch, key_capacity per image.
  int key_capacity;
  Cluster* clusters;   // Scratch, capacity per image.
  int* kept_of_class;  // Scratch, classes per image.
};

struct FusionOutput {
  float* boxes;
  float* scores;
  int32_t* class_ids;
  int32_t* counts;
};

// Returns the key of candidate i by its score, or kNone if the candidate is skipped.
__device__ inline uint64_t candidate_key(const FusionInput& input, const float* boxes, const float* logits, int i) {
  if (logits[i] != logits[i] || !is_finite(box_at(boxes, i))) return kNone;
  const float score = input.are_logits ? score_of(logits[i]) : logits[i];
  return is_weight(score) ? rank_key(score, static_cast<uint32_t>(i)) : kNone;
}

// Returns the smallest power of two that is not below the value.
__device__ inline int power_of_two_above(int value) {
  int power = 1;
  while (power < value) power *= 2;
  return power;
}

// Keeps only the best max_per_class keys of each class, in order, and returns their number. Only one thread may call.
__device__ inline int limit_classes(const FusionInput& input, const Cluster* clusters, uint64_t* keys, int count,
                                    int* kept_of_class) {
  int kept = 0;
  for (int i = 0; i < count; ++i) {
    const uint64_t key = keys[i];
    if (kept_of_class[clusters[index_of(key)].class_id]++ < input.max_per_class) keys[kept++] = key;
  }
  return kept;
}

// Fuses the candidates of one image. Grid: (images).
__global__ void __launch_bounds__(kFusionThreads, 1) fusion_kernel(FusionInput input, FusionOutput output) {
  __shared__ int reported;
  const int thread = static_cast<int>(threadIdx.x);
  const uint64_t image = blockIdx.x;
  const uint64_t offset = image * static_cast<uint64_t>(input.capacity);
  const float* boxes = input.boxes + 4 * offset;
  const float* logits = input.logits + offset;
  const int32_t* class_ids = input.class_ids + offset;
  uint64_t* keys = input.keys + image * static_cast<uint64_t>(input.key_capacity);
  Cluster* clusters = input.clusters + offset;
  int* kept_of_class = input.kept_of_class + image * static_cast<uint64_t>(input.classes);
  const uint64_t results = image * static_cast<uint64_t>(input.max_detections);
  const int counted = input.counts[image];
  const int count = counted < input.capacity ? counted : input.capacity;

  const int sorted = power_of_two_above(count);
  for (int i = thread; i < sorted; i += kFusionThreads) {
    keys[i] = i < count ? candidate_key(input, boxes, logits, i) : kNone;
  }
  block_sort(keys, sorted);

  int found = 0;
  for (int r = 0; r < count && keys[r] != kNone; ++r) {
    const uint64_t key = keys[r];
    const Box box = box_at(boxes, index_of(key));
    const Box continuous = continuous_box(box, input.inclusive_pixels);
    const int32_t class_id = class_ids[index_of(key)];
    uint64_t nearest = kNone;
    for (int k = thread; k < found; k += kFusionThreads) {
      if (clusters[k].class_id != class_id && !input.across_classes) continue;
      const float overlap = iou(continuous_box(clusters[k].fused, input.inclusive_pixels), continuous);
      const uint64_t cluster_key = rank_key(overlap, static_cast<uint32_t>(k));
      if (overlap > input.iou_limit && cluster_key < nearest) nearest = cluster_key;
    }
    nearest = block_min<kFusionThreads>(nearest);
    if (thread == 0) {
      if (nearest == kNone) {
        clusters[found] = new_cluster(box, logit_of(key), class_id);
      } else {
        join(clusters[index_of(nearest)], box, logit_of(key));
      }
    }
    if (nearest == kNone) ++found;
    __syncthreads();
  }

  __syncthreads();  // All threads have read the last key.
  const int ranked = power_of_two_above(found);
  for (int k = thread; k < ranked; k += kFusionThreads) {
    keys[k] = kNone;
    if (k < found) keys[k] = rank_key(fused_score(clusters[k], input.is_mean, input.models), static_cast<uint32_t>(k));
  }
  for (int k = thread; k < input.classes; k += kFusionThreads) kept_of_class[k] = 0;
  block_sort(keys, ranked);
  if (thread == 0) {
    const int allowed = input.limits_classes ? limit_classes(input, clusters, keys, found, kept_of_class) : found;
    reported = allowed < input.max_detections ? allowed : input.max_detections;
    output.counts[image] = reported;
  }
  __syncthreads();
  for (int k = thread; k < reported; k += kFusionThreads) {
    const uint64_t at = results + static_cast<uint64_t>(k);
    const Cluster& cluster = clusters[index_of(keys[k])];
    output.boxes[4 * at] = cluster.fused.x1;
    output.boxes[4 * at + 1] = cluster.fused.y1;
    output.boxes[4 * at + 2] = cluster.fused.x2;
    output.boxes[4 * at + 3] = cluster.fused.y2;
    output.scores[at] = logit_of(keys[k]);
    output.class_ids[at] = cluster.class_id;
  }
}

}  // namespace
}  // namespace retinasdk::cuda

#ifndef __CUDACC_RTC__  // Device-only compilers stop here.
#include "cuda/cuda_support.h"

namespace retinasdk::cuda {
namespace {

// Sets the scratch parts of the input.
void lay_out(FusionInput& input, int batch, ScratchLayout& scratch) {
  const auto images = static_cast<size_t>(batch);
  input.key_capacity = power_of_two_from(input.capacity);
  input.keys = scratch.take<uint64_t>(images * static_cast<size_t>(input.key_capacity));
  input.clusters = scratch.take<Cluster>(images * static_cast<size_t>(input.capacity));
  input.kept_of_class = scratch.take<int>(images * static_cast<size_t>(input.classes));
}

}  // namespace

size_t fusion_scratch_bytes(int batch, int capacity, const DeviceFusionOptions& options) {
  require_suppression(batch, capacity, options.nms, options.classes);
  FusionInput input{};
  input.capacity = capacity;
  input.classes = options.classes;
  ScratchLayout layout;
  lay_out(input, batch, layout);
  return layout.size_bytes();
}

void fuse(int batch, const DeviceCandidates& candidates, const DeviceFusionOptions& options, const DeviceScored& scored,
          Scratch scratch, Stream stream) {
  require_scratch(scratch, fusion_scratch_bytes(batch, candidates.capacity, options));
  require(options.models >= 1 && options.models <= 1 << 20,
          "models must be 1 to 1048576, got " + std::to_string(options.models));
  const DeviceNmsOptions& nms = options.nms;
  FusionInput input{candidates.boxes,
                    candidates.logits,
                    candidates.class_ids,
                    candidates.counts,
                    candidates.capacity,
                    strict_limit(nms.iou_threshold, nms.or_equal),
                    nms.inclusive_pixels,
                    nms.across_classes,
                    nms.max_per_class < nms.max_detections,
                    options.scale == ScoreScale::kLogit,
                    options.score == FusedScore::kMean,
                    nms.max_detections,
                    nms.max_per_class,
                    options.models,
                    options.classes,
                    nullptr,
                    0,
                    nullptr,
                    nullptr};
  ScratchLayout layout(scratch.data);
  lay_out(input, batch, layout);
  const FusionOutput output{scored.boxes, scored.scores, scored.class_ids, scored.counts};
  launch("fusion_kernel", fusion_kernel, dim3(static_cast<unsigned>(batch)), dim3(kFusionThreads), stream, input,
         output);
}

}  // namespace retinasdk::cuda
#endif
