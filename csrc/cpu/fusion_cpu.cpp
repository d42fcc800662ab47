// Weighted boxes fusion on the CPU.
#include <algorithm>

#include "cpu/kernels_cpu.h"
#include "math/overlap_math.h"

namespace retinasdk::cpu {
namespace {

constexpr int kNone = -1;  // No cluster.

// The clusters of one image. Each is linked to the previous cluster of its class, so a box is compared with its own
// class only. With across_classes, all clusters are in the list of class 0.
class Clusters {
 public:
  Clusters(const FusionOptions& options)
      : nms_(options.nms),
        iou_limit_(strict_limit(options.nms.iou_threshold, options.nms.or_equal)),
        newest_of_class_(static_cast<size_t>(options.classes), kNone) {}

  const std::vector<Cluster>& all() const { return clusters_; }

  // Adds a candidate to the cluster that it overlaps most, or to a new one.
  void add(const Box& box, float score, int32_t class_id) {
    int& newest = newest_of_class_[nms_.across_classes ? 0 : static_cast<size_t>(class_id)];
    const int nearest = nearest_to(continuous_box(box, nms_.inclusive_pixels), newest);
    if (nearest != kNone) {
      join(clusters_[static_cast<size_t>(nearest)], box, score);
      return;
    }
    previous_of_class_.push_back(newest);
    newest = static_cast<int>(clusters_.size());
    clusters_.push_back(new_cluster(box, score, class_id));
  }

 private:
  // Returns the cluster whose fused box has the highest IoU with the box, if that is above the threshold, else kNone.
  // `newest` is the head of the list to search.
  int nearest_to(const Box& continuous, int newest) const {
    uint64_t best = ~uint64_t{0};
    for (int k = newest; k != kNone; k = previous_of_class_[static_cast<size_t>(k)]) {
      const float overlap =
          iou(continuous_box(clusters_[static_cast<size_t>(k)].fused, nms_.inclusive_pixels), continuous);
      if (overlap > iou_limit_) best = std::min(best, rank_key(overlap, static_cast<uint32_t>(k)));
    }
    return best == ~uint64_t{0} ? kNone : static_cast<int>(index_of(best));
  }

  NmsOptions nms_;
  float iou_limit_;
  std::vector<int> newest_of_class_;
  std::vector<int> previous_of_class_;
  std::vector<Cluster> clusters_;
};

}  // namespace

void fuse(int batch, const Candidates& candidates, const FusionOptions& options, const FusedBoxes& fused) {
  std::vector<uint64_t> ranked;
  for (int image = 0; image < batch; ++image) {
    const int64_t offset = static_cast<int64_t>(image) * candidates.capacity;
    const float* boxes = candidates.boxes + 4 * offset;
    ranked.clear();
    for (int i = 0; i < candidates.counts[image]; ++i) {
      const float given = candidates.logits[offset + i];
      if (given != given) continue;
      const float score = options.scale == ScoreScale::kLogit ? score_of(given) : given;
      if (is_weight(score)) ranked.push_back(rank_key(score, static_cast<uint32_t>(i)));
    }
    std::sort(ranked.begin(), ranked.end());

    Clusters clusters(options);
    for (const uint64_t key : ranked) {
      const uint32_t i = index_of(key);
      const Box box = box_at(boxes, i);
      if (is_finite(box)) clusters.add(box, logit_of(key), candidates.class_ids[offset + i]);
    }

    ranked.clear();
    for (size_t k = 0; k < clusters.all().size(); ++k) {
      const float score = fused_score(clusters.all()[k], options.score == FusedScore::kMean, options.models);
      ranked.push_back(rank_key(score, static_cast<uint32_t>(k)));
    }
    std::sort(ranked.begin(), ranked.end());

    std::vector<int> kept_of_class(static_cast<size_t>(options.classes), 0);
    int64_t at = static_cast<int64_t>(image) * options.nms.max_detections;
    const int64_t first = at;
    for (const uint64_t key : ranked) {
      if (at - first == options.nms.max_detections) break;
      const Cluster& cluster = clusters.all()[index_of(key)];
      if (kept_of_class[static_cast<size_t>(cluster.class_id)]++ >= options.nms.max_per_class) continue;
      const float corners[] = {cluster.fused.x1, cluster.fused.y1, cluster.fused.x2, cluster.fused.y2};
      std::copy(corners, corners + 4, fused.boxes + 4 * at);
      fused.scores[at] = logit_of(key);
      fused.class_ids[at] = cluster.class_id;
      ++at;
    }
    fused.counts[image] = static_cast<int32_t>(at - first);
  }
}

}  // namespace retinasdk::cpu
