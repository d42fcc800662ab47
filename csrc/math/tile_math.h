// Which boxes are cut by the edge of their tile. merge_tiles() uses this, and suppresses() of box_math.h.
#pragma once

#include <algorithm>

#include "math/box_math.h"
#include "retinasdk/ops.h"

namespace retinasdk {
namespace {

// Note [Cut boxes]
// The inner edges of a tile are those that are not edges of the image.
// A box is cut if its distance to an inner edge of its tile is at most the slack: the object may continue in the next
// tile.
// A box is shown whole if some tile contains it and all inner edges of that tile are farther away than the slack.
// A cut box that is shown whole by another tile is dropped, whatever its score: the detection of that tile replaces it.
// The tiles form a grid, so the two axes can be checked separately: a tile shows a box whole if its row and its column
// do. Functions for one axis call the row or the column a span.

// Whether a box from `low` to `high` is cut by a span. `slack` is in pixels.
RETINASDK_HOST_DEVICE bool is_cut(const TileAxis& axis, int span, float low, float high, float slack) {
  const int start = axis.starts[span];
  const int end = start + axis.length;
  return (start > 0 && low <= static_cast<float>(start) + slack) ||
         (end < axis.extent && high >= static_cast<float>(end) - slack);
}

// Whether any span shows a box from `low` to `high` whole. Among the spans that begin early enough, the last one
// reaches farthest, so only that one is checked.
inline bool is_shown_whole(const TileAxis& axis, float low, float high, float slack) {
  const int* first_late = std::partition_point(axis.starts + 1, axis.starts + axis.count,
                                               [&](int start) { return low > static_cast<float>(start) + slack; });
  return !is_cut(axis, static_cast<int>(first_late - axis.starts) - 1, low, high, slack);
}

// Returns the part of the area of `box` that lies inside `other`, 0 to 1. Both are continuous boxes.
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
