// Soft NMS on the CPU.
#include "cpu/kernels_cpu.h"
#include "math/overlap_math.h"

namespace retinasdk::cpu {
namespace {

// A candidate that is neither kept nor dropped yet.
struct Candidate {
  Box box;  // In continuous coordinates, see Note [Box convention].
  float score;
  uint32_t index;
  int32_t class_id;
};

// Returns the usable candidates of an image with their initial scores.
std::vector<Candidate> scored_candidates(const Candidates& candidates, int image, bool inclusive_pixels) {
  const int64_t offset = static_cast<int64_t>(image) * candidates.capacity;
  const float* boxes = candidates.boxes + 4 * offset;
  const float* logits = candidates.logits + offset;
  std::vector<Candidate> scored;
  for (int i = 0; i < candidates.counts[image]; ++i) {
    const Box box = box_at(boxes, static_cast<uint64_t>(i));
    if (logits[i] != logits[i] || !is_finite(box)) continue;
    scored.push_back({continuous_box(box, inclusive_pixels), score_of(logits[i]), static_cast<uint32_t>(i),
                      candidates.class_ids[offset + i]});
  }
  return scored;
}

// Returns the position of the best candidate. `left` must not be empty.
size_t best_of(const std::vector<Candidate>& left) {
  size_t best = 0;
  for (size_t i = 1; i < left.size(); ++i) {
    if (rank_key(left[i].score, left[i].index) < rank_key(left[best].score, left[best].index)) best = i;
  }
  return best;
}

}  // namespace

void soft_nms(int batch, const Candidates& candidates, const SoftNmsOptions& options, int32_t* kept,
              int32_t* kept_counts, float* scores) {
  const NmsOptions& nms = options.nms;
  const DecayRule rule{options.decay == Decay::kGaussian, strict_limit(nms.iou_threshold, nms.or_equal), options.sigma};
  for (int image = 0; image < batch; ++image) {
    std::vector<Candidate> left = scored_candidates(candidates, image, nms.inclusive_pixels);
    std::vector<int> kept_of_class(static_cast<size_t>(options.classes), 0);
    const int64_t results = static_cast<int64_t>(image) * nms.max_detections;
    int count = 0;
    while (!left.empty() && count < nms.max_detections) {
      const size_t place = best_of(left);
      const Candidate best = left[place];
      left[place] = left.back();  // The order of the remaining candidates does not matter.
      left.pop_back();
      if (kept_of_class[static_cast<size_t>(best.class_id)]++ >= nms.max_per_class) continue;
      kept[results + count] = static_cast<int32_t>(best.index);
      scores[results + count] = best.score;
      ++count;
      size_t survivors = 0;
      for (Candidate other : left) {
        if (nms.across_classes || other.class_id == best.class_id) {
          const float before = other.score;
          other.score = decayed(before, iou(best.box, other.box), rule);
          if (!survives(before, other.score, options.score_thresholds[other.class_id])) continue;
        }
        left[survivors++] = other;
      }
      left.resize(survivors);
    }
    kept_counts[image] = count;
  }
}

}  // namespace retinasdk::cpu
