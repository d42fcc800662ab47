// Non-maximum suppression and IoU of rotated boxes on the CPU. decode_cpu.cpp decodes them.
#include <algorithm>

#include "cpu/kernels_cpu.h"
#include "math/rotated_math.h"

namespace retinasdk::cpu {
namespace {

constexpr int kNone = -1;  // No kept box.

// A kept box. It is linked to the previous kept box of its class, so a candidate is compared with its own class only.
struct Kept {
  RotatedBox box;
  int previous_of_class;
};

}  // namespace

// As nms() in nms_cpu.cpp, without its spatial index: the test for separating axes is nearly as fast.
void rotated_nms(int batch, const Candidates& candidates, const NmsOptions& options, bool shares_angle, int32_t* kept,
                 int32_t* kept_counts) {
  const float limit = strict_limit(options.iou_threshold, options.or_equal);
  std::vector<uint64_t> ranked;
  std::vector<Kept> survivors;
  std::vector<int> newest, kept_of_class;
  for (int image = 0; image < batch; ++image) {
    const int64_t offset = static_cast<int64_t>(image) * candidates.capacity;
    const float* boxes = candidates.boxes + kRotatedValues * offset;
    const float* logits = candidates.logits + offset;
    const int32_t* class_ids = candidates.class_ids + offset;
    const int count = candidates.counts[image];
    ranked.clear();
    for (int i = 0; i < count; ++i) {
      if (logits[i] == logits[i]) ranked.push_back(rank_key(logits[i], static_cast<uint32_t>(i)));
    }
    std::sort(ranked.begin(), ranked.end());

    const auto classes = static_cast<size_t>(count > 0 ? 1 + *std::max_element(class_ids, class_ids + count) : 1);
    survivors.clear();
    newest.assign(classes, kNone);
    kept_of_class.assign(classes, 0);
    for (const uint64_t key : ranked) {
      const int survivor_count = static_cast<int>(survivors.size());
      if (survivor_count == options.max_detections) break;
      const uint32_t i = index_of(key);
      const RotatedBox box = rotated_box_at(boxes, i);
      const auto class_id = static_cast<size_t>(class_ids[i]);
      if (!is_finite(box) || kept_of_class[class_id] == options.max_per_class) continue;
      int& newest_rival = newest[options.across_classes ? 0 : class_id];
      int rival = newest_rival;
      while (rival != kNone && !(rotated_iou(survivors[static_cast<size_t>(rival)].box, box, shares_angle) > limit)) {
        rival = survivors[static_cast<size_t>(rival)].previous_of_class;
      }
      if (rival != kNone) continue;
      ++kept_of_class[class_id];
      kept[static_cast<int64_t>(image) * options.max_detections + survivor_count] = static_cast<int32_t>(i);
      survivors.push_back({box, newest_rival});
      newest_rival = survivor_count;
    }
    kept_counts[image] = static_cast<int32_t>(survivors.size());
  }
}

void rotated_ious(const float* boxes, int count, const float* others, int other_count, float* ious) {
  for (int i = 0; i < count; ++i) {
    const RotatedBox box = rotated_box_at(boxes, static_cast<uint64_t>(i));
    for (int k = 0; k < other_count; ++k) {
      ious[int64_t{i} * other_count + k] = rotated_iou(box, rotated_box_at(others, static_cast<uint64_t>(k)), false);
    }
  }
}

}  // namespace retinasdk::cpu
