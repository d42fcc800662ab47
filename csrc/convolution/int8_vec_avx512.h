// AVX-512 has each vector in one register, and VNNI multiplies and adds four pairs of bytes in one step.
#pragma once

#include <cstddef>
#include <cstdint>

#include "convolution/avx512.h"

namespace {

constexpr int kDot = 4;
constexpr bool kOneBlock = false;
constexpr int kCodeOffset = 0;

struct Sums {
  __m512i value;
};
struct Bytes {
  __m512i value;
};
struct Numbers {
  __m512 value;
};

RETINASDK_INT8_INLINE Sums load_sums(const int32_t* from) { return {_mm512_loadu_si512(from)}; }
RETINASDK_INT8_INLINE void store_sums(int32_t* to, Sums a) { _mm512_storeu_si512(to, a.value); }
RETINASDK_INT8_INLINE Bytes load_bytes(const void* from) { return {_mm512_loadu_si512(from)}; }
RETINASDK_INT8_INLINE void store_bytes(void* to, Bytes a) { _mm512_storeu_si512(to, a.value); }
// Repeats four bytes sixteen times.
RETINASDK_INT8_INLINE Bytes repeat4(const uint8_t* from) {
  return {_mm512_set1_epi32(*reinterpret_cast<const __attribute__((may_alias, aligned(1))) int32_t*>(from))};
}
// Adds to each sum four products of unsigned with signed bytes. Exact.
RETINASDK_INT8_INLINE Sums add_products(Sums sums, Bytes codes, Bytes weights) {
  return {_mm512_dpbusd_epi32(sums.value, codes.value, weights.value)};
}
// (4, 16) bytes to (16, 4).
RETINASDK_INT8_INLINE Bytes transposed(Bytes a) {
  const __m512i columns = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  const __m512i within = _mm512_set4_epi32(0x0f0b0703, 0x0e0a0602, 0x0d090501, 0x0c080400);
  return {_mm512_shuffle_epi8(_mm512_permutexvar_epi32(columns, a.value), within)};
}
// (4, 16) codes to (16, 4).
RETINASDK_INT8_INLINE Bytes arranged(const uint8_t* pixels) { return transposed(load_bytes(pixels)); }

RETINASDK_INT8_INLINE Numbers load_numbers(const float* from) { return {_mm512_loadu_ps(from)}; }
RETINASDK_INT8_INLINE void store_numbers(float* to, Numbers a) { _mm512_storeu_ps(to, a.value); }
RETINASDK_INT8_INLINE Numbers repeat(float value) { return {_mm512_set1_ps(value)}; }
RETINASDK_INT8_INLINE Numbers to_numbers(Sums a) { return {_mm512_cvtepi32_ps(a.value)}; }
// To the nearest integer, ties to the even one. The numbers must be within the range of int32.
RETINASDK_INT8_INLINE Sums rounded(Numbers a) {
  return {_mm512_cvt_roundps_epi32(a.value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
RETINASDK_INT8_INLINE Numbers operator*(Numbers a, Numbers b) { return {_mm512_mul_ps(a.value, b.value)}; }
RETINASDK_INT8_INLINE Numbers operator/(Numbers a, Numbers b) { return {_mm512_div_ps(a.value, b.value)}; }
// a * b + c, rounded once.
RETINASDK_INT8_INLINE Numbers fused(Numbers a, Numbers b, Numbers c) {
  return {_mm512_fmadd_ps(a.value, b.value, c.value)};
}
// If a is NaN, the result is `low`.
RETINASDK_INT8_INLINE Numbers limited(Numbers a, Numbers low, Numbers high) {
  return {_mm512_min_ps(_mm512_max_ps(a.value, low.value), high.value)};
}
// Sixteen bytes at `from` as numbers.
RETINASDK_INT8_INLINE Numbers load_codes(const uint8_t* from) {
  return {_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))))};
}
// Stores sums plus `zero`, which must be 0 to 255, as sixteen bytes.
RETINASDK_INT8_INLINE void store_codes(uint8_t* to, Sums a, int zero) {
  const __m512i codes = _mm512_add_epi32(a.value, _mm512_set1_epi32(zero));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtepi32_epi8(codes));
}
// The same of four vectors, which lie behind each other.
RETINASDK_INT8_INLINE Bytes four_codes(const Sums (&a)[4], int zero) {
  const __m512i zeros = _mm512_set1_epi16(static_cast<short>(zero));
  const __m512i low = _mm512_add_epi16(_mm512_packs_epi32(a[0].value, a[1].value), zeros);
  const __m512i high = _mm512_add_epi16(_mm512_packs_epi32(a[2].value, a[3].value), zeros);
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  return {_mm512_permutexvar_epi32(order, _mm512_packus_epi16(low, high))};
}

}  // namespace
