// The transforms of int8_winograd.h. All numbers are whole, and Winograd's F(4x4, 3x3) is exact.
//
// The matrices are those of Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2016, with other
// scales. B stays. The rows of G, for the weights, are multiplied by 4, 6, 6, 24, 24 and 1, which makes them whole. The
// columns of A, for the outputs, must then be divided by these; the rows below have been multiplied by 24, 12, 6 and 6
// besides, which makes them whole. So a result is 24, 12 or 6 times 24, 12 or 6 times the output, that is 9 times a
// power of two times it.
//
// Note: Why sums may wrap
//
//     Sums of transformed products may exceed 32 bits. They are right modulo 2^32, and so is what is added and
//     subtracted of them. There, 9 has an inverse, which leaves the output times a power of two, at most 64. If the
//     output is within 2^25, that fits into 32 bits, and is right.
#pragma once

#include "convolution/int8_kernels_impl.h"

namespace retinasdk::int8 {
namespace {

constexpr int kNinth = 954437177;  // 9 * kNinth is 1 modulo 2^32.

// Rows of B transposed. The results are within 5 times the largest code in one direction, and 50 times in two.
RETINASDK_INT8_INLINE void input_transform(const __m256i (&d)[6], __m256i (&to)[6]) {
  const auto add = [](__m256i a, __m256i b) { return _mm256_add_epi16(a, b); };
  const auto sub = [](__m256i a, __m256i b) { return _mm256_sub_epi16(a, b); };
  const auto four = [](__m256i a) { return _mm256_slli_epi16(a, 2); };
  const __m256i d42 = sub(d[4], d[2]), d31 = sub(d[3], d[1]);
  to[0] = add(d42, four(sub(d[0], d[2])));
  to[1] = sub(add(d[3], d[4]), four(add(d[1], d[2])));
  to[2] = add(sub(d[4], d[3]), four(sub(d[1], d[2])));
  to[3] = add(d42, add(d31, d31));
  to[4] = sub(d42, add(d31, d31));
  to[5] = sub(sub(d[5], d[3]), four(d31));
}

void winograd_input(const uint8_t* pixels, std::ptrdiff_t row_step, uint8_t* to, std::ptrdiff_t position_step) {
  __m256i columns[6][6];  // By row of the result.
  for (int x = 0; x < 6; ++x) {
    __m256i codes[6], made[6];
    RETINASDK_INT8_UNROLL
    for (int y = 0; y < 6; ++y) {
      const auto* from = reinterpret_cast<const __m128i*>(pixels + y * row_step + x * kLanes);
      codes[y] = _mm256_cvtepu8_epi16(_mm_loadu_si128(from));
    }
    input_transform(codes, made);
    RETINASDK_INT8_UNROLL
    for (int y = 0; y < 6; ++y) columns[y][x] = made[y];
  }
  for (int y = 0; y < 6; ++y) {
    __m256i made[6];
    input_transform(columns[y], made);
    RETINASDK_INT8_UNROLL
    for (int x = 0; x < 6; ++x) store_half(to + (y * 6 + x) * position_step, made[x]);
  }
}

// Rows of A transposed, times 24, 12, 6 and 6.
RETINASDK_INT8_INLINE void output_transform(const __m256i (&m)[6], __m256i (&to)[4]) {
  const auto add = [](__m256i a, __m256i b) { return _mm256_add_epi32(a, b); };
  const auto sub = [](__m256i a, __m256i b) { return _mm256_sub_epi32(a, b); };
  const auto six = [&](__m256i a) { return _mm256_slli_epi32(add(add(a, a), a), 1); };
  const __m256i sum12 = add(m[1], m[2]), sum34 = add(m[3], m[4]), sub12 = sub(m[1], m[2]), sub34 = sub(m[3], m[4]);
  to[0] = add(add(six(m[0]), _mm256_slli_epi32(sum12, 2)), sum34);
  to[1] = add(add(sub12, sub12), sub34);
  to[2] = add(sum12, sum34);
  to[3] = add(add(sub12, add(sub34, sub34)), six(m[5]));
}

// 8 of the 16 channels, to outputs (4, 4).
RETINASDK_INT8_INLINE void half_of_output(const int32_t* sums, std::ptrdiff_t position_step, __m256i (&to)[4][4]) {
  __m256i columns[4][6];
  for (int x = 0; x < 6; ++x) {
    __m256i loaded[6], made[4];
    RETINASDK_INT8_UNROLL
    for (int y = 0; y < 6; ++y) loaded[y] = load_half(sums + (y * 6 + x) * position_step);
    output_transform(loaded, made);
    RETINASDK_INT8_UNROLL
    for (int y = 0; y < 4; ++y) columns[y][x] = made[y];
  }
  const __m256i ninth = _mm256_set1_epi32(kNinth);
  constexpr int kShifts[4] = {3, 2, 1, 1};
  RETINASDK_INT8_UNROLL
  for (int y = 0; y < 4; ++y) {
    __m256i made[4];
    output_transform(columns[y], made);
    RETINASDK_INT8_UNROLL
    for (int x = 0; x < 4; ++x) {
      to[y][x] = _mm256_srai_epi32(_mm256_mullo_epi32(made[x], ninth), kShifts[y] + kShifts[x]);
    }
  }
}

void winograd_output(const int32_t* sums, std::ptrdiff_t position_step, const int32_t* start, const float* multipliers,
                     const CodeLimits& limits, uint8_t* codes) {
  __m256i low[4][4], high[4][4];
  half_of_output(sums, position_step, low);
  half_of_output(sums + 8, position_step, high);
  const Limits most(limits);
  const Numbers factors = load_numbers(multipliers);
  const Sums first = load_sums(start);
  for (int y = 0; y < 4; ++y) {
    Sums row[4];
    for (int x = 0; x < 4; ++x) {
      row[x] = {_mm256_add_epi32(low[y][x], first.low), _mm256_add_epi32(high[y][x], first.high)};
    }
    store_pixels<4>(codes + y * 4 * kLanes, row, factors, most);
  }
}

}  // namespace
}  // namespace retinasdk::int8
