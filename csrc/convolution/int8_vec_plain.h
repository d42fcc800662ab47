// The vectors in plain C++, for processors without faster ones, and for tests.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace {

constexpr int kDot = 4;
constexpr bool kOneBlock = false;
constexpr int kCodeOffset = 0;

struct Sums {
  int32_t value[16];
};
struct Bytes {
  uint8_t value[64];
};
struct Numbers {
  float value[16];
};

RETINASDK_INT8_INLINE Sums load_sums(const int32_t* from) {
  Sums made;
  std::memcpy(made.value, from, sizeof made.value);
  return made;
}
RETINASDK_INT8_INLINE void store_sums(int32_t* to, Sums a) { std::memcpy(to, a.value, sizeof a.value); }
RETINASDK_INT8_INLINE Bytes load_bytes(const void* from) {
  Bytes made;
  std::memcpy(made.value, from, sizeof made.value);
  return made;
}
RETINASDK_INT8_INLINE void store_bytes(void* to, Bytes a) { std::memcpy(to, a.value, sizeof a.value); }
RETINASDK_INT8_INLINE Bytes repeat4(const uint8_t* from) {
  Bytes made;
  for (int i = 0; i < 64; ++i) made.value[i] = from[i % 4];
  return made;
}
RETINASDK_INT8_INLINE Sums add_products(Sums sums, const Bytes& codes, const Bytes& weights) {
  for (int i = 0; i < 64; ++i) {  // Unsigned, because the sums may wrap on the way.
    const int product = codes.value[i] * static_cast<int8_t>(weights.value[i]);
    const uint32_t sum = static_cast<uint32_t>(sums.value[i / 4]) + static_cast<uint32_t>(product);
    sums.value[i / 4] = static_cast<int32_t>(sum);
  }
  return sums;
}
RETINASDK_INT8_INLINE Bytes transposed(Bytes a) {
  Bytes made;
  for (int i = 0; i < 64; ++i) made.value[i] = a.value[i % 4 * 16 + i / 4];
  return made;
}
// (4, 16) codes to (16, 4).
RETINASDK_INT8_INLINE Bytes arranged(const uint8_t* pixels) { return transposed(load_bytes(pixels)); }

RETINASDK_INT8_INLINE Numbers load_numbers(const float* from) {
  Numbers made;
  std::memcpy(made.value, from, sizeof made.value);
  return made;
}
RETINASDK_INT8_INLINE void store_numbers(float* to, Numbers a) { std::memcpy(to, a.value, sizeof a.value); }
RETINASDK_INT8_INLINE Numbers repeat(float value) {
  Numbers made;
  for (float& item : made.value) item = value;
  return made;
}
RETINASDK_INT8_INLINE Numbers to_numbers(Sums a) {
  Numbers made;
  for (int i = 0; i < 16; ++i) made.value[i] = static_cast<float>(a.value[i]);
  return made;
}
RETINASDK_INT8_INLINE Sums rounded(Numbers a) {
  Sums made;
  for (int i = 0; i < 16; ++i) made.value[i] = static_cast<int32_t>(std::nearbyintf(a.value[i]));
  return made;
}
RETINASDK_INT8_INLINE Numbers operator*(Numbers a, Numbers b) {
  for (int i = 0; i < 16; ++i) a.value[i] *= b.value[i];
  return a;
}
RETINASDK_INT8_INLINE Numbers operator/(Numbers a, Numbers b) {
  for (int i = 0; i < 16; ++i) a.value[i] /= b.value[i];
  return a;
}
RETINASDK_INT8_INLINE Numbers fused(Numbers a, Numbers b, Numbers c) {
  for (int i = 0; i < 16; ++i) a.value[i] = std::fmaf(a.value[i], b.value[i], c.value[i]);
  return a;
}
RETINASDK_INT8_INLINE Numbers limited(Numbers a, Numbers low, Numbers high) {
  for (int i = 0; i < 16; ++i) {
    const float raised = a.value[i] > low.value[i] ? a.value[i] : low.value[i];
    a.value[i] = raised < high.value[i] ? raised : high.value[i];
  }
  return a;
}
RETINASDK_INT8_INLINE Numbers load_codes(const uint8_t* from) {
  Numbers made;
  for (int i = 0; i < 16; ++i) made.value[i] = static_cast<float>(from[i]);
  return made;
}
RETINASDK_INT8_INLINE void store_codes(uint8_t* to, Sums a, int zero) {
  for (int i = 0; i < 16; ++i) to[i] = static_cast<uint8_t>(a.value[i] + zero);
}
RETINASDK_INT8_INLINE Bytes four_codes(const Sums (&a)[4], int zero) {
  Bytes made;
  for (int i = 0; i < 4; ++i) store_codes(made.value + i * 16, a[i], zero);
  return made;
}

}  // namespace
