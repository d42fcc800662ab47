#include <algorithm>

#include "cpu/kernels_cpu.h"
#include "math/box_grid.h"
#include "math/box_math.h"

namespace retinasdk::cpu {
namespace {

constexpr int kNone = -1;
// From so many candidates of a class on, looking for the neighbours beats comparing with all that is kept of the class.
constexpr int kCrowd = 256;

// Kept boxes, each linked to the one of its class kept before it: a candidate is compared with its own class only. With
// across_classes all are linked as if they were of class 0.
struct Kept {
  Box outline;  // Note [Box convention]
  int previous_of_class;
  int32_t class_id;
};

class Survivors {
 public:
  // crowd: the outlines of all candidates, where their neighbourhoods are to be used.
  Survivors(size_t classes, float iou_limit, const std::vector<Box>& crowd)
      : iou_limit_(iou_limit), is_crowd_(!crowd.empty()), newest_of_class_(classes, kNone), grid_(crowd) {}

  int count() const { return static_cast<int>(kept_.size()); }

  bool suppress(const Box& outline, int32_t class_id) const {
    if (is_crowd_) {
      return grid_.any_near(outline, [&](int i) {
        const Kept& other = kept_[static_cast<size_t>(i)];
        return other.class_id == class_id && suppresses(other.outline, outline, iou_limit_);
      });
    }
    for (int i = newest_of_class_[static_cast<size_t>(class_id)]; i != kNone;) {
      const Kept& other = kept_[static_cast<size_t>(i)];
      if (suppresses(other.outline, outline, iou_limit_)) return true;
      i = other.previous_of_class;
    }
    return false;
  }

  void add(const Box& outline, int32_t class_id) {
    int& newest = newest_of_class_[static_cast<size_t>(class_id)];
    if (is_crowd_) grid_.add(outline, count());
    kept_.push_back({outline, newest, class_id});
    newest = count() - 1;
  }

 private:
  float iou_limit_;
  bool is_crowd_;
  std::vector<Kept> kept_;
  std::vector<int> newest_of_class_;
  BoxGrid grid_;
};

// The outlines of all candidates that are finite.
std::vector<Box> outlines_of(const float* boxes, int count, bool inclusive_pixels) {
  std::vector<Box> outlines;
  outlines.reserve(static_cast<size_t>(count));
  for (int i = 0; i < count; ++i) {
    const Box box = box_at(boxes, static_cast<uint32_t>(i));
    if (is_finite(box)) outlines.push_back(outline(box, inclusive_pixels));
  }
  return outlines;
}

}  // namespace

// Going down the ranks and comparing with what is kept gives what the textbook's "take the best, drop its neighbours"
// gives, and may stop as soon as max_detections are found.
void nms(int batch, const Candidates& candidates, const NmsOptions& options, int32_t* kept, int32_t* kept_counts) {
  const float iou_limit = strict_limit(options.iou_threshold, options.or_equal);
  std::vector<uint64_t> ranked;
  std::vector<int> of_class, kept_of_class;
  for (int image = 0; image < batch; ++image) {
    const int64_t offset = static_cast<int64_t>(image) * candidates.capacity;
    const float* boxes = candidates.boxes + 4 * offset;
    const float* logits = candidates.logits + offset;
    const int32_t* class_ids = candidates.class_ids + offset;
    const int count = candidates.counts[image];

    const int32_t classes = count > 0 ? 1 + *std::max_element(class_ids, class_ids + count) : 1;
    ranked.clear();
    of_class.assign(static_cast<size_t>(classes), 0);
    for (int i = 0; i < count; ++i) {
      if (logits[i] == logits[i]) ranked.push_back(rank_key(logits[i], static_cast<uint32_t>(i)));
      ++of_class[options.across_classes ? 0 : static_cast<size_t>(class_ids[i])];
    }
    std::sort(ranked.begin(), ranked.end());

    // Where boxes without a common area suppress each other, too, there is no neighbourhood.
    const bool is_crowd = iou_limit >= 0.0f && *std::max_element(of_class.begin(), of_class.end()) >= kCrowd;
    Survivors survivors(static_cast<size_t>(classes), iou_limit,
                        is_crowd ? outlines_of(boxes, count, options.inclusive_pixels) : std::vector<Box>{});
    kept_of_class.assign(static_cast<size_t>(classes), 0);
    for (const uint64_t key : ranked) {
      if (survivors.count() == options.max_detections) break;
      const uint32_t i = index_of(key);
      const Box box = box_at(boxes, i);
      const Box outlined = outline(box, options.inclusive_pixels);
      const auto class_id = static_cast<size_t>(class_ids[i]);
      const int32_t rivals = options.across_classes ? 0 : class_ids[i];
      if (!is_finite(box) || kept_of_class[class_id] == options.max_per_class) continue;
      if (survivors.suppress(outlined, rivals)) continue;
      ++kept_of_class[class_id];
      kept[static_cast<int64_t>(image) * options.max_detections + survivors.count()] = static_cast<int32_t>(i);
      survivors.add(outlined, rivals);
    }
    kept_counts[image] = survivors.count();
  }
}

}  // namespace retinasdk::cpu
