// Merging of the detections of overlapping tiles.
#include <algorithm>

#include "cpu/kernels_cpu.h"
#include "math/box_grid.h"
#include "math/box_math.h"
#include "math/tile_math.h"

namespace retinasdk::cpu {
namespace {

// A box to merge.
struct Member {
  Box box;  // In continuous coordinates, see Note [Box convention].
  int32_t class_id, tile;
  bool is_cut;  // See Note [Cut boxes].
};

Member member_of(const TileBoxes& boxes, int i, const TileGrid& grid, const MergeOptions& options) {
  const float* box = boxes.boxes + size_t{4} * static_cast<size_t>(i);
  const int32_t tile = boxes.tiles[i];
  const Box continuous = continuous_box({box[0], box[1], box[2], box[3]}, options.inclusive_pixels);
  const bool in_grid = tile < grid.y.count * grid.x.count;
  const bool cut = in_grid && (is_cut(grid.y, tile / grid.x.count, continuous.y1, continuous.y2, options.cut_slack_y) ||
                               is_cut(grid.x, tile % grid.x.count, continuous.x1, continuous.x2, options.cut_slack_x));
  return {continuous, boxes.class_ids[i], tile, cut};
}

// Whether any tile shows the box whole, see Note [Cut boxes].
bool is_shown_whole_elsewhere(const Box& box, const TileGrid& grid, const MergeOptions& options) {
  return is_shown_whole(grid.y, box.y1, box.y2, options.cut_slack_y) &&
         is_shown_whole(grid.x, box.x1, box.x2, options.cut_slack_x);
}

// Returns the kept box that overlaps the member most, among those that drop it. At least one must drop it.
template <typename Drops>
int32_t most_overlapped(const Member& member, const BoxGrid& survivors, const std::vector<Member>& members,
                        const float* logits, const Drops& drops) {
  float most = -1.0f;
  uint64_t best = 0;
  survivors.any_near(member.box, [&](int index) {
    if (!drops(index)) return false;
    const float overlap = iou(members[static_cast<size_t>(index)].box, member.box);
    const uint64_t key = rank_key(logits[index], static_cast<uint32_t>(index));
    if (overlap > most || (overlap == most && key < best)) {
      most = overlap;
      best = key;
    }
    return false;  // Go on, so that all kept boxes are visited.
  });
  return static_cast<int32_t>(index_of(best));
}

}  // namespace

int merge_tiles(const TileBoxes& boxes, const TileGrid& grid, const MergeOptions& options, int32_t* kept,
                int32_t* joined) {
  const float iou_limit = strict_limit(options.iou_threshold, options.or_equal);
  std::vector<Member> members(static_cast<size_t>(boxes.count));
  std::vector<uint64_t> whole, cut;  // Keys, see Note [Rank].
  std::vector<Box> usable_boxes;
  for (int i = 0; i < boxes.count; ++i) {
    Member& member = members[static_cast<size_t>(i)];
    member = member_of(boxes, i, grid, options);
    if (!is_finite(member.box) || boxes.logits[i] != boxes.logits[i]) continue;
    if (member.is_cut && is_shown_whole_elsewhere(member.box, grid, options)) continue;
    (member.is_cut ? cut : whole).push_back(rank_key(boxes.logits[i], static_cast<uint32_t>(i)));
    usable_boxes.push_back(member.box);
  }
  std::sort(whole.begin(), whole.end());
  std::sort(cut.begin(), cut.end());

  // The grid finds only boxes that overlap. With a limit below 0, boxes that do not overlap suppress each other too.
  // Then the grid is made empty, and every pair is compared.
  BoxGrid survivors(iou_limit < 0.0f ? std::vector<Box>{} : usable_boxes);
  std::vector<uint64_t> kept_keys;
  if (joined != nullptr) std::fill(joined, joined + boxes.count, -1);
  for (const std::vector<uint64_t>* keys : {&whole, &cut}) {
    for (const uint64_t key : *keys) {
      const auto index = static_cast<int>(index_of(key));
      const Member& member = members[static_cast<size_t>(index)];
      const auto drops = [&](int other_index) {
        const Member& other = members[static_cast<size_t>(other_index)];
        if (other.class_id != member.class_id || other.tile == member.tile) return false;
        return suppresses(other.box, member.box, iou_limit) ||
               (member.is_cut && covered(member.box, other.box) > options.cover_limit);
      };
      const bool is_dropped = survivors.any_near(member.box, drops);
      if (!is_dropped) {
        survivors.add(member.box, index);
        kept_keys.push_back(key);
      }
      if (joined != nullptr && !(is_dropped && member.is_cut)) {
        joined[index] = is_dropped ? most_overlapped(member, survivors, members, boxes.logits, drops) : index;
      }
    }
  }
  std::sort(kept_keys.begin(), kept_keys.end());
  std::transform(kept_keys.begin(), kept_keys.end(), kept,
                 [](uint64_t key) { return static_cast<int32_t>(index_of(key)); });
  return static_cast<int>(kept_keys.size());
}

}  // namespace retinasdk::cpu
