#include <algorithm>

#include "box_math.h"
#include "kernels_cpu.h"

namespace retinasdk::cpu {
namespace {

constexpr int kNone = -1;

// Kept boxes, each linked to the one of its class kept before it: a candidate is compared with its own class only. With
// across_classes all are linked as if they were of class 0.
struct Kept {
  Box outline;  // Note [Box convention]
  int previous_of_class;
};

bool is_suppressed(const Box& outline, int newest_of_class, const std::vector<Kept>& kept, float iou_limit) {
  for (int i = newest_of_class; i != kNone; i = kept[static_cast<size_t>(i)].previous_of_class) {
    if (suppresses(kept[static_cast<size_t>(i)].outline, outline, iou_limit)) return true;
  }
  return false;
}

}  // namespace

// Going down the ranks and comparing with what is kept gives what the textbook's "take the best, drop its neighbours"
// gives, and may stop as soon as max_detections are found.
void nms(int batch, const Candidates& candidates, const NmsOptions& options, int32_t* kept, int32_t* kept_counts) {
  const float iou_limit = strict_limit(options.iou_threshold, options.or_equal);
  std::vector<uint64_t> ranked;
  std::vector<Kept> survivors;
  std::vector<int> newest_of_class;
  std::vector<int> kept_of_class;
  for (int image = 0; image < batch; ++image) {
    const int64_t offset = static_cast<int64_t>(image) * candidates.capacity;
    const float* boxes = candidates.boxes + 4 * offset;
    const float* logits = candidates.logits + offset;
    const int32_t* class_ids = candidates.class_ids + offset;
    const int count = candidates.counts[image];

    ranked.clear();
    for (int i = 0; i < count; ++i) {
      if (logits[i] == logits[i]) ranked.push_back(rank_key(logits[i], static_cast<uint32_t>(i)));
    }
    std::sort(ranked.begin(), ranked.end());

    const int32_t classes = count > 0 ? 1 + *std::max_element(class_ids, class_ids + count) : 0;
    newest_of_class.assign(static_cast<size_t>(classes), kNone);
    kept_of_class.assign(static_cast<size_t>(classes), 0);
    survivors.clear();
    for (const uint64_t key : ranked) {
      if (static_cast<int>(survivors.size()) == options.max_detections) break;
      const uint32_t i = index_of(key);
      const Box box = box_at(boxes, i);
      const Box outlined = outline(box, options.plus_one);
      const auto class_id = static_cast<size_t>(class_ids[i]);
      int& newest = newest_of_class[options.across_classes ? 0 : class_id];
      if (!is_finite(box) || kept_of_class[class_id] == options.max_per_class) continue;
      if (is_suppressed(outlined, newest, survivors, iou_limit)) continue;
      ++kept_of_class[class_id];
      kept[static_cast<int64_t>(image) * options.max_detections + static_cast<int64_t>(survivors.size())] =
          static_cast<int32_t>(i);
      survivors.push_back({outlined, newest});
      newest = static_cast<int>(survivors.size()) - 1;
    }
    kept_counts[image] = static_cast<int32_t>(survivors.size());
  }
}

}  // namespace retinasdk::cpu
