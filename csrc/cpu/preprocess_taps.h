// The source positions and weights of all output positions of one axis of a resize, see math/resize_math.h.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace retinasdk::cpu {

// The taps of one output position after the other.
template <typename Weight>
class Taps {
 public:
  // fill(i, first, weights) is called for each of `positions`. It sets *first, fills up to `most` weights, and returns
  // how many taps there are.
  template <typename Fill>
  Taps(int positions, int most, const Fill& fill) : stride_(static_cast<std::size_t>(most)) {
    const auto count = static_cast<std::size_t>(positions);
    first_.resize(count);
    count_.resize(count);
    weights_.resize(count * stride_);
    for (std::size_t i = 0; i < count; ++i) {
      count_[i] = fill(static_cast<int>(i), &first_[i], &weights_[i * stride_]);
      most_ = std::max(most_, count_[i]);
    }
  }

  int positions() const { return static_cast<int>(first_.size()); }
  int most() const { return most_; }  // Taps of a position.
  int first(int i) const { return first_[static_cast<std::size_t>(i)]; }
  int count(int i) const { return count_[static_cast<std::size_t>(i)]; }
  const Weight* weights(int i) const { return &weights_[static_cast<std::size_t>(i) * stride_]; }

 private:
  std::size_t stride_;
  int most_ = 0;
  std::vector<int> first_;
  std::vector<int> count_;
  std::vector<Weight> weights_;
};

// The taps of all columns, arranged for neighboring columns that are computed at once: the first taps of all columns,
// then the second ones, and so on. All columns have as many taps. Those that a column has too many weigh 0.
template <typename Weight>
class ColumnTaps {
 public:
  explicit ColumnTaps(const Taps<Weight>& taps)
      : columns_(static_cast<std::size_t>(taps.positions())), count_(taps.most()), weights_(columns_ * taps.most()) {
    offsets_.reserve(columns_);
    for (int i = 0; i < taps.positions(); ++i) {
      offsets_.push_back(3 * taps.first(i));
      for (int tap = 0; tap < taps.count(i); ++tap) {
        weights_[static_cast<std::size_t>(tap) * columns_ + static_cast<std::size_t>(i)] = taps.weights(i)[tap];
      }
    }
  }

  int count() const { return count_; }                        // Taps of each column.
  const int32_t* offsets() const { return offsets_.data(); }  // Where a column starts in a row of RGB values.
  const Weight* weights(int tap) const { return &weights_[static_cast<std::size_t>(tap) * columns_]; }

  // Returns how many values of a row of RGB values are read: up to one pixel for each tap beyond its end, and one value
  // more, because a pixel is read as four values.
  std::size_t row_values(int width) const { return 3 * (static_cast<std::size_t>(width) + count_) + 1; }

 private:
  std::size_t columns_;
  int count_;
  std::vector<int32_t> offsets_;
  std::vector<Weight> weights_;
};

}  // namespace retinasdk::cpu
