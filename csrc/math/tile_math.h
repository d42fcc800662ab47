// Which boxes of a tile to believe: every comparison of merge_tiles() but the suppression, which is box_math.h's.
#pragma once

#include <algorithm>

#include "math/box_math.h"
#include "retinasdk/ops.h"

namespace retinasdk {
namespace {

// Note [Cut boxes]
// A tile's inner edges are those that are not the image's. A box that comes as near to one as the slack is cut: it may
// end there because the tile does. Where another tile shows all of it, clear of that tile's own inner edges, that tile
// has seen the object whole and speaks for it: the cut box is left out, whatever its score. The tiles are rows x
// columns, so a box is clear of some tile's edges where it is clear on each axis of some span.

RETINASDK_HOST_DEVICE bool is_cut(const TileAxis& axis, int span, float low, float high, float slack) {
  const int start = axis.starts[span];
  const int end = start + axis.length;
  return (start > 0 && low <= static_cast<float>(start) + slack) ||
         (end < axis.extent && high >= static_cast<float>(end) - slack);
}

// Does any span show all of low..high? Of the spans that begin early enough, the last reaches farthest.
inline bool is_shown_whole(const TileAxis& axis, float low, float high, float slack) {
  const int* first_late = std::partition_point(axis.starts + 1, axis.starts + axis.count,
                                               [&](int start) { return low > static_cast<float>(start) + slack; });
  return !is_cut(axis, static_cast<int>(first_late - axis.starts) - 1, low, high, slack);
}

// How much of `box` lies inside `other`, 0 to 1; of outlines (Note [Box convention]).
RETINASDK_HOST_DEVICE float covered(const Box& box, const Box& other) {
  const float left = box.x1 > other.x1 ? box.x1 : other.x1;
  const float top = box.y1 > other.y1 ? box.y1 : other.y1;
  const float right = box.x2 < other.x2 ? box.x2 : other.x2;
  const float bottom = box.y2 < other.y2 ? box.y2 : other.y2;
  if (!(right > left && bottom > top)) return 0.0f;
  return (right - left) * (bottom - top) / area(box);
}

}  // namespace
}  // namespace retinasdk
