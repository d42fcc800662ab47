// Where the native tests take their choices from: a seed, or the input of a fuzzer.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <limits>
#include <random>

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kLargest = std::numeric_limits<float>::max();

// The source of all choices: the bytes of a fuzzer's input while they last, then seeded random numbers. So a fuzzer
// decides on the sizes and the rules of a case, and on the first values of its arrays.
class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed) {}
  // The first two bytes are the seed of what the other bytes do not decide.
  Random(const uint8_t* bytes, size_t count)
      : Random(count < 2 ? 0 : static_cast<uint64_t>(bytes[0] + 256 * bytes[1])) {
    bytes_ = bytes + std::min<size_t>(count, 2);
    end_ = bytes + count;
  }

  int integer(int low, int high) {
    const uint64_t choices = static_cast<uint64_t>(int64_t{high} - low) + 1;
    return static_cast<int>(low + static_cast<int64_t>(draw(choices <= 256 ? 1 : choices <= 65536 ? 2 : 4) % choices));
  }
  // Returns true in one of `one_in` cases.
  bool chance(int one_in) { return integer(1, one_in) == 1; }
  float real(float low, float high) {
    return low + (high - low) * static_cast<float>(draw(3) & 0xffffffu) * (1.0f / 16777216.0f);
  }
  // Returns NaN, infinity, zero, a value near a limit of float or of exp(), or any bits.
  float hostile() {
    static const float values[] = {kNan,   kInfinity, -kInfinity, 0.0f,  -0.0f, kLargest, -kLargest,
                                   1e-42f, 1e30f,     -1e30f,     88.0f, 89.0f, -104.0f,  1e-30f};
    const auto choice = static_cast<size_t>(integer(0, static_cast<int>(std::size(values))));
    if (choice < std::size(values)) return values[choice];
    const auto bits = static_cast<uint32_t>(draw(4));
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
  }
  // Returns a number below `low` or above `high`.
  int outside(int low, int high) {
    return chance(2) ? integer(std::numeric_limits<int>::min(), low - 1)
                     : integer(high + 1, std::numeric_limits<int>::max());
  }

 private:
  // Returns a number with at least so many random bytes.
  uint64_t draw(int bytes) {
    if (end_ - bytes_ < bytes) return engine_();
    uint64_t drawn = 0;
    for (int i = 0; i < bytes; ++i) drawn = drawn << 8 | *bytes_++;
    return drawn;
  }

  std::mt19937_64 engine_;
  const uint8_t* bytes_ = nullptr;
  const uint8_t* end_ = nullptr;
};
