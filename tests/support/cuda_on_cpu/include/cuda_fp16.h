// __half on the CPU. The kernels use its storage and its conversions only.
#pragma once

#include <cstdint>
#include <cstring>

struct __half {
  uint16_t bits;
};

inline __half __ushort_as_half(uint16_t bits) { return {bits}; }

inline float __half2float(__half value) {
  const uint32_t sign = static_cast<uint32_t>(value.bits & 0x8000u) << 16;
  const uint32_t exponent = value.bits >> 10 & 0x1fu;
  const uint32_t fraction = value.bits & 0x3ffu;
  if (exponent == 0) {  // Zero and subnormals are exactly fraction / 2^24.
    const float magnitude = static_cast<float>(fraction) * (1.0f / 16777216.0f);
    return sign != 0u ? -magnitude : magnitude;
  }
  const uint32_t word = sign | (exponent == 31 ? 0x7f800000u : (exponent + 112) << 23) | fraction << 13;
  float result;
  std::memcpy(&result, &word, sizeof result);
  return result;
}

// Rounds to nearest, ties to even.
inline __half __float2half_rn(float value) {
  uint32_t word;
  std::memcpy(&word, &value, sizeof word);
  const auto sign = static_cast<uint16_t>(word >> 16 & 0x8000u);
  const uint32_t magnitude = word & 0x7fffffffu;
  const auto with_sign = [sign](uint32_t bits) { return __half{static_cast<uint16_t>(sign | bits)}; };
  if (magnitude > 0x7f800000u) return with_sign(0x7fffu);   // NaN.
  if (magnitude >= 0x477ff000u) return with_sign(0x7c00u);  // 65520 and above become infinity.
  if (magnitude < 0x38800000u) {                            // Below 2^-14: subnormal, in units of 2^-24.
    float positive;
    std::memcpy(&positive, &magnitude, sizeof positive);
    // The last bit of a float of 0.5 stands for 2^-24. Therefore adding 0.5 rounds to units of 2^-24, ties to even, and
    // leaves the result in the last bits of the fraction.
    const float shifted = positive + 0.5f;
    uint32_t shifted_word;
    std::memcpy(&shifted_word, &shifted, sizeof shifted_word);
    return with_sign(shifted_word - 0x3f000000u);
  }
  const uint32_t odd = magnitude >> 13 & 1u;
  return with_sign((magnitude - 0x38000000u + 0xfffu + odd) >> 13);
}
