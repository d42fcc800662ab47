// The kernels for AVX-512 and its VNNI without their instructions, so that they are tested on every processor. SIMDe
// computes what most of the instructions do. It lacks the conversions below. The belief: they do what Intel's manual
// says, so what the casts of C++ do, except that numbers are rounded to the nearest integer, ties to the even one.
#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>

#include <cmath>
#include <cstdint>
#include <cstring>

namespace {

// Converts each of sixteen elements.
template <typename To, typename FromElement, typename ToElement, typename From>
To each(const From& from, ToElement (*convert)(FromElement)) {
  FromElement before[16];
  ToElement after[16];
  static_assert(sizeof before == sizeof from && sizeof after == sizeof(To), "sixteen elements");
  std::memcpy(before, &from, sizeof from);
  for (int i = 0; i < 16; ++i) after[i] = convert(before[i]);
  To to;
  std::memcpy(&to, after, sizeof to);
  return to;
}

template <typename To, typename From>
To cast(From value) {
  return static_cast<To>(value);
}

int32_t nearest(float value) { return static_cast<int32_t>(std::nearbyint(value)); }

}  // namespace

#define _mm512_cvtepi32_ps(a) each<__m512>(a, cast<float, int32_t>)
#define _mm512_cvtepi32_epi8(a) each<__m128i>(a, cast<uint8_t, int32_t>)
#define _mm512_cvtepu8_epi32(a) each<__m512i>(a, cast<int32_t, uint8_t>)
#define _mm512_cvt_roundps_epi32(a, rounding) each<__m512i>(a, nearest)

// What the compiler says of itself when it may use these instructions.
#define __AVX512F__ 1
#define __AVX512BW__ 1
#define __AVX512VNNI__ 1
#include "convolution/int8_kernels_vnni.cpp"
#include "convolution/kernels_avx512.cpp"
