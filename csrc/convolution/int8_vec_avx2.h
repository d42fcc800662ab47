// AVX2 has each vector in two registers. Its products of unsigned with signed bytes are limited to 16 bits, which would
// change sums. So bytes are widened to 16 bits, whose products and sums are exact. AVX-VNNI multiplies bytes exactly.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#define RETINASDK_INT8_ONE_BLOCK 1

// A test defines this macro to do without the instruction.
#if defined(__AVXVNNI__) && !defined(RETINASDK_INT8_DPBUSD)
#define RETINASDK_INT8_DPBUSD _mm256_dpbusd_avx_epi32
#endif

namespace {

#ifdef RETINASDK_INT8_DPBUSD
constexpr int kDot = 4;
#else
constexpr int kDot = 2;
#endif
constexpr bool kOneBlock = true;
constexpr int kCodeOffset = 0;

struct Sums {
  __m256i low, high;
};
struct Bytes {
  __m256i low, high;
};
struct Numbers {
  __m256 low, high;
};

RETINASDK_INT8_INLINE __m256i load_half(const void* from) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(from));
}
RETINASDK_INT8_INLINE void store_half(void* to, __m256i a) { _mm256_storeu_si256(static_cast<__m256i*>(to), a); }
RETINASDK_INT8_INLINE Sums load_sums(const int32_t* from) { return {load_half(from), load_half(from + 8)}; }
RETINASDK_INT8_INLINE void store_sums(int32_t* to, Sums a) {
  store_half(to, a.low);
  store_half(to + 8, a.high);
}
RETINASDK_INT8_INLINE Bytes load_bytes(const void* from) {
  return {load_half(from), load_half(static_cast<const uint8_t*>(from) + 32)};
}
RETINASDK_INT8_INLINE void store_bytes(void* to, Bytes a) {
  store_half(to, a.low);
  store_half(static_cast<uint8_t*>(to) + 32, a.high);
}
// Repeats four bytes sixteen times.
RETINASDK_INT8_INLINE Bytes repeat4(const uint8_t* from) {
  using Four = __attribute__((may_alias, aligned(1))) const int32_t;
  const __m256i repeated = _mm256_set1_epi32(*reinterpret_cast<Four*>(from));
  return {repeated, repeated};
}
// (4, 16) bytes to (16, 4).
RETINASDK_INT8_INLINE Bytes transposed(Bytes a) {
  const auto low_halves = [](__m256i one, __m256i other) { return _mm256_permute2x128_si256(one, other, 0x20); };
  const auto high_halves = [](__m256i one, __m256i other) { return _mm256_permute2x128_si256(one, other, 0x31); };
  const __m256i rows02 = low_halves(a.low, a.high), rows13 = high_halves(a.low, a.high);
  const __m256i low = _mm256_unpacklo_epi8(rows02, rows13), high = _mm256_unpackhi_epi8(rows02, rows13);
  const __m256i rows01 = low_halves(low, high), rows23 = high_halves(low, high);
  const __m256i even = _mm256_unpacklo_epi16(rows01, rows23), odd = _mm256_unpackhi_epi16(rows01, rows23);
  return {low_halves(even, odd), high_halves(even, odd)};
}

RETINASDK_INT8_INLINE Numbers load_numbers(const float* from) {
  return {_mm256_loadu_ps(from), _mm256_loadu_ps(from + 8)};
}
RETINASDK_INT8_INLINE void store_numbers(float* to, Numbers a) {
  _mm256_storeu_ps(to, a.low);
  _mm256_storeu_ps(to + 8, a.high);
}
RETINASDK_INT8_INLINE Numbers repeat(float value) { return {_mm256_set1_ps(value), _mm256_set1_ps(value)}; }
RETINASDK_INT8_INLINE Numbers to_numbers(Sums a) { return {_mm256_cvtepi32_ps(a.low), _mm256_cvtepi32_ps(a.high)}; }
RETINASDK_INT8_INLINE Sums rounded(Numbers a) { return {_mm256_cvtps_epi32(a.low), _mm256_cvtps_epi32(a.high)}; }
RETINASDK_INT8_INLINE Numbers operator*(Numbers a, Numbers b) {
  return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)};
}
RETINASDK_INT8_INLINE Numbers operator/(Numbers a, Numbers b) {
  return {_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)};
}
RETINASDK_INT8_INLINE Numbers fused(Numbers a, Numbers b, Numbers c) {
  return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}
RETINASDK_INT8_INLINE Numbers limited(Numbers a, Numbers low, Numbers high) {
  return {_mm256_min_ps(_mm256_max_ps(a.low, low.low), high.low),
          _mm256_min_ps(_mm256_max_ps(a.high, low.high), high.high)};
}
RETINASDK_INT8_INLINE Numbers load_codes(const uint8_t* from) {
  const __m128i codes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
  return to_numbers({_mm256_cvtepu8_epi32(codes), _mm256_cvtepu8_epi32(_mm_srli_si128(codes, 8))});
}
// Sixteen sums plus `zero`, in 16 bits.
RETINASDK_INT8_INLINE __m256i narrowed(Sums a, int zero) {
  const __m256i packed = _mm256_permute4x64_epi64(_mm256_packs_epi32(a.low, a.high), 0xd8);
  return _mm256_add_epi16(packed, _mm256_set1_epi16(static_cast<short>(zero)));
}
RETINASDK_INT8_INLINE __m256i two_codes(Sums a, Sums b, int zero) {
  return _mm256_permute4x64_epi64(_mm256_packus_epi16(narrowed(a, zero), narrowed(b, zero)), 0xd8);
}
RETINASDK_INT8_INLINE void store_codes(uint8_t* to, Sums a, int zero) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm256_castsi256_si128(two_codes(a, a, zero)));
}
RETINASDK_INT8_INLINE Bytes four_codes(const Sums (&a)[4], int zero) {
  return {two_codes(a[0], a[1], zero), two_codes(a[2], a[3], zero)};
}

#ifdef RETINASDK_INT8_DPBUSD

// Adds to each sum four products of unsigned with signed bytes. Exact.
RETINASDK_INT8_INLINE Sums add_products(Sums sums, Bytes codes, Bytes weights) {
  return {RETINASDK_INT8_DPBUSD(sums.low, codes.low, weights.low),
          RETINASDK_INT8_DPBUSD(sums.high, codes.high, weights.high)};
}
// (4, 16) codes to (16, 4).
RETINASDK_INT8_INLINE Bytes arranged(const uint8_t* pixels) { return transposed(load_bytes(pixels)); }

#else

// Adds two products of 16 bits to each sum. GCC would reorder additions that it can see, and run out of registers.
RETINASDK_INT8_INLINE __m256i add_pairs(__m256i sums, __m256i codes, __m256i weights) {
  const __m256i products = _mm256_madd_epi16(codes, weights);
#ifdef __GNUC__
  __asm__("vpaddd %1, %0, %0" : "+x"(sums) : "x"(products));
  return sums;
#else
  return _mm256_add_epi32(sums, products);
#endif
}
RETINASDK_INT8_INLINE Sums add_products(Sums sums, Bytes codes, Bytes weights) {
  return {add_pairs(sums.low, codes.low, weights.low), add_pairs(sums.high, codes.high, weights.high)};
}
// (2, 16) codes to (16, 2) in 16 bits.
RETINASDK_INT8_INLINE Bytes arranged(const uint8_t* pixels) {
  const __m128i first = _mm_loadu_si128(reinterpret_cast<const __m128i*>(pixels));
  const __m128i second = _mm_loadu_si128(reinterpret_cast<const __m128i*>(pixels + 16));
  return {_mm256_cvtepu8_epi16(_mm_unpacklo_epi8(first, second)),
          _mm256_cvtepu8_epi16(_mm_unpackhi_epi8(first, second))};
}
// See Kernels::prepare.
void prepare(const uint8_t* codes, std::size_t count, uint8_t* to) {
  for (std::size_t i = 0; i < count; i += 16) {
    store_half(to + i * 2, _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(codes + i))));
  }
}

#endif

}  // namespace
