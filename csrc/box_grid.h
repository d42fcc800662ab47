// Finds the boxes near a box without looking at all of them.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "box_math.h"

namespace retinasdk::cpu {

// Boxes by the cell of their upper left corner. Cells are as large as all boxes but the largest few, which are kept in
// a list of their own, so a box's neighbours begin in the cells under it or within a cell's side to the left and above.
// Nothing depends on the cells but the time: any_near() sees every box that has area in common with the one asked
// about.
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
    const auto large = sides.begin() + static_cast<std::ptrdiff_t>(sides.size() - 1 - sides.size() / kLargeShare);
    std::nth_element(sides.begin(), large, sides.end());
    const float extent = longer_side(around);
    cell_ = std::max(*large, extent / std::min(static_cast<float>(kMaxCells), most_cells(boxes.size())));
    // Sides that are not finite, or all 0: one list of large ones.
    if (!(cell_ > 0.0f && std::isfinite(extent))) cell_ = 0.0f;
    left_ = around.x1;
    top_ = around.y1;
    const float farthest = std::max({std::abs(left_), std::abs(top_), std::abs(around.x2), std::abs(around.y2)});
    reach_ = cell_ + 1e-6f * farthest;  // sides and corners are rounded
    columns_ = cell_ > 0.0f ? column(around.x2, kMaxCells) + 1 : 0;
    rows_ = cell_ > 0.0f ? row(around.y2, kMaxCells) + 1 : 0;
    cells_.resize(static_cast<size_t>(rows_) * static_cast<size_t>(columns_));
  }

  void add(const Box& box, int index) {
    if (longer_side(box) <= cell_ && !cells_.empty()) {
      cells_[at(row(box.y1, rows_ - 1), column(box.x1, columns_ - 1))].push_back(index);
    } else {
      large_.push_back(index);
    }
  }

  // Is matches(index) true of any box that was added and may touch this one?
  template <typename Matches>
  bool any_near(const Box& box, const Matches& matches) const {
    if (std::any_of(large_.begin(), large_.end(), matches)) return true;
    if (cells_.empty()) return false;
    const int last_row = row(box.y2, rows_ - 1);
    const int last_column = column(box.x2, columns_ - 1);
    const int first_row = row(box.y1 - reach_, rows_ - 1);
    const int first_column = column(box.x1 - reach_, columns_ - 1);
    for (int y = first_row; y <= last_row; ++y) {
      for (int x = first_column; x <= last_column; ++x) {
        const std::vector<int>& cell = cells_[at(y, x)];
        if (std::any_of(cell.begin(), cell.end(), matches)) return true;
      }
    }
    return false;
  }

 private:
  static constexpr int kMaxCells = 256;     // on each axis
  static constexpr size_t kLargeShare = 8;  // one box in so many may be larger than a cell

  // On each axis: about four for each box.
  static float most_cells(size_t boxes) { return 1.0f + 2.0f * std::sqrt(static_cast<float>(boxes)); }
  static float longer_side(const Box& box) { return std::max(box.x2 - box.x1, box.y2 - box.y1); }
  size_t at(int row, int column) const {
    return static_cast<size_t>(row) * static_cast<size_t>(columns_) + static_cast<size_t>(column);
  }
  int row(float y, int last) const { return place(y, top_, last); }
  int column(float x, int last) const { return place(x, left_, last); }
  // Never falls as the coordinate grows, so boxes that overlap have cells in common whatever the rounding.
  int place(float value, float origin, int last) const {
    const float cells = (value - origin) / cell_;
    return static_cast<int>(std::min(std::max(cells, 0.0f), static_cast<float>(last)));
  }

  float cell_ = 0.0f, reach_ = 0.0f, left_ = 0.0f, top_ = 0.0f;
  int rows_ = 0, columns_ = 0;
  std::vector<std::vector<int>> cells_;
  std::vector<int> large_;
};

}  // namespace retinasdk::cpu
