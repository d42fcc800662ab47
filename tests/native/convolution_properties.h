// What the tests of the convolutions share: planar images as the reference, buffers with guards, threads.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <random>
#include <thread>
#include <vector>

#include "check.h"
#include "convolution/blocked.h"
#include "random.h"

namespace convolution_tests {

using retinasdk::kBlock;

#if defined(__SANITIZE_ADDRESS__)
constexpr size_t kGuard = 0;  // Buffers are exactly as large as needed: the sanitizer sees reads, too.
#elif defined(__has_feature)
constexpr size_t kGuard = __has_feature(address_sanitizer) ? 0 : 64;
#else
constexpr size_t kGuard = 64;
#endif

// An array with guards around it, filled with NaN: what is read before it is written does not stay unseen.
class Buffer {
 public:
  explicit Buffer(size_t count) : values_(count + 2 * kGuard, kNan) {
    for (size_t i = 0; i < kGuard; ++i) values_[i] = values_[kGuard + count + i] = kMark;
  }
  float* data() { return values_.data() + kGuard; }
  size_t size() const { return values_.size() - 2 * kGuard; }

  // Returns the values, and checks the guards.
  std::vector<float> checked() const {
    const auto last = values_.end() - static_cast<std::ptrdiff_t>(kGuard);
    const auto first = values_.begin() + static_cast<std::ptrdiff_t>(kGuard);
    const auto is_mark = [](float value) { return value == kMark; };
    check(std::all_of(values_.begin(), first, is_mark), "nothing is written before an array");
    check(std::all_of(last, values_.end(), is_mark), "nothing is written behind an array");
    return {first, last};
  }

 private:
  static constexpr float kMark = -7654321.0f;
  std::vector<float> values_;
};

inline std::vector<float> values(Random& random, size_t count) {
  std::vector<float> made(count);
  for (float& value : made) value = random.real(-1, 1);
  return made;
}

// A planar image, and its counterpart in the blocked layout, converted in the most obvious way.
struct Image {
  int batch = 0, channels = 0, height = 0, width = 0;
  std::vector<float> values;

  Image() = default;
  Image(int batch_, int channels_, int height_, int width_)
      : batch(batch_), channels(channels_), height(height_), width(width_), values(size()) {}

  size_t size() const { return static_cast<size_t>(batch) * channels * height * width; }
  size_t blocked_size() const {
    return static_cast<size_t>(batch) * retinasdk::blocks_of(channels) * kBlock * height * width;
  }
  size_t at(int n, int c, int y, int x) const {
    return ((static_cast<size_t>(n) * channels + c) * height + y) * width + x;
  }
  size_t blocked_at(int n, int c, int y, int x) const {
    const size_t plane = static_cast<size_t>(n) * retinasdk::blocks_of(channels) + c / kBlock;
    return ((plane * height + y) * width + x) * kBlock + c % kBlock;
  }

  template <typename Function>
  void for_each(const Function& function) const {
    for (int n = 0; n < batch; ++n) {
      for (int c = 0; c < channels; ++c) {
        for (int y = 0; y < height; ++y) {
          for (int x = 0; x < width; ++x) function(n, c, y, x);
        }
      }
    }
  }

  std::vector<float> blocked() const {
    std::vector<float> made(blocked_size());
    for_each([&](int n, int c, int y, int x) { made[blocked_at(n, c, y, x)] = values[at(n, c, y, x)]; });
    return made;
  }
  // Takes the values of a blocked image. Checks that the channels that fill the last block up are zero.
  void take_blocked(const std::vector<float>& from) {
    std::vector<char> is_channel(from.size());
    for_each([&](int n, int c, int y, int x) {
      values[at(n, c, y, x)] = from[blocked_at(n, c, y, x)];
      is_channel[blocked_at(n, c, y, x)] = 1;
    });
    for (size_t i = 0; i < from.size(); ++i) {
      check(is_channel[i] != 0 || from[i] == 0.0f, "the channels that fill the last block up are zero");
    }
  }
};

inline Image make_image(Random& random, int batch, int channels, int height, int width) {
  Image made(batch, channels, height, width);
  made.values = values(random, made.size());
  return made;
}

// Runs pieces of work in so many threads, in random order.
inline retinasdk::ParallelFor in_threads(int threads, uint64_t seed = 1) {
  return [threads, seed](size_t count, const retinasdk::Piece& piece) {
    std::vector<size_t> order(count);
    std::iota(order.begin(), order.end(), size_t{0});
    std::shuffle(order.begin(), order.end(), std::mt19937_64(seed));
    std::atomic<size_t> next{0};
    const auto work = [&] {
      for (size_t i = next++; i < count; i = next++) piece(order[i]);
    };
    std::vector<std::thread> others;
    for (int i = 1; i < threads; ++i) others.emplace_back(work);
    work();
    for (std::thread& other : others) other.join();
  };
}

inline bool same_bits(const std::vector<float>& one, const std::vector<float>& other) {
  return one.size() == other.size() &&
         (one.empty() || std::memcmp(one.data(), other.data(), one.size() * sizeof(float)) == 0);
}

// Limits a value; NaN stays NaN.
inline double limited(double value, const retinasdk::Clamp& clamp) {
  if (value < clamp.low) return clamp.low;
  return value > clamp.high ? clamp.high : value;
}

// Checks one output. terms: the sum of the absolute values of all that was added up.
inline void check_close(float found, double wanted, double terms, const char* what) {
  if (!std::isfinite(wanted)) {
    check(std::isnan(wanted) ? std::isnan(found) : static_cast<double>(found) == wanted, what);
  } else {
    check(std::fabs(found - wanted) <= 4e-6 * terms + 1e-30, what);
  }
}

}  // namespace convolution_tests
