// NEON has each vector in four registers. The dot product of ARMv8.2 multiplies and adds four pairs of signed bytes in
// one step. So codes are read less 128.
#pragma once

#include <arm_neon.h>

#include <cstddef>
#include <cstdint>

#define RETINASDK_INT8_ONE_BLOCK 1

namespace {

constexpr int kDot = 4;
constexpr bool kOneBlock = true;
constexpr int kCodeOffset = 128;

struct Sums {
  int32x4_t part[4];
};
struct Bytes {
  uint8x16_t part[4];
};
struct Numbers {
  float32x4_t part[4];
};

// The body of a function whose result has four parts.
#define RETINASDK_INT8_PARTS(Type, expression)             \
  Type made;                                               \
  RETINASDK_INT8_UNROLL                                    \
  for (int i = 0; i < 4; ++i) made.part[i] = (expression); \
  return made

RETINASDK_INT8_INLINE Sums load_sums(const int32_t* from) { RETINASDK_INT8_PARTS(Sums, vld1q_s32(from + i * 4)); }
RETINASDK_INT8_INLINE void store_sums(int32_t* to, const Sums& a) {
  RETINASDK_INT8_UNROLL
  for (int i = 0; i < 4; ++i) vst1q_s32(to + i * 4, a.part[i]);
}
RETINASDK_INT8_INLINE Bytes load_bytes(const void* from) {
  RETINASDK_INT8_PARTS(Bytes, vld1q_u8(static_cast<const uint8_t*>(from) + i * 16));
}
RETINASDK_INT8_INLINE void store_bytes(void* to, const Bytes& a) {
  RETINASDK_INT8_UNROLL
  for (int i = 0; i < 4; ++i) vst1q_u8(static_cast<uint8_t*>(to) + i * 16, a.part[i]);
}
// Repeats four bytes sixteen times.
RETINASDK_INT8_INLINE Bytes repeat4(const uint8_t* from) {
  const auto* four = reinterpret_cast<const __attribute__((may_alias, aligned(1))) uint32_t*>(from);
  const uint8x16_t repeated = vreinterpretq_u8_u32(vdupq_n_u32(*four));
  return {{repeated, repeated, repeated, repeated}};
}
// Adds to each sum four products of signed bytes. Exact.
RETINASDK_INT8_INLINE Sums add_products(const Sums& sums, const Bytes& codes, const Bytes& weights) {
  RETINASDK_INT8_PARTS(
      Sums, vdotq_s32(sums.part[i], vreinterpretq_s8_u8(codes.part[i]), vreinterpretq_s8_u8(weights.part[i])));
}
RETINASDK_INT8_INLINE uint8x16_t less_128(uint8x16_t codes) { return veorq_u8(codes, vdupq_n_u8(128)); }
// (4, 16) bytes to (16, 4).
RETINASDK_INT8_INLINE Bytes transposed(const Bytes& a) {
  const uint8x16x2_t rows01 = vzipq_u8(a.part[0], a.part[1]), rows23 = vzipq_u8(a.part[2], a.part[3]);
  const auto pairs = [](uint8x16_t bytes) { return vreinterpretq_u16_u8(bytes); };
  const uint16x8x2_t low = vzipq_u16(pairs(rows01.val[0]), pairs(rows23.val[0]));
  const uint16x8x2_t high = vzipq_u16(pairs(rows01.val[1]), pairs(rows23.val[1]));
  return {{vreinterpretq_u8_u16(low.val[0]), vreinterpretq_u8_u16(low.val[1]), vreinterpretq_u8_u16(high.val[0]),
           vreinterpretq_u8_u16(high.val[1])}};
}
// (4, 16) codes to (16, 4).
RETINASDK_INT8_INLINE Bytes arranged(const uint8_t* pixels) {
  const Bytes rows = load_bytes(pixels);
  return transposed({{less_128(rows.part[0]), less_128(rows.part[1]), less_128(rows.part[2]), less_128(rows.part[3])}});
}

RETINASDK_INT8_INLINE Numbers load_numbers(const float* from) {
  RETINASDK_INT8_PARTS(Numbers, vld1q_f32(from + i * 4));
}
RETINASDK_INT8_INLINE Numbers repeat(float value) { RETINASDK_INT8_PARTS(Numbers, vdupq_n_f32(value)); }
RETINASDK_INT8_INLINE Numbers to_numbers(const Sums& a) { RETINASDK_INT8_PARTS(Numbers, vcvtq_f32_s32(a.part[i])); }
// To the nearest integer, ties to the even one.
RETINASDK_INT8_INLINE Sums rounded(const Numbers& a) { RETINASDK_INT8_PARTS(Sums, vcvtnq_s32_f32(a.part[i])); }
RETINASDK_INT8_INLINE Numbers operator*(const Numbers& a, const Numbers& b) {
  RETINASDK_INT8_PARTS(Numbers, vmulq_f32(a.part[i], b.part[i]));
}
RETINASDK_INT8_INLINE Numbers operator/(const Numbers& a, const Numbers& b) {
  RETINASDK_INT8_PARTS(Numbers, vdivq_f32(a.part[i], b.part[i]));
}
// a * b + c, rounded once.
RETINASDK_INT8_INLINE Numbers fused(const Numbers& a, const Numbers& b, const Numbers& c) {
  RETINASDK_INT8_PARTS(Numbers, vfmaq_f32(c.part[i], a.part[i], b.part[i]));
}
// If a is NaN, the result is `low`: vmaxnmq gives the number that is none.
RETINASDK_INT8_INLINE Numbers limited(const Numbers& a, const Numbers& low, const Numbers& high) {
  RETINASDK_INT8_PARTS(Numbers, vminq_f32(vmaxnmq_f32(a.part[i], low.part[i]), high.part[i]));
}
// Sixteen bytes at `from` as numbers.
RETINASDK_INT8_INLINE Numbers load_codes(const uint8_t* from) {
  const uint8x16_t codes = vld1q_u8(from);
  const uint16x8_t low = vmovl_u8(vget_low_u8(codes)), high = vmovl_u8(vget_high_u8(codes));
  return {{vcvtq_f32_u32(vmovl_u16(vget_low_u16(low))), vcvtq_f32_u32(vmovl_u16(vget_high_u16(low))),
           vcvtq_f32_u32(vmovl_u16(vget_low_u16(high))), vcvtq_f32_u32(vmovl_u16(vget_high_u16(high)))}};
}
RETINASDK_INT8_INLINE uint8x16_t narrowed(const Sums& a, int zero) {
  const int16x8_t zeros = vdupq_n_s16(static_cast<int16_t>(zero));
  const int16x8_t low = vaddq_s16(vcombine_s16(vqmovn_s32(a.part[0]), vqmovn_s32(a.part[1])), zeros);
  const int16x8_t high = vaddq_s16(vcombine_s16(vqmovn_s32(a.part[2]), vqmovn_s32(a.part[3])), zeros);
  return vcombine_u8(vqmovun_s16(low), vqmovun_s16(high));
}
// Stores sums plus `zero`, which must be 0 to 255, as sixteen bytes.
RETINASDK_INT8_INLINE void store_codes(uint8_t* to, const Sums& a, int zero) { vst1q_u8(to, narrowed(a, zero)); }
// The same of four vectors, which lie behind each other.
RETINASDK_INT8_INLINE Bytes four_codes(const Sums (&a)[4], int zero) {
  RETINASDK_INT8_PARTS(Bytes, narrowed(a[i], zero));
}

// See Kernels::prepare.
void prepare(const uint8_t* codes, std::size_t count, uint8_t* to) {
  for (std::size_t i = 0; i < count; i += 16) vst1q_u8(to + i, less_128(vld1q_u8(codes + i)));
}

}  // namespace
