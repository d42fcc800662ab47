// A vector of eight floats for the convolution kernels. It uses AVX2 if the compiler targets it, NEON on ARM64, and
// plain C++ otherwise. Everything is in an unnamed namespace, because a program contains versions for several
// instruction sets, which must not be mixed.
#pragma once

#if defined(__AVX2__) && (defined(__FMA__) || defined(_MSC_VER))
#include <immintrin.h>
#define RETINASDK_VEC8_AVX2 1
#elif defined(__aarch64__)
#include <arm_neon.h>
#define RETINASDK_VEC8_NEON 1
#endif

namespace {

// Prefetches the cache line at an address. The address may lie behind the end of an array, because nothing is read.
inline void prefetch([[maybe_unused]] const float* address) {
#ifdef __GNUC__
  __builtin_prefetch(address, 0, 2);
#endif
}

#if defined(RETINASDK_VEC8_AVX2)

struct Vec8 {
  __m256 value;
};

inline Vec8 load(const float* from) { return {_mm256_loadu_ps(from)}; }
inline Vec8 broadcast(float value) { return {_mm256_set1_ps(value)}; }
inline void store(float* to, Vec8 a) { _mm256_storeu_ps(to, a.value); }
// Stores the first six floats.
inline void store_six(float* to, Vec8 a) {
  _mm_storeu_ps(to, _mm256_castps256_ps128(a.value));
  _mm_storel_pi(reinterpret_cast<__m64*>(to + 4), _mm256_extractf128_ps(a.value, 1));
}
inline Vec8 operator+(Vec8 a, Vec8 b) { return {_mm256_add_ps(a.value, b.value)}; }
inline Vec8 operator-(Vec8 a, Vec8 b) { return {_mm256_sub_ps(a.value, b.value)}; }
inline Vec8 operator*(Vec8 a, Vec8 b) { return {_mm256_mul_ps(a.value, b.value)}; }
// Returns a * b + c, with one rounding if the hardware supports it.
inline Vec8 fused(Vec8 a, Vec8 b, Vec8 c) { return {_mm256_fmadd_ps(a.value, b.value, c.value)}; }
// If one operand is NaN, the result is the second operand.
inline Vec8 larger(Vec8 a, Vec8 b) { return {_mm256_max_ps(a.value, b.value)}; }

// Transposes an 8 x 8 matrix: lane j of rows[i] becomes lane i of rows[j].
inline void transpose(Vec8 (&rows)[8]) {
  __m256 pairs[8], quads[8];
  for (int i = 0; i < 4; ++i) {
    pairs[2 * i] = _mm256_unpacklo_ps(rows[2 * i].value, rows[2 * i + 1].value);
    pairs[2 * i + 1] = _mm256_unpackhi_ps(rows[2 * i].value, rows[2 * i + 1].value);
  }
  for (int half = 0; half < 8; half += 4) {
    for (int i = 0; i < 2; ++i) {
      quads[half + 2 * i] = _mm256_shuffle_ps(pairs[half + i], pairs[half + 2 + i], 0x44);
      quads[half + 2 * i + 1] = _mm256_shuffle_ps(pairs[half + i], pairs[half + 2 + i], 0xEE);
    }
  }
  for (int i = 0; i < 4; ++i) {
    rows[i].value = _mm256_permute2f128_ps(quads[i], quads[i + 4], 0x20);
    rows[i + 4].value = _mm256_permute2f128_ps(quads[i], quads[i + 4], 0x31);
  }
}

#elif defined(RETINASDK_VEC8_NEON)

struct Vec8 {
  float32x4_t low, high;
};

inline Vec8 load(const float* from) { return {vld1q_f32(from), vld1q_f32(from + 4)}; }
inline Vec8 broadcast(float value) { return {vdupq_n_f32(value), vdupq_n_f32(value)}; }
inline void store(float* to, Vec8 a) {
  vst1q_f32(to, a.low);
  vst1q_f32(to + 4, a.high);
}
inline void store_six(float* to, Vec8 a) {
  vst1q_f32(to, a.low);
  vst1_f32(to + 4, vget_low_f32(a.high));
}
inline Vec8 operator+(Vec8 a, Vec8 b) { return {vaddq_f32(a.low, b.low), vaddq_f32(a.high, b.high)}; }
inline Vec8 operator-(Vec8 a, Vec8 b) { return {vsubq_f32(a.low, b.low), vsubq_f32(a.high, b.high)}; }
inline Vec8 operator*(Vec8 a, Vec8 b) { return {vmulq_f32(a.low, b.low), vmulq_f32(a.high, b.high)}; }
inline Vec8 fused(Vec8 a, Vec8 b, Vec8 c) {
  return {vfmaq_f32(c.low, a.low, b.low), vfmaq_f32(c.high, a.high, b.high)};
}
inline Vec8 larger(Vec8 a, Vec8 b) { return {vmaxq_f32(a.low, b.low), vmaxq_f32(a.high, b.high)}; }

inline void transpose(float32x4_t& a, float32x4_t& b, float32x4_t& c, float32x4_t& d) {
  const float32x4x2_t ab = vtrnq_f32(a, b), cd = vtrnq_f32(c, d);
  a = vcombine_f32(vget_low_f32(ab.val[0]), vget_low_f32(cd.val[0]));
  b = vcombine_f32(vget_low_f32(ab.val[1]), vget_low_f32(cd.val[1]));
  c = vcombine_f32(vget_high_f32(ab.val[0]), vget_high_f32(cd.val[0]));
  d = vcombine_f32(vget_high_f32(ab.val[1]), vget_high_f32(cd.val[1]));
}

inline void transpose(Vec8 (&rows)[8]) {
  transpose(rows[0].low, rows[1].low, rows[2].low, rows[3].low);
  transpose(rows[4].high, rows[5].high, rows[6].high, rows[7].high);
  transpose(rows[0].high, rows[1].high, rows[2].high, rows[3].high);
  transpose(rows[4].low, rows[5].low, rows[6].low, rows[7].low);
  for (int i = 0; i < 4; ++i) {
    const float32x4_t corner = rows[i].high;
    rows[i].high = rows[i + 4].low;
    rows[i + 4].low = corner;
  }
}

#else

struct Vec8 {
  float lane[8];
};

template <typename Operation>
inline Vec8 each_lane(Operation operation) {
  Vec8 result;
  for (int i = 0; i < 8; ++i) result.lane[i] = operation(i);
  return result;
}
inline Vec8 load(const float* from) {
  return each_lane([=](int i) { return from[i]; });
}
inline Vec8 broadcast(float value) {
  return each_lane([=](int) { return value; });
}
inline void store(float* to, Vec8 a) {
  for (int i = 0; i < 8; ++i) to[i] = a.lane[i];
}
inline void store_six(float* to, Vec8 a) {
  for (int i = 0; i < 6; ++i) to[i] = a.lane[i];
}
inline Vec8 operator+(Vec8 a, Vec8 b) {
  return each_lane([&](int i) { return a.lane[i] + b.lane[i]; });
}
inline Vec8 operator-(Vec8 a, Vec8 b) {
  return each_lane([&](int i) { return a.lane[i] - b.lane[i]; });
}
inline Vec8 operator*(Vec8 a, Vec8 b) {
  return each_lane([&](int i) { return a.lane[i] * b.lane[i]; });
}
inline Vec8 fused(Vec8 a, Vec8 b, Vec8 c) {
  return each_lane([&](int i) { return a.lane[i] * b.lane[i] + c.lane[i]; });
}
inline Vec8 larger(Vec8 a, Vec8 b) {
  return each_lane([&](int i) { return a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]; });
}
inline void transpose(Vec8 (&rows)[8]) {
  for (int i = 0; i < 8; ++i) {
    for (int j = i + 1; j < 8; ++j) {
      const float kept = rows[i].lane[j];
      rows[i].lane[j] = rows[j].lane[i];
      rows[j].lane[i] = kept;
    }
  }
}

#endif

}  // namespace
