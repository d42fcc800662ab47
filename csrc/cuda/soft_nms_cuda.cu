// Soft NMS in one launch, with one block per image. Each step keeps the candidate with the best remaining score. One
// pass over the candidates then lowers the other scores and finds the next best.
#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/block_min.cuh"
#include "math/overlap_math.h"

namespace retinasdk::cuda {
namespace {

constexpr int kSoftThreads = 512;
constexpr uint64_t kNone = ~uint64_t{0};  // Larger than every valid key.
constexpr float kGone = -1.0f;            // The score of a candidate that is kept or dropped.

struct SoftInput {
  const float* boxes;
  const float* logits;
  const int32_t* class_ids;
  const int32_t* counts;
  int capacity;
  DecayRule rule;
  bool inclusive_pixels, across_classes, limits_classes;
  int max_detections, max_per_class;
  const float* score_thresholds;
  int classes;
  float* scores;       // Scratch, capacity per image.
  int* kept_of_class;  // Scratch, classes per image.
};

struct SoftOutput {
  int32_t* kept;
  int32_t* counts;
  float* boxes;
  float* scores;
  int32_t* class_ids;
};

// Processes the candidates of one image. Grid: (images).
__global__ void __launch_bounds__(kSoftThreads) soft_nms_kernel(SoftInput input, SoftOutput output) {
  const int thread = static_cast<int>(threadIdx.x);
  const uint64_t image = blockIdx.x;
  const uint64_t offset = image * static_cast<uint64_t>(input.capacity);
  const float* boxes = input.boxes + 4 * offset;
  const float* logits = input.logits + offset;
  const int32_t* class_ids = input.class_ids + offset;
  float* scores = input.scores + offset;
  int* kept_of_class = input.kept_of_class + image * static_cast<uint64_t>(input.classes);
  const uint64_t results = image * static_cast<uint64_t>(input.max_detections);
  const int counted = input.counts[image];
  const int count = counted < input.capacity ? counted : input.capacity;

  uint64_t best = kNone;
  for (int i = thread; i < count; i += kSoftThreads) {
    const bool usable = logits[i] == logits[i] && is_finite(box_at(boxes, i));
    scores[i] = usable ? score_of(logits[i]) : kGone;
    const uint64_t key = rank_key(scores[i], static_cast<uint32_t>(i));
    if (usable && key < best) best = key;
  }
  for (int k = thread; k < input.classes; k += kSoftThreads) kept_of_class[k] = 0;
  best = block_min<kSoftThreads>(best);

  int kept = 0;
  while (best != kNone && kept < input.max_detections) {
    const uint32_t taken = index_of(best);
    const int32_t class_id = class_ids[taken];
    const Box taken_box = continuous_box(box_at(boxes, taken), input.inclusive_pixels);
    if (thread == 0) {
      const uint64_t at = results + static_cast<uint64_t>(kept);
      output.kept[at] = static_cast<int32_t>(taken);
      for (int i = 0; i < 4; ++i) output.boxes[4 * at + i] = boxes[4 * uint64_t{taken} + i];
      output.scores[at] = logit_of(best);
      output.class_ids[at] = class_id;
    }
    ++kept;
    const bool is_full = input.limits_classes && kept_of_class[class_id] + 1 == input.max_per_class;

    best = kNone;
    for (int i = thread; i < count; i += kSoftThreads) {
      const float before = scores[i];
      if (before == kGone) continue;
      const bool same_class = class_ids[i] == class_id;
      float after = before;
      if (same_class || input.across_classes) {
        after = decayed(before, iou(taken_box, continuous_box(box_at(boxes, i), input.inclusive_pixels)), input.rule);
      }
      if (i == static_cast<int>(taken) || (is_full && same_class) ||
          !survives(before, after, input.score_thresholds[class_ids[i]])) {
        scores[i] = kGone;
        continue;
      }
      scores[i] = after;
      const uint64_t key = rank_key(after, static_cast<uint32_t>(i));
      if (key < best) best = key;
    }
    best = block_min<kSoftThreads>(best);
    if (input.limits_classes) {  // All threads have read the old value by now.
      if (thread == 0) ++kept_of_class[class_id];
      __syncthreads();
    }
  }
  for (int k = kept + thread; k < input.max_detections; k += kSoftThreads) {
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

// Sets the scratch parts of the input.
void lay_out(SoftInput& input, int batch, ScratchLayout& scratch) {
  const auto images = static_cast<size_t>(batch);
  input.scores = scratch.take<float>(images * static_cast<size_t>(input.capacity));
  input.kept_of_class = scratch.take<int>(images * static_cast<size_t>(input.classes));
}

}  // namespace

size_t soft_nms_scratch_bytes(int batch, int capacity, const DeviceSoftNmsOptions& options) {
  require_suppression(batch, capacity, options.nms, options.classes);
  SoftInput input{};
  input.capacity = capacity;
  input.classes = options.classes;
  ScratchLayout layout;
  lay_out(input, batch, layout);
  return layout.size_bytes();
}

void soft_nms(int batch, const DeviceCandidates& candidates, const DeviceSoftNmsOptions& options, int32_t* kept,
              const DeviceScored& scored, Scratch scratch, Stream stream) {
  require_scratch(scratch, soft_nms_scratch_bytes(batch, candidates.capacity, options));
  require(options.sigma > 0.0f, "sigma must be above 0, got " + std::to_string(options.sigma));
  const DeviceNmsOptions& nms = options.nms;
  SoftInput input{candidates.boxes,
                  candidates.logits,
                  candidates.class_ids,
                  candidates.counts,
                  candidates.capacity,
                  {options.decay == Decay::kGaussian, strict_limit(nms.iou_threshold, nms.or_equal), options.sigma},
                  nms.inclusive_pixels,
                  nms.across_classes,
                  nms.max_per_class < nms.max_detections,
                  nms.max_detections,
                  nms.max_per_class,
                  options.score_thresholds,
                  options.classes,
                  nullptr,
                  nullptr};
  ScratchLayout layout(scratch.data);
  lay_out(input, batch, layout);
  const SoftOutput output{kept, scored.counts, scored.boxes, scored.scores, scored.class_ids};
  launch("soft_nms_kernel", soft_nms_kernel, dim3(static_cast<unsigned>(batch)), dim3(kSoftThreads), stream, input,
         output);
}

}  // namespace retinasdk::cuda
#endif
