#include <algorithm>

#include "box_grid.h"
#include "box_math.h"
#include "kernels_cpu.h"
#include "tile_math.h"

namespace retinasdk::cpu {
namespace {

struct Member {
  Box outline;  // Note [Box convention]
  int32_t class_id, tile;
  bool is_cut;
};

Member member_of(const TileBoxes& boxes, int i, const TileGrid& grid, const MergeOptions& options) {
  const float* box = boxes.boxes + size_t{4} * static_cast<size_t>(i);
  const int32_t tile = boxes.tiles[i];
  const Box outlined = outline({box[0], box[1], box[2], box[3]}, options.plus_one);
  const bool in_grid = tile < grid.y.count * grid.x.count;
  const bool cut = in_grid && (is_cut(grid.y, tile / grid.x.count, outlined.y1, outlined.y2, options.cut_slack_y) ||
                               is_cut(grid.x, tile % grid.x.count, outlined.x1, outlined.x2, options.cut_slack_x));
  return {outlined, boxes.class_ids[i], tile, cut};
}

bool is_shown_whole_elsewhere(const Box& box, const TileGrid& grid, const MergeOptions& options) {
  return is_shown_whole(grid.y, box.y1, box.y2, options.cut_slack_y) &&
         is_shown_whole(grid.x, box.x1, box.x2, options.cut_slack_x);
}

}  // namespace

int merge_tiles(const TileBoxes& boxes, const TileGrid& grid, const MergeOptions& options, int32_t* kept) {
  const float iou_limit = strict_limit(options.iou_threshold, options.or_equal);
  std::vector<Member> members(static_cast<size_t>(boxes.count));
  std::vector<uint64_t> whole, cut;  // Note [Rank]
  std::vector<Box> outlines;
  for (int i = 0; i < boxes.count; ++i) {
    Member& member = members[static_cast<size_t>(i)];
    member = member_of(boxes, i, grid, options);
    if (!is_finite(member.outline) || boxes.logits[i] != boxes.logits[i]) continue;
    if (member.is_cut && is_shown_whole_elsewhere(member.outline, grid, options)) continue;
    (member.is_cut ? cut : whole).push_back(rank_key(boxes.logits[i], static_cast<uint32_t>(i)));
    outlines.push_back(member.outline);
  }
  std::sort(whole.begin(), whole.end());
  std::sort(cut.begin(), cut.end());

  // Where boxes without a common area suppress each other too, there is no neighbourhood.
  BoxGrid survivors(iou_limit < 0.0f ? std::vector<Box>{} : outlines);
  std::vector<uint64_t> kept_keys;
  for (const std::vector<uint64_t>* keys : {&whole, &cut}) {
    for (const uint64_t key : *keys) {
      const auto index = static_cast<int>(index_of(key));
      const Member& member = members[static_cast<size_t>(index)];
      const bool is_dropped = survivors.any_near(member.outline, [&](int other_index) {
        const Member& other = members[static_cast<size_t>(other_index)];
        if (other.class_id != member.class_id || other.tile == member.tile) return false;
        return suppresses(other.outline, member.outline, iou_limit) ||
               (member.is_cut && covered(member.outline, other.outline) > options.cover_limit);
      });
      if (is_dropped) continue;
      survivors.add(member.outline, index);
      kept_keys.push_back(key);
    }
  }
  std::sort(kept_keys.begin(), kept_keys.end());
  std::transform(kept_keys.begin(), kept_keys.end(), kept,
                 [](uint64_t key) { return static_cast<int32_t>(index_of(key)); });
  return static_cast<int>(kept_keys.size());
}

}  // namespace retinasdk::cpu
