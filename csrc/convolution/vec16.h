// A vector of sixteen floats: one block of channels of one pixel. AVX-512 holds it in one register, AVX2 in two, NEON
// in four; elsewhere GCC and Clang have vectors of their own, and other compilers an array. Everything is in an unnamed
// namespace, because a program contains versions for several instruction sets, which must not be mixed.
#pragma once

#include <cstddef>

#if defined(__AVX512F__)
#include "convolution/avx512.h"
#define RETINASDK_VEC16_AVX512 1
#elif defined(__AVX2__) && (defined(__FMA__) || defined(_MSC_VER))
#include <immintrin.h>
#define RETINASDK_VEC16_AVX2 1
#elif defined(__aarch64__)
#include <arm_neon.h>
#define RETINASDK_VEC16_NEON 1
#elif defined(__GNUC__)
#include <cstring>
#endif

#if defined(__GNUC__)
#define RETINASDK_UNROLL _Pragma("GCC unroll 16")
#define RETINASDK_INLINE inline __attribute__((always_inline))
#else
#define RETINASDK_UNROLL
#define RETINASDK_INLINE inline
#endif

namespace {

// The body of a function whose vectors have four parts.
#define RETINASDK_EACH_PART(expression)                    \
  Vec16 result;                                            \
  RETINASDK_UNROLL                                         \
  for (int i = 0; i < 4; ++i) result.part[i] = expression; \
  return result

#if defined(RETINASDK_VEC16_AVX512)

struct Vec16 {
  __m512 value;
};

RETINASDK_INLINE Vec16 load(const float* from) { return {_mm512_loadu_ps(from)}; }
RETINASDK_INLINE Vec16 broadcast(float value) { return {_mm512_set1_ps(value)}; }
RETINASDK_INLINE void store(float* to, Vec16 a) { _mm512_storeu_ps(to, a.value); }
RETINASDK_INLINE Vec16 operator+(Vec16 a, Vec16 b) { return {_mm512_add_ps(a.value, b.value)}; }
RETINASDK_INLINE Vec16 operator-(Vec16 a, Vec16 b) { return {_mm512_sub_ps(a.value, b.value)}; }
RETINASDK_INLINE Vec16 operator*(Vec16 a, Vec16 b) { return {_mm512_mul_ps(a.value, b.value)}; }
// Returns a * b + c, with one rounding if the hardware supports it.
RETINASDK_INLINE Vec16 fused(Vec16 a, Vec16 b, Vec16 c) { return {_mm512_fmadd_ps(a.value, b.value, c.value)}; }
// If one operand is NaN, the result is the second operand.
RETINASDK_INLINE Vec16 larger(Vec16 a, Vec16 b) { return {_mm512_max_ps(a.value, b.value)}; }
RETINASDK_INLINE Vec16 smaller(Vec16 a, Vec16 b) { return {_mm512_min_ps(a.value, b.value)}; }

#elif defined(RETINASDK_VEC16_AVX2)

struct Vec16 {
  __m256 low, high;
};

RETINASDK_INLINE Vec16 load(const float* from) { return {_mm256_loadu_ps(from), _mm256_loadu_ps(from + 8)}; }
RETINASDK_INLINE Vec16 broadcast(float value) {
  const __m256 all = _mm256_set1_ps(value);
  return {all, all};
}
RETINASDK_INLINE void store(float* to, Vec16 a) {
  _mm256_storeu_ps(to, a.low);
  _mm256_storeu_ps(to + 8, a.high);
}
RETINASDK_INLINE Vec16 operator+(Vec16 a, Vec16 b) {
  return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)};
}
RETINASDK_INLINE Vec16 operator-(Vec16 a, Vec16 b) {
  return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)};
}
RETINASDK_INLINE Vec16 operator*(Vec16 a, Vec16 b) {
  return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)};
}
RETINASDK_INLINE Vec16 fused(Vec16 a, Vec16 b, Vec16 c) {
  return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}
RETINASDK_INLINE Vec16 larger(Vec16 a, Vec16 b) { return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)}; }
RETINASDK_INLINE Vec16 smaller(Vec16 a, Vec16 b) {
  return {_mm256_min_ps(a.low, b.low), _mm256_min_ps(a.high, b.high)};
}

#elif defined(RETINASDK_VEC16_NEON)

struct Vec16 {
  float32x4_t part[4];
};

RETINASDK_INLINE Vec16 load(const float* from) { RETINASDK_EACH_PART(vld1q_f32(from + 4 * i)); }
RETINASDK_INLINE Vec16 broadcast(float value) { RETINASDK_EACH_PART(vdupq_n_f32(value)); }
RETINASDK_INLINE void store(float* to, Vec16 a) {
  RETINASDK_UNROLL
  for (int i = 0; i < 4; ++i) vst1q_f32(to + 4 * i, a.part[i]);
}
RETINASDK_INLINE Vec16 operator+(Vec16 a, Vec16 b) { RETINASDK_EACH_PART(vaddq_f32(a.part[i], b.part[i])); }
RETINASDK_INLINE Vec16 operator-(Vec16 a, Vec16 b) { RETINASDK_EACH_PART(vsubq_f32(a.part[i], b.part[i])); }
RETINASDK_INLINE Vec16 operator*(Vec16 a, Vec16 b) { RETINASDK_EACH_PART(vmulq_f32(a.part[i], b.part[i])); }
RETINASDK_INLINE Vec16 fused(Vec16 a, Vec16 b, Vec16 c) {
  RETINASDK_EACH_PART(vfmaq_f32(c.part[i], a.part[i], b.part[i]));
}
// NEON's own maximum gives NaN if either operand is NaN; this one gives the second operand, like the other versions.
RETINASDK_INLINE Vec16 larger(Vec16 a, Vec16 b) {
  RETINASDK_EACH_PART(vbslq_f32(vcgtq_f32(a.part[i], b.part[i]), a.part[i], b.part[i]));
}
RETINASDK_INLINE Vec16 smaller(Vec16 a, Vec16 b) {
  RETINASDK_EACH_PART(vbslq_f32(vcltq_f32(a.part[i], b.part[i]), a.part[i], b.part[i]));
}

#elif defined(__GNUC__)

// Four floats, in what the processor has for them.
using Part = float __attribute__((vector_size(16)));

struct Vec16 {
  Part part[4];
};

RETINASDK_INLINE Vec16 load(const float* from) {
  Vec16 result;
  std::memcpy(result.part, from, sizeof result.part);
  return result;
}
RETINASDK_INLINE void store(float* to, Vec16 a) { std::memcpy(to, a.part, sizeof a.part); }
RETINASDK_INLINE Vec16 broadcast(float value) { RETINASDK_EACH_PART((Part{value, value, value, value})); }
RETINASDK_INLINE Vec16 operator+(Vec16 a, Vec16 b) { RETINASDK_EACH_PART(a.part[i] + b.part[i]); }
RETINASDK_INLINE Vec16 operator-(Vec16 a, Vec16 b) { RETINASDK_EACH_PART(a.part[i] - b.part[i]); }
RETINASDK_INLINE Vec16 operator*(Vec16 a, Vec16 b) { RETINASDK_EACH_PART(a.part[i] * b.part[i]); }
RETINASDK_INLINE Vec16 fused(Vec16 a, Vec16 b, Vec16 c) { RETINASDK_EACH_PART(a.part[i] * b.part[i] + c.part[i]); }
RETINASDK_INLINE Vec16 larger(Vec16 a, Vec16 b) { RETINASDK_EACH_PART(a.part[i] > b.part[i] ? a.part[i] : b.part[i]); }
RETINASDK_INLINE Vec16 smaller(Vec16 a, Vec16 b) { RETINASDK_EACH_PART(a.part[i] < b.part[i] ? a.part[i] : b.part[i]); }

#else

struct Vec16 {
  float lane[16];
};

template <typename Operation>
inline Vec16 each_lane(Operation operation) {
  Vec16 result;
  for (int i = 0; i < 16; ++i) result.lane[i] = operation(i);
  return result;
}
inline Vec16 load(const float* from) {
  return each_lane([=](int i) { return from[i]; });
}
inline Vec16 broadcast(float value) {
  return each_lane([=](int) { return value; });
}
inline void store(float* to, Vec16 a) {
  for (int i = 0; i < 16; ++i) to[i] = a.lane[i];
}
inline Vec16 operator+(Vec16 a, Vec16 b) {
  return each_lane([&](int i) { return a.lane[i] + b.lane[i]; });
}
inline Vec16 operator-(Vec16 a, Vec16 b) {
  return each_lane([&](int i) { return a.lane[i] - b.lane[i]; });
}
inline Vec16 operator*(Vec16 a, Vec16 b) {
  return each_lane([&](int i) { return a.lane[i] * b.lane[i]; });
}
inline Vec16 fused(Vec16 a, Vec16 b, Vec16 c) {
  return each_lane([&](int i) { return a.lane[i] * b.lane[i] + c.lane[i]; });
}
inline Vec16 larger(Vec16 a, Vec16 b) {
  return each_lane([&](int i) { return a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]; });
}
inline Vec16 smaller(Vec16 a, Vec16 b) {
  return each_lane([&](int i) { return a.lane[i] < b.lane[i] ? a.lane[i] : b.lane[i]; });
}

#endif

#undef RETINASDK_EACH_PART

#if defined(RETINASDK_VEC16_AVX512) || defined(RETINASDK_VEC16_AVX2)
#define RETINASDK_VEC8 1

// The lower half of a vector.
struct Vec8 {
  __m256 value;
};

RETINASDK_INLINE void load(const float* from, Vec8& to) { to.value = _mm256_loadu_ps(from); }
RETINASDK_INLINE void broadcast(float value, Vec8& to) { to.value = _mm256_set1_ps(value); }
// Stores a whole vector, whose upper half is zeros.
RETINASDK_INLINE void store(float* to, Vec8 a) {
  _mm256_storeu_ps(to, a.value);
  _mm256_storeu_ps(to + 8, _mm256_setzero_ps());
}
RETINASDK_INLINE Vec8 operator+(Vec8 a, Vec8 b) { return {_mm256_add_ps(a.value, b.value)}; }
RETINASDK_INLINE Vec8 fused(Vec8 a, Vec8 b, Vec8 c) { return {_mm256_fmadd_ps(a.value, b.value, c.value)}; }
RETINASDK_INLINE Vec8 clamped(Vec8 low, Vec8 high, Vec8 a) {
  return {_mm256_min_ps(high.value, _mm256_max_ps(low.value, a.value))};
}

#endif

RETINASDK_INLINE void load(const float* from, Vec16& to) { to = load(from); }
RETINASDK_INLINE void broadcast(float value, Vec16& to) { to = broadcast(value); }

// Fetches the cache line of an address before it is read or written, into the nearest cache or into L2. The address may
// lie outside of the array, because nothing is read.
RETINASDK_INLINE void prefetch_to_read([[maybe_unused]] const float* address) {
#ifdef __GNUC__
  __builtin_prefetch(address);
#endif
}
RETINASDK_INLINE void prefetch_to_l2([[maybe_unused]] const float* address) {
#ifdef __GNUC__
  __builtin_prefetch(address, 0, 2);
#endif
}
RETINASDK_INLINE void prefetch_to_write([[maybe_unused]] float* address) {
#ifdef __GNUC__
  __builtin_prefetch(address, 1);
#endif
}

// Limits values to low..high. NaN stays NaN.
RETINASDK_INLINE Vec16 clamped(Vec16 low, Vec16 high, Vec16 value) { return smaller(high, larger(low, value)); }

}  // namespace
