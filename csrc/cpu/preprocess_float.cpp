// Resizes with floating-point numbers.
#include "cpu/preprocess_rows.h"
#include "math/resize_math.h"

#ifdef RETINASDK_AVX2
#include <immintrin.h>
#endif

namespace retinasdk::cpu {
namespace {

Taps<float> float_taps(int in, int out, const PreprocessOptions& options) {
  const float step = source_step(in, out, options.source_step);
  return {out, max_taps(step, options.antialias), [&](int i, int* first, float* weights) {
            return source_taps(i, in, step, options.antialias, first, weights);
          }};
}

// Computes the weighted sum of `taps` source rows, for `count` values of each.
void blend_plain(const uint8_t* source, std::ptrdiff_t row_bytes, const float* weights, int taps, int count,
                 float* out) {
  for (int i = 0; i < count; ++i) out[i] = weights[0] * static_cast<float>(source[i]);
  for (int tap = 1; tap < taps; ++tap) {
    source += row_bytes;
    for (int i = 0; i < count; ++i) out[i] += weights[tap] * static_cast<float>(source[i]);
  }
}

// Computes the weighted sums along a blended row, normalizes them, and writes them from column x on.
void resize_plain(const float* row, const ColumnTaps<float>& columns, int x, int end, const Channels& channels,
                  OutputRow out) {
  for (; x < end; ++x) {
    const float* source = row + columns.offsets()[x];
    float sum[3];
    for (int c = 0; c < 3; ++c) sum[c] = columns.weights(0)[x] * source[c];
    for (int tap = 1; tap < columns.count(); ++tap) {
      for (int c = 0; c < 3; ++c) sum[c] += columns.weights(tap)[x] * source[3 * tap + c];
    }
    for (int c = 0; c < 3; ++c) out[c][x] = normalize(sum[channels.source[c]], channels.gain[c], channels.bias[c]);
  }
}

#ifdef RETINASDK_AVX2
constexpr int kRun = 32;  // Values summed at a time. Their sums stay in registers from tap to tap.

// Computes the same sums as blend_plain() in the same order, for whole runs only. Returns how many values are done.
RETINASDK_TARGET_AVX2 int blend_avx2(const uint8_t* source, std::ptrdiff_t row_bytes, const float* weights, int taps,
                                     int count, float* out) {
  int i = 0;
  for (; i + kRun <= count; i += kRun) {
    __m256 sum[kRun / 8];
    for (__m256& part : sum) part = _mm256_setzero_ps();  // 0 + product equals the product, which is never -0.
    for (int tap = 0; tap < taps; ++tap) {
      const uint8_t* values = source + tap * row_bytes + i;
      const __m256 weight = _mm256_set1_ps(weights[tap]);
      for (int part = 0; part < kRun / 8; ++part) {
        const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(values + 8 * part));
        const __m256 product = _mm256_mul_ps(weight, _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes)));
        sum[part] = _mm256_add_ps(sum[part], product);
      }
    }
    for (int part = 0; part < kRun / 8; ++part) _mm256_storeu_ps(out + i + 8 * part, sum[part]);
  }
  return i;
}

// Computes the same sums as resize_plain() in the same order, eight columns at a time. Returns how many are done.
// kTaps: the taps of each column, 0 for any number.
template <int kTaps>
RETINASDK_TARGET_AVX2 int resize_avx2(const float* row, const ColumnTaps<float>& columns, int end,
                                      const Channels& channels, OutputRow out) {
  // In the order of the source channels, which are known when this is compiled: the order is its own inverse.
  float* to[3];
  __m256 gain[3], bias[3];
  for (int c = 0; c < 3; ++c) {
    to[c] = out[channels.source[c]];
    gain[c] = _mm256_set1_ps(channels.gain[channels.source[c]]);
    bias[c] = _mm256_set1_ps(channels.bias[channels.source[c]]);
  }
  const int taps = kTaps == 0 ? columns.count() : kTaps;
  int x = 0;
  for (; x + 8 <= end; x += 8) {
    const int32_t* at = columns.offsets() + x;
    __m256 sums[4];  // The pixels of column x + j in the lower half, those of x + j + 4 in the upper one.
    for (__m256& sum : sums) sum = _mm256_setzero_ps();
    for (int tap = 0; tap < taps; ++tap) {
      const __m256 all = _mm256_loadu_ps(columns.weights(tap) + x);
      const __m256 weights[4] = {_mm256_permute_ps(all, 0x00), _mm256_permute_ps(all, 0x55),
                                 _mm256_permute_ps(all, 0xaa), _mm256_permute_ps(all, 0xff)};
      for (int j = 0; j < 4; ++j) {
        const __m128 low = _mm_loadu_ps(row + at[j] + 3 * tap), high = _mm_loadu_ps(row + at[j + 4] + 3 * tap);
        const __m256 pixels = _mm256_insertf128_ps(_mm256_castps128_ps256(low), high, 1);
        sums[j] = _mm256_add_ps(sums[j], _mm256_mul_ps(weights[j], pixels));
      }
    }
    // From pixels to channels. The fourth value of each pixel belongs to the next one and is dropped.
    const __m256d red_green[2] = {_mm256_castps_pd(_mm256_unpacklo_ps(sums[0], sums[1])),
                                  _mm256_castps_pd(_mm256_unpacklo_ps(sums[2], sums[3]))};
    const __m256d blue[2] = {_mm256_castps_pd(_mm256_unpackhi_ps(sums[0], sums[1])),
                             _mm256_castps_pd(_mm256_unpackhi_ps(sums[2], sums[3]))};
    const __m256 values[3] = {_mm256_castpd_ps(_mm256_unpacklo_pd(red_green[0], red_green[1])),
                              _mm256_castpd_ps(_mm256_unpackhi_pd(red_green[0], red_green[1])),
                              _mm256_castpd_ps(_mm256_unpacklo_pd(blue[0], blue[1]))};
    for (int c = 0; c < 3; ++c) _mm256_storeu_ps(to[c] + x, _mm256_add_ps(_mm256_mul_ps(values[c], gain[c]), bias[c]));
  }
  return x;
}
#endif

void blend(const uint8_t* source, std::ptrdiff_t row_bytes, const float* weights, int taps, int count, float* out) {
  int i = 0;
#ifdef RETINASDK_AVX2
  if (has_avx2()) i = blend_avx2(source, row_bytes, weights, taps, count, out);  // uncovered: a machine without AVX2
#endif
  blend_plain(source + i, row_bytes, weights, taps, count - i, out + i);
}

void resize(const float* row, const ColumnTaps<float>& columns, int count, const Channels& channels, OutputRow out) {
  int x = 0;
#ifdef RETINASDK_AVX2
  const auto kernel = columns.count() == 2 ? resize_avx2<2> : resize_avx2<0>;
  if (has_avx2()) x = kernel(row, columns, count, channels, out);  // uncovered: a machine without AVX2
#endif
  resize_plain(row, columns, x, count, channels, out);
}

}  // namespace

FloatRows::FloatRows(const ImageView& image, const PreprocessOptions& options, const Channels& channels)
    : image_(image),
      channels_(channels),
      width_(options.resized_width),
      rows_(float_taps(image.height, options.resized_height, options)),
      columns_(float_taps(image.width, width_, options)),
      blended_(columns_.row_values(image.width)) {}

void FloatRows::write(int y, OutputRow out) {
  const uint8_t* source = image_.pixels + rows_.first(y) * image_.row_bytes;
  blend(source, image_.row_bytes, rows_.weights(y), rows_.count(y), 3 * image_.width, blended_.data());
  resize(blended_.data(), columns_, width_, channels_, out);
}

}  // namespace retinasdk::cpu
