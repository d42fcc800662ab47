// Normalizes images that keep their size.
#include "cpu/preprocess_rows.h"
#include "math/resize_math.h"

#ifdef RETINASDK_AVX2
#include <immintrin.h>
#endif

namespace retinasdk::cpu {

#ifdef RETINASDK_AVX2
namespace {

// Computes eight pixels at a time. Returns how many are done.
RETINASDK_TARGET_AVX2 int normalize_eights(const uint8_t* source, int count, const Channels& channels, OutputRow out) {
  __m128i low[3], high[3];  // Where the eight values of a channel are among 24 bytes: the first 16, the last 8.
  __m256 gain[3], bias[3];
  for (int c = 0; c < 3; ++c) {
    char at[2][16];
    for (int i = 0; i < 16; ++i) {
      const int byte = 3 * i + channels.source[c];
      at[0][i] = static_cast<char>(i < 8 && byte < 16 ? byte : -1);  // -1 gives 0.
      at[1][i] = static_cast<char>(i < 8 && byte >= 16 ? byte - 16 : -1);
    }
    low[c] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(at[0]));
    high[c] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(at[1]));
    gain[c] = _mm256_set1_ps(channels.gain[c]);
    bias[c] = _mm256_set1_ps(channels.bias[c]);
  }
  int x = 0;
  for (; x + 8 <= count; x += 8) {
    const __m128i first = _mm_loadu_si128(reinterpret_cast<const __m128i*>(source + 3 * x));
    const __m128i last = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(source + 3 * x + 16));
    for (int c = 0; c < 3; ++c) {
      const __m128i bytes = _mm_or_si128(_mm_shuffle_epi8(first, low[c]), _mm_shuffle_epi8(last, high[c]));
      const __m256 values = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes));
      _mm256_storeu_ps(out[c] + x, _mm256_add_ps(_mm256_mul_ps(values, gain[c]), bias[c]));
    }
  }
  return x;
}

}  // namespace
#endif

void SameRows::write(int y, OutputRow out) {
  const uint8_t* source = image_.pixels + y * image_.row_bytes;
  int x = 0;
#ifdef RETINASDK_AVX2
  // uncovered: a machine without AVX2
  if (has_avx2()) x = normalize_eights(source, image_.width, channels_, out);
#endif
  for (; x < image_.width; ++x) {
    for (int c = 0; c < 3; ++c) {
      const auto value = static_cast<float>(source[3 * x + channels_.source[c]]);
      out[c][x] = normalize(value, channels_.gain[c], channels_.bias[c]);
    }
  }
}

}  // namespace retinasdk::cpu
