// A spatial index: finds the boxes near a box without comparing it with all of them.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "math/box_math.h"

namespace retinasdk::cpu {

// A hierarchy of grids with cells of different sizes. A box is stored in the finest grid whose cells are at least as
// large as the box, in the cell of its upper left corner. Therefore all boxes of a grid that overlap a given box are
// stored in the cells under that box, or at most one cell size to the left of it or above it.
//
// The grid affects the running time only. any_near() visits every stored box that overlaps the given box, and maybe
// more.
class BoxGrid {
 public:
  // boxes: all boxes that may be added later. They must be finite.
  explicit BoxGrid(const std::vector<Box>& boxes) {
    if (boxes.empty()) return;
    Box around = boxes.front();
    std::vector<float> sides;
    sides.reserve(boxes.size());
    for (const Box& box : boxes) {
      around = {std::min(around.x1, box.x1), std::min(around.y1, box.y1), std::max(around.x2, box.x2),
                std::max(around.y2, box.y2)};
      sides.push_back(longer_side(box));
    }
    const auto median = sides.begin() + static_cast<std::ptrdiff_t>(sides.size() / 2);
    std::nth_element(sides.begin(), median, sides.end());
    const float extent = longer_side(around);
    const float finest = std::max(*median, extent / most_cells(boxes.size()));
    if (!(finest > 0.0f && std::isfinite(2.0f * extent))) return;  // No grids: all boxes go to one list.
    left_ = around.x1;
    top_ = around.y1;
    const float farthest = std::max({std::abs(left_), std::abs(top_), std::abs(around.x2), std::abs(around.y2)});
    for (float side = finest;; side *= 2.0f) {
      Level level{side, side + 1e-6f * farthest, 1, 1, {}};  // The margin covers rounding errors of sides and corners.
      level.rows = place(around.y2, top_, side, kMaxCells) + 1;
      level.columns = place(around.x2, left_, side, kMaxCells) + 1;
      level.cells.resize(static_cast<size_t>(level.rows) * static_cast<size_t>(level.columns));
      levels_.push_back(std::move(level));
      if (side >= extent) return;
    }
  }

  // Stores a box. `index` is passed to the `matches` of any_near().
  void add(const Box& box, int index) {
    for (Level& level : levels_) {
      if (longer_side(box) > level.side) continue;
      level.at(row(level, box.y1), column(level, box.x1)).push_back(index);
      return;
    }
    loose_.push_back(index);
  }

  // Whether matches(index) is true for any stored box that may overlap the given box. Stops at the first match.
  template <typename Matches>
  bool any_near(const Box& box, const Matches& matches) const {
    if (std::any_of(loose_.begin(), loose_.end(), matches)) return true;
    for (const Level& level : levels_) {
      const int last_row = row(level, box.y2), last_column = column(level, box.x2);
      const int first_column = column(level, box.x1 - level.reach);
      for (int y = row(level, box.y1 - level.reach); y <= last_row; ++y) {
        for (int x = first_column; x <= last_column; ++x) {
          const std::vector<int>& cell = level.at(y, x);
          if (std::any_of(cell.begin(), cell.end(), matches)) return true;
        }
      }
    }
    return false;
  }

 private:
  // One grid.
  struct Level {
    float side;   // The side of a cell.
    float reach;  // How far to the left and above a box may begin and still overlap.
    int rows, columns;
    std::vector<std::vector<int>> cells;

    std::vector<int>& at(int row, int column) { return cells[place_of(row, column)]; }
    const std::vector<int>& at(int row, int column) const { return cells[place_of(row, column)]; }
    size_t place_of(int row, int column) const {
      return static_cast<size_t>(row) * static_cast<size_t>(columns) + static_cast<size_t>(column);
    }
  };

  static constexpr int kMaxCells = 256;  // Per axis.

  // Returns the number of cells per axis that gives about four cells per box.
  static float most_cells(size_t boxes) {
    return std::min(static_cast<float>(kMaxCells), 1.0f + 2.0f * std::sqrt(static_cast<float>(boxes)));
  }
  static float longer_side(const Box& box) { return std::max(box.x2 - box.x1, box.y2 - box.y1); }
  int row(const Level& level, float y) const { return place(y, top_, level.side, level.rows - 1); }
  int column(const Level& level, float x) const { return place(x, left_, level.side, level.columns - 1); }
  // Returns the row or column of a coordinate. It never decreases as the coordinate grows, so rounding cannot separate
  // boxes that overlap.
  static int place(float value, float origin, float side, int last) {
    const float cells = (value - origin) / side;
    return static_cast<int>(std::min(std::max(cells, 0.0f), static_cast<float>(last)));
  }

  float left_ = 0.0f, top_ = 0.0f;
  std::vector<Level> levels_;  // The finest first.
  std::vector<int> loose_;     // Boxes that fit into no grid.
};

}  // namespace retinasdk::cpu
