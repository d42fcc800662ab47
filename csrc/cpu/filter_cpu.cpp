// positions_above() with vector instructions. It is the only loop of decoding that reads every logit.
#include "cpu/cpu_features.h"
#include "cpu/kernels_cpu.h"
#include "math/box_math.h"

#ifdef RETINASDK_AVX2
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#define RETINASDK_NEON 1
#endif

namespace retinasdk::cpu {
namespace {

[[maybe_unused]] int filter_plain(const float* values, int begin, int count, float threshold, int32_t* positions) {
  int found = 0;
  for (int i = begin; i < count; ++i) {
    if (passes(values[i], threshold)) positions[found++] = i;
  }
  return found;
}

#ifdef RETINASDK_AVX2
// 32 comparisons give one bit mask. _CMP_GT_OQ is false for NaN, as `>` is.
__attribute__((target("avx2,bmi"))) int filter_avx2(const float* values, int count, float threshold,
                                                    int32_t* positions) {
  const __m256 limit = _mm256_set1_ps(threshold);
  int found = 0;
  int i = 0;
  for (; i + 32 <= count; i += 32) {
    uint32_t mask = 0;
    for (int part = 0; part < 4; ++part) {
      const __m256 above = _mm256_cmp_ps(_mm256_loadu_ps(values + i + 8 * part), limit, _CMP_GT_OQ);
      mask |= static_cast<uint32_t>(_mm256_movemask_ps(above)) << (8 * part);
    }
    for (; mask != 0; mask &= mask - 1) positions[found++] = i + __builtin_ctz(mask);
  }
  return found + filter_plain(values, i, count, threshold, positions + found);
}

#endif

#ifdef RETINASDK_NEON
// NEON cannot turn comparisons into a bit mask cheaply. Therefore 16 values are compared together, and only if one of
// them passes, each is compared again.
int filter_neon(const float* values, int count, float threshold, int32_t* positions) {
  const float32x4_t limit = vdupq_n_f32(threshold);
  int found = 0;
  int i = 0;
  for (; i + 16 <= count; i += 16) {
    uint32x4_t above = vcgtq_f32(vld1q_f32(values + i), limit);
    for (int part = 1; part < 4; ++part) {
      above = vorrq_u32(above, vcgtq_f32(vld1q_f32(values + i + 4 * part), limit));
    }
    if (vmaxvq_u32(above) != 0) found += filter_plain(values, i, i + 16, threshold, positions + found);
  }
  return found + filter_plain(values, i, count, threshold, positions + found);
}
#endif

}  // namespace

#ifdef RETINASDK_AVX2
bool has_avx2() {
  static const Features found = features();
  return found.avx2 && found.bmi;  // uncovered: a machine without these instructions
}
#endif

int positions_above(const float* values, int count, float threshold, int32_t* positions) {
#if defined(RETINASDK_AVX2)
  // uncovered: a machine without AVX2
  if (has_avx2()) return filter_avx2(values, count, threshold, positions);
  return filter_plain(values, 0, count, threshold, positions);
#elif defined(RETINASDK_NEON)
  return filter_neon(values, count, threshold, positions);
#else
  return filter_plain(values, 0, count, threshold, positions);
#endif
}

const char* simd_name() {
#if defined(RETINASDK_AVX2)
  return has_avx2() ? "avx2" : "plain";  // uncovered: a machine without AVX2
#elif defined(RETINASDK_NEON)
  return "neon";
#else
  return "plain";
#endif
}

}  // namespace retinasdk::cpu
