// Finds the boxes near a box without looking at all of them.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "math/box_math.h"

namespace retinasdk::cpu {

// Boxes by the cell of their upper left corner, in grids of several cell sizes: a box lies in the finest one whose
// cells are as large as it is, so its neighbours begin in the cells under it or within a cell's side to the left and
// above. Nothing depends on the cells but the time: any_near() sees every box that has area in common with the one
// asked about.
class BoxGrid {
 public:
  // boxes: all that may be added later; finite.
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
    if (!(finest > 0.0f && std::isfinite(2.0f * extent))) return;  // all in one list
    left_ = around.x1;
    top_ = around.y1;
    const float farthest = std::max({std::abs(left_), std::abs(top_), std::abs(around.x2), std::abs(around.y2)});
    for (float side = finest;; side *= 2.0f) {
      Level level{side, side + 1e-6f * farthest, 1, 1, {}};  // sides and corners are rounded
      level.rows = place(around.y2, top_, side, kMaxCells) + 1;
      level.columns = place(around.x2, left_, side, kMaxCells) + 1;
      level.cells.resize(static_cast<size_t>(level.rows) * static_cast<size_t>(level.columns));
      levels_.push_back(std::move(level));
      if (side >= extent) return;
    }
  }

  void add(const Box& box, int index) {
    for (Level& level : levels_) {
      if (longer_side(box) > level.side) continue;
      level.at(row(level, box.y1), column(level, box.x1)).push_back(index);
      return;
    }
    loose_.push_back(index);
  }

  // Is matches(index) true of any box that was added and may touch this one?
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
  struct Level {
    float side, reach;  // of a cell; how far to the left and above boxes begin that may touch
    int rows, columns;
    std::vector<std::vector<int>> cells;

    std::vector<int>& at(int row, int column) { return cells[place_of(row, column)]; }
    const std::vector<int>& at(int row, int column) const { return cells[place_of(row, column)]; }
    size_t place_of(int row, int column) const {
      return static_cast<size_t>(row) * static_cast<size_t>(columns) + static_cast<size_t>(column);
    }
  };

  static constexpr int kMaxCells = 256;  // on each axis

  // On each axis: about four for each box.
  static float most_cells(size_t boxes) {
    return std::min(static_cast<float>(kMaxCells), 1.0f + 2.0f * std::sqrt(static_cast<float>(boxes)));
  }
  static float longer_side(const Box& box) { return std::max(box.x2 - box.x1, box.y2 - box.y1); }
  int row(const Level& level, float y) const { return place(y, top_, level.side, level.rows - 1); }
  int column(const Level& level, float x) const { return place(x, left_, level.side, level.columns - 1); }
  // Never falls as the coordinate grows, so boxes that overlap have cells in common whatever the rounding.
  static int place(float value, float origin, float side, int last) {
    const float cells = (value - origin) / side;
    return static_cast<int>(std::min(std::max(cells, 0.0f), static_cast<float>(last)));
  }

  float left_ = 0.0f, top_ = 0.0f;
  std::vector<Level> levels_;  // finest first
  std::vector<int> loose_;
};

}  // namespace retinasdk::cpu
