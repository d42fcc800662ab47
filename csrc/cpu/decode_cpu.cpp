// Decoding on the CPU: filters the logits, selects the best of each feature level, computes their boxes.
#include <algorithm>
#include <limits>

#include "cpu/kernels_cpu.h"
#include "math/box_math.h"
#include "math/rotated_math.h"

namespace retinasdk::cpu {
namespace {

// Selects the best top_k (logit, index) pairs of a stream, in a buffer of fixed size. When the buffer is full, all but
// the best top_k are dropped. The threshold then rises, so that the filter passes only logits that can still be among
// them.
class BestOfLevel {
 public:
  BestOfLevel(int top_k, float threshold)
      : top_k_(static_cast<size_t>(top_k)), capacity_(std::max<size_t>(4 * top_k_, 8192)), threshold_(threshold) {
    keys_.reserve(capacity_);
  }

  float threshold() const { return threshold_; }

  void add(float logit, uint32_t index) {
    if (keys_.size() == capacity_) shrink();
    keys_.push_back(rank_key(logit, index));
  }

  // Returns the keys of the best pairs, best first. See Note [Rank].
  const std::vector<uint64_t>& sorted() {
    if (keys_.size() > top_k_) shrink();
    std::sort(keys_.begin(), keys_.end());
    return keys_;
  }

 private:
  // Drops all but the best top_k.
  void shrink() {
    const auto last_kept = keys_.begin() + static_cast<std::ptrdiff_t>(top_k_) - 1;
    std::nth_element(keys_.begin(), last_kept, keys_.end());
    // A later logit that equals the worst kept one may still rank before it by its index. Therefore the threshold is
    // the next float below.
    const float worst = logit_of(*last_kept);
    threshold_ = std::max(threshold_, std::nextafter(worst, -std::numeric_limits<float>::infinity()));
    keys_.resize(top_k_);
  }

  size_t top_k_;
  size_t capacity_;
  float threshold_;
  std::vector<uint64_t> keys_;
};

constexpr int kChunk = 4096;  // Logits filtered at a time. 16 KiB stay in the L1 cache until hits are read again.

// Adds the logits of the channels [begin, end) of one level and image to `best`. The channels are contiguous in memory,
// so they are filtered as one array. This matters on small levels, where a channel has only a few cells.
// class_limits: strict_limit() of the threshold of each class, or empty if there are none.
void scan_channels(const float* logits, int begin, int end, const HeadLevel& level, const DecodeOptions& options,
                   const std::vector<float>& class_limits, BestOfLevel& best) {
  const int64_t cells = static_cast<int64_t>(level.height) * level.width;
  const int64_t stop = end * cells;
  int32_t positions[kChunk];
  // The positions of hits ascend, so the channel of a hit is found by counting up from the previous one. Two divisions
  // per hit would cost more than the filter itself.
  int anchor = begin / options.classes;
  int class_id = begin % options.classes;
  int64_t channel_start = begin * cells;
  for (int64_t start = begin * cells; start < stop; start += kChunk) {
    const int count = static_cast<int>(std::min<int64_t>(kChunk, stop - start));
    const int found = positions_above(logits + start, count, best.threshold(), positions);
    for (int i = 0; i < found; ++i) {
      const int64_t offset = start + positions[i];
      while (offset >= channel_start + cells) {
        channel_start += cells;
        if (++class_id == options.classes) {
          class_id = 0;
          ++anchor;
        }
      }
      if (!class_limits.empty() && !passes(logits[offset], class_limits[static_cast<size_t>(class_id)])) continue;
      const int64_t cell = offset - channel_start;
      best.add(logits[offset], static_cast<uint32_t>((cell * options.anchors + anchor) * options.classes + class_id));
    }
  }
}

// Selects the best candidates of one level and image.
BestOfLevel best_of_level(const HeadLevel& level, int image, const DecodeOptions& options,
                          const std::vector<float>& class_limits) {
  const int channels = options.anchors * options.classes;
  const float* logits = level.logits + static_cast<int64_t>(image) * channels * level.height * level.width;
  BestOfLevel best(options.top_k, strict_limit(options.logit_threshold, options.or_equal));
  if (options.class_ids.empty()) {
    scan_channels(logits, 0, channels, level, options, class_limits, best);
  } else {
    for (int anchor = 0; anchor < options.anchors; ++anchor) {
      for (const int32_t class_id : options.class_ids) {
        const int channel = anchor * options.classes + class_id;
        scan_channels(logits, channel, channel + 1, level, options, class_limits, best);
      }
    }
  }
  return best;
}

// Writes the best logit of each anchor to `maxima` (A, height, width): the highest of the requested classes that passes
// its threshold, or -infinity if none does.
void best_of_anchors(const HeadLevel& level, int image, const DecodeOptions& options,
                     const std::vector<float>& class_limits, std::vector<float>& maxima) {
  const int64_t cells = static_cast<int64_t>(level.height) * level.width;
  const float* logits = level.logits + static_cast<int64_t>(image) * options.anchors * options.classes * cells;
  const float limit = strict_limit(options.logit_threshold, options.or_equal);
  maxima.assign(static_cast<size_t>(options.anchors * cells), -std::numeric_limits<float>::infinity());
  const int requested = options.class_ids.empty() ? options.classes : static_cast<int>(options.class_ids.size());
  for (int anchor = 0; anchor < options.anchors; ++anchor) {
    float* best = maxima.data() + anchor * cells;
    for (int i = 0; i < requested; ++i) {
      const int class_id = options.class_ids.empty() ? i : options.class_ids[static_cast<size_t>(i)];
      const float* channel = logits + (static_cast<int64_t>(anchor) * options.classes + class_id) * cells;
      const float class_limit = class_limits.empty() ? limit : class_limits[static_cast<size_t>(class_id)];
      for (int64_t cell = 0; cell < cells; ++cell) {
        const float value = channel[cell];
        if (passes(value, limit) && passes(value, class_limit) && value > best[cell]) best[cell] = value;
      }
    }
  }
}

// A candidate before its box is computed.
struct Selected {
  float logit;
  int64_t pair;  // cell * A + anchor.
  int32_t class_id;
};

// Selects the candidates of one level and image, in their order.
void select(const HeadLevel& level, int image, const DecodeOptions& options, const std::vector<float>& class_limits,
            std::vector<Selected>& selected) {
  selected.clear();
  if (!options.top_k_anchors) {
    BestOfLevel best = best_of_level(level, image, options, class_limits);
    for (const uint64_t key : best.sorted()) {
      const int64_t index = index_of(key);
      const int64_t pair = index / options.classes;
      selected.push_back({logit_of(key), pair, static_cast<int32_t>(index - pair * options.classes)});
    }
    return;
  }
  // The best anchors are the best pairs of a level that has one class, with the best logit of each anchor.
  std::vector<float> maxima;
  best_of_anchors(level, image, options, class_limits, maxima);
  DecodeOptions of_anchors = options;
  of_anchors.classes = 1;
  of_anchors.class_ids.clear();
  HeadLevel anchors_level = level;
  anchors_level.logits = maxima.data();
  BestOfLevel best = best_of_level(anchors_level, 0, of_anchors, {});
  const int64_t cells = static_cast<int64_t>(level.height) * level.width;
  const float* logits = level.logits + static_cast<int64_t>(image) * options.anchors * options.classes * cells;
  const float limit = strict_limit(options.logit_threshold, options.or_equal);
  std::vector<int32_t> class_ids = options.class_ids;
  std::sort(class_ids.begin(), class_ids.end());
  const int requested = class_ids.empty() ? options.classes : static_cast<int>(class_ids.size());
  for (const uint64_t key : best.sorted()) {
    const int64_t pair = index_of(key);
    const int64_t cell = pair / options.anchors;
    const int64_t anchor = pair - cell * options.anchors;
    for (int i = 0; i < requested; ++i) {
      const int32_t class_id = class_ids.empty() ? i : class_ids[static_cast<size_t>(i)];
      const float logit = logits[(anchor * options.classes + class_id) * cells + cell];
      if (!passes(logit, limit)) continue;
      if (!class_limits.empty() && !passes(logit, class_limits[static_cast<size_t>(class_id)])) continue;
      selected.push_back({logit + 0.0f, pair, class_id});  // +0 in place of -0, as in Note [Rank].
    }
  }
}

// Writes the box of an anchor. Returns whether it meets the limits.
bool write_box(const HeadLevel& level, int64_t anchor, int row, int column, const float (&delta)[kMaxDeltas],
               const BoxCoder& coder, const BoxLimits& limits, float* out) {
  const Box base = anchor_box(level.base_anchors + 4 * anchor, level.stride_y, level.stride_x, row, column);
  Box box;
  if (!decode_box(base, {delta[0], delta[1], delta[2], delta[3]}, coder, limits, box)) return false;
  out[0] = box.x1;
  out[1] = box.y1;
  out[2] = box.x2;
  out[3] = box.y2;
  return true;
}

// Writes the rotated box of an anchor. Returns whether it meets the limits.
bool write_rotated(const HeadLevel& level, int64_t anchor, int row, int column, const float (&delta)[kMaxDeltas],
                   const RotatedCoder& coder, const BoxLimits& limits, float* out) {
  const float* base = level.base_anchors + kRotatedAnchorValues * anchor;
  const RotatedBox moved = rotated_anchor(base, level.stride_y, level.stride_x, row, column);
  RotatedBox box;
  if (!decode_rotated_box(moved, base[4], delta, coder, limits, box)) return false;
  store(box, out);
  return true;
}

}  // namespace

void decode(const std::vector<HeadLevel>& levels, const DecodeOptions& options, const float* clip_sizes,
            const Candidates& candidates) {
  std::vector<float> class_limits;
  for (int k = 0; options.class_thresholds != nullptr && k < options.classes; ++k) {
    class_limits.push_back(strict_limit(options.class_thresholds[k], options.or_equal));
  }
  const int delta_count = options.rotated == nullptr ? 4 : deltas_of(options.rotated->coding);
  std::vector<Selected> selected;
  for (int image = 0; image < options.batch; ++image) {
    int64_t slot = static_cast<int64_t>(image) * candidates.capacity;
    const int64_t first_slot = slot;
    const IgnoredRegions ignored{options.ignored + int64_t{4} * image * options.ignored_regions,
                                 options.ignored_regions};
    for (const HeadLevel& level : levels) {
      const BoxLimits limits{level.clip_width >= 0.0f ? level.clip_width : clip_sizes[2 * image + 1],
                             level.clip_height >= 0.0f ? level.clip_height : clip_sizes[2 * image], options.drop_empty,
                             ignored};
      const int64_t cells = static_cast<int64_t>(level.height) * level.width;
      const float* deltas = level.deltas + static_cast<int64_t>(image) * options.anchors * delta_count * cells;
      select(level, image, options, class_limits, selected);
      for (const Selected& candidate : selected) {
        const int64_t cell = candidate.pair / options.anchors;
        const int64_t anchor = candidate.pair - cell * options.anchors;
        const int row = static_cast<int>(cell / level.width);
        const int column = static_cast<int>(cell % level.width);
        float delta[kMaxDeltas];
        for (int i = 0; i < delta_count; ++i) delta[i] = deltas[(anchor * delta_count + i) * cells + cell];
        float* out = candidates.boxes + (options.rotated == nullptr ? 4 : kRotatedValues) * slot;
        const bool is_usable = options.rotated == nullptr
                                   ? write_box(level, anchor, row, column, delta, options.coder, limits, out)
                                   : write_rotated(level, anchor, row, column, delta, *options.rotated, limits, out);
        if (!is_usable) continue;
        candidates.logits[slot] = candidate.logit;
        candidates.class_ids[slot] = candidate.class_id;
        ++slot;
      }
    }
    candidates.counts[image] = static_cast<int32_t>(slot - first_slot);
  }
}

}  // namespace retinasdk::cpu
