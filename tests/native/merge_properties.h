// Merges the boxes of random tiles and checks what holds for every input. Some boxes could not come from a tile.
#pragma once

#include <algorithm>
#include <cmath>
#include <set>
#include <vector>

#include "check.h"
#include "random_cases.h"

// The boxes of the tiles of one image.
struct MergeCase {
  std::vector<int32_t> tops, lefts;
  int tile_height, tile_width, height, width;
  std::vector<float> boxes, logits;
  std::vector<int32_t> class_ids, tiles;
  int count;
  retinasdk::MergeOptions options;

  retinasdk::TileGrid grid() const {
    return {{tops.data(), static_cast<int>(tops.size()), tile_height, height},
            {lefts.data(), static_cast<int>(lefts.size()), tile_width, width}};
  }
  retinasdk::TileBoxes given() const { return {boxes.data(), logits.data(), class_ids.data(), tiles.data(), count}; }
};

inline MergeCase make_merge(Random& random) {
  MergeCase made{};
  const auto divide = [&](int& extent, int& length, std::vector<int32_t>& starts) {
    extent = random.integer(1, 400);
    length = random.integer(std::max(1, extent / 40), extent);
    starts = {0};
    while (starts.back() + length < extent) {
      starts.push_back(std::min(starts.back() + random.integer(1 + length / 20, length), extent - length));
    }
  };
  divide(made.height, made.tile_height, made.tops);
  divide(made.width, made.tile_width, made.lefts);
  made.options = {random.chance(8) ? -0.5f : random.real(0, 1),
                  random.chance(2),
                  random.chance(2),
                  random.real(0, 9),
                  random.real(0, 9),
                  random.real(0, 1)};
  made.count = random.integer(0, 300);
  const auto tiles = static_cast<int>(made.tops.size() * made.lefts.size());
  for (int i = 0; i < made.count; ++i) {
    for (const int extent : {made.width, made.height, made.width, made.height}) {
      made.boxes.push_back(random.chance(20) ? random.hostile() : random.real(-50, static_cast<float>(extent)));
    }
    made.logits.push_back(random.chance(6) ? random.hostile() : static_cast<float>(random.integer(-3, 3)));
    made.class_ids.push_back(random.chance(20) ? 65535 : random.integer(0, 1));
    made.tiles.push_back(random.integer(0, tiles));
  }
  return made;
}

inline void run(const MergeCase& made) {
  const std::vector<float>& boxes = made.boxes;
  const std::vector<float>& logits = made.logits;
  const auto count = static_cast<size_t>(made.count);
  std::vector<int32_t> kept(count, -1), joined(count, -2);
  const int kept_count = retinasdk::merge_tiles(made.given(), made.grid(), made.options, kept.data(), joined.data());
  check(kept_count >= 0 && kept_count <= made.count, "merged counts are in range");
  std::set<int32_t> seen;
  for (int place = 0; place < kept_count; ++place) {
    const auto i = static_cast<size_t>(kept[static_cast<size_t>(place)]);
    check(i < count && seen.insert(static_cast<int32_t>(i)).second, "merged indices are unique");
    check(!std::isnan(logits[i]), "merged logits are not NaN");
    for (size_t side = 0; side < 4; ++side) check(std::isfinite(boxes[4 * i + side]), "merged boxes are finite");
    if (place > 0) check(logits[static_cast<size_t>(kept[static_cast<size_t>(place) - 1])] >= logits[i], "best first");
    check(joined[i] == static_cast<int32_t>(i), "a kept box is joined to itself");
  }
  std::vector<int32_t> alone(count, -1);
  check(retinasdk::merge_tiles(made.given(), made.grid(), made.options, alone.data()) == kept_count && alone == kept,
        "the kept boxes do not depend on whether the joined ones are wanted");
  for (const int32_t leader : joined) check(leader == -1 || seen.count(leader) == 1, "boxes are joined to kept boxes");
}
