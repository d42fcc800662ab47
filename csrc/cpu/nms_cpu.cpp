// Non-maximum suppression on the CPU.
#include <algorithm>

#include "cpu/kernels_cpu.h"
#include "math/box_grid.h"
#include "math/box_math.h"

namespace retinasdk::cpu {
namespace {

constexpr int kNone = -1;  // No kept box.
// The number of candidates of a class from which the spatial index is faster than comparing with all kept boxes.
constexpr int kMinForGrid = 256;

// A kept box. It is linked to the previous kept box of its class, so a candidate is compared with its own class only.
// With across_classes, all boxes are in the list of class 0.
struct Kept {
  Box box;  // In continuous coordinates, see Note [Box convention].
  int previous_of_class;
  int32_t class_id;
};

// The kept boxes of one image.
class Survivors {
 public:
  // grid_boxes: all boxes that may be added, if the spatial index is to be used, else empty.
  Survivors(size_t classes, float iou_limit, const std::vector<Box>& grid_boxes)
      : iou_limit_(iou_limit), uses_grid_(!grid_boxes.empty()), newest_of_class_(classes, kNone), grid_(grid_boxes) {}

  int count() const { return static_cast<int>(kept_.size()); }

  // Whether a kept box of the class suppresses the box.
  bool is_suppressed(const Box& box, int32_t class_id) const {
    if (uses_grid_) {
      return grid_.any_near(box, [&](int i) {
        const Kept& other = kept_[static_cast<size_t>(i)];
        return other.class_id == class_id && suppresses(other.box, box, iou_limit_);
      });
    }
    for (int i = newest_of_class_[static_cast<size_t>(class_id)]; i != kNone;) {
      const Kept& other = kept_[static_cast<size_t>(i)];
      if (suppresses(other.box, box, iou_limit_)) return true;
      i = other.previous_of_class;
    }
    return false;
  }

  void add(const Box& box, int32_t class_id) {
    int& newest = newest_of_class_[static_cast<size_t>(class_id)];
    if (uses_grid_) grid_.add(box, count());
    kept_.push_back({box, newest, class_id});
    newest = count() - 1;
  }

 private:
  float iou_limit_;
  bool uses_grid_;
  std::vector<Kept> kept_;
  std::vector<int> newest_of_class_;
  BoxGrid grid_;
};

// Returns the finite boxes among all candidates, in continuous coordinates.
std::vector<Box> finite_boxes(const float* boxes, int count, bool inclusive_pixels) {
  std::vector<Box> finite;
  finite.reserve(static_cast<size_t>(count));
  for (int i = 0; i < count; ++i) {
    const Box box = box_at(boxes, static_cast<uint32_t>(i));
    if (is_finite(box)) finite.push_back(continuous_box(box, inclusive_pixels));
  }
  return finite;
}

}  // namespace

// Textbook NMS keeps the best box, drops all boxes that it suppresses, and repeats. This function visits the candidates
// from best to worst and compares each with the kept boxes. The result is the same, and it can stop as soon as
// max_detections boxes are kept.
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

    // The grid finds only boxes that overlap. With a limit below 0, boxes that do not overlap suppress each other too.
    const bool uses_grid = iou_limit >= 0.0f && *std::max_element(of_class.begin(), of_class.end()) >= kMinForGrid;
    Survivors survivors(static_cast<size_t>(classes), iou_limit,
                        uses_grid ? finite_boxes(boxes, count, options.inclusive_pixels) : std::vector<Box>{});
    kept_of_class.assign(static_cast<size_t>(classes), 0);
    for (const uint64_t key : ranked) {
      if (survivors.count() == options.max_detections) break;
      const uint32_t i = index_of(key);
      const Box box = box_at(boxes, i);
      const Box continuous = continuous_box(box, options.inclusive_pixels);
      const auto class_id = static_cast<size_t>(class_ids[i]);
      const int32_t list_class = options.across_classes ? 0 : class_ids[i];
      if (!is_finite(box) || kept_of_class[class_id] == options.max_per_class) continue;
      if (survivors.is_suppressed(continuous, list_class)) continue;
      ++kept_of_class[class_id];
      kept[static_cast<int64_t>(image) * options.max_detections + survivors.count()] = static_cast<int32_t>(i);
      survivors.add(continuous, list_class);
    }
    kept_counts[image] = survivors.count();
  }
}

}  // namespace retinasdk::cpu
