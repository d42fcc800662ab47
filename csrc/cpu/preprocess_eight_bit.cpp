// Resizes as Pillow and OpenCV resize images of 8 bits. All arithmetic is in whole numbers, see Note [Eight bits].
#include <algorithm>
#include <cstring>

#include "cpu/preprocess_rows.h"
#include "math/resize_math.h"

#ifdef RETINASDK_AVX2
#include <immintrin.h>
#endif

namespace retinasdk::cpu {
namespace {

Taps<int32_t> whole_taps(int in, int out, const PreprocessOptions& options, bool is_row) {
  const double step = opencv_step(in, out, options.source_step);
  return {out, max_whole_taps(in, out, options.antialias), [&](int i, int* first, int32_t* weights) {
            WholeTaps taps{0, 0, weights};
            if (options.antialias) {
              pillow_taps(i, in, out, taps);
            } else {
              opencv_taps(i, in, step, is_row, taps);
            }
            *first = taps.first;
            return taps.count;
          }};
}

// Returns how many columns are resized and blended at a time: all, unless the rows of one output row would take more
// than 64 MiB. A tall image that becomes low and wide would take gigabytes otherwise.
int strip_columns(int rows, int width) {
  constexpr int64_t kMostValues = (int64_t{64} << 20) / static_cast<int64_t>(sizeof(int16_t));
  return static_cast<int>(std::clamp<int64_t>(kMostValues / (int64_t{3} * rows), 8, std::max(8, width)));
}

// The kernels below are templates, kPillow: whether they compute as Pillow does, otherwise as OpenCV.

// Computes the weighted sums along a source row in the columns first + x to first + count - 1. Writes what is kept of
// them to (3, count) values.
template <bool kPillow>
void resize_plain(const uint8_t* row, const ColumnTaps<int32_t>& columns, int first, int x, int count, int16_t* out) {
  for (; x < count; ++x) {
    const uint8_t* source = row + columns.offsets()[first + x];
    int32_t sum[3] = {};
    for (int tap = 0; tap < columns.count(); ++tap) {
      for (int c = 0; c < 3; ++c) sum[c] += columns.weights(tap)[first + x] * source[3 * tap + c];
    }
    for (int c = 0; c < 3; ++c) {
      out[c * count + x] = static_cast<int16_t>(kPillow ? pillow_rounded(sum[c]) : opencv_kept(sum[c]));
    }
  }
}

// Blends values of resized rows from x on, and writes the normalized pixels.
template <bool kPillow>
void blend_plain(const int16_t* const* rows, const int32_t* weights, int taps, int x, int count, float gain, float bias,
                 float* out) {
  for (; x < count; ++x) {
    int32_t value = 0;
    if (kPillow) {
      for (int tap = 0; tap < taps; ++tap) value += weights[tap] * rows[tap][x];
      value = pillow_rounded(value);
    } else {
      value = opencv_rounded(rows[0][x], rows[taps - 1][x], weights);
    }
    out[x] = normalize(static_cast<float>(value), gain, bias);
  }
}

#ifdef RETINASDK_AVX2
RETINASDK_TARGET_AVX2 inline __m256i pillow_rounded(__m256i sum) {
  const __m256i half = _mm256_set1_epi32(1 << (kPillowBits - 1));
  return _mm256_min_epi32(_mm256_srai_epi32(_mm256_add_epi32(sum, half), kPillowBits), _mm256_set1_epi32(255));
}

// Reads a pixel, and the first value of the next one.
inline int32_t pixel_at(const uint8_t* source) {
  int32_t pixel;
  std::memcpy(&pixel, source, sizeof pixel);
  return pixel;
}

// Computes resize_plain(), eight columns at a time. Returns how many are done.
template <bool kPillow>
RETINASDK_TARGET_AVX2 int resize_avx2(const uint8_t* row, const ColumnTaps<int32_t>& columns, int first, int count,
                                      int16_t* out) {
  const __m256i byte = _mm256_set1_epi32(255);
  int x = 0;
  for (; x + 8 <= count; x += 8) {
    const int32_t* at = columns.offsets() + first + x;
    __m256i sums[3];
    for (__m256i& sum : sums) sum = _mm256_setzero_si256();
    for (int tap = 0; tap < columns.count(); ++tap) {
      const uint8_t* source = row + 3 * tap;
      const __m256i weights = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(columns.weights(tap) + first + x));
      const __m256i pixels = _mm256_setr_epi32(
          pixel_at(source + at[0]), pixel_at(source + at[1]), pixel_at(source + at[2]), pixel_at(source + at[3]),
          pixel_at(source + at[4]), pixel_at(source + at[5]), pixel_at(source + at[6]), pixel_at(source + at[7]));
      const __m256i values[3] = {_mm256_and_si256(pixels, byte), _mm256_and_si256(_mm256_srli_epi32(pixels, 8), byte),
                                 _mm256_and_si256(_mm256_srli_epi32(pixels, 16), byte)};
      for (int c = 0; c < 3; ++c) sums[c] = _mm256_add_epi32(sums[c], _mm256_mullo_epi32(weights, values[c]));
    }
    for (int c = 0; c < 3; ++c) {
      const __m256i kept = kPillow ? pillow_rounded(sums[c]) : _mm256_srai_epi32(sums[c], 4);  // As opencv_kept().
      const __m128i packed = _mm_packs_epi32(_mm256_castsi256_si128(kept), _mm256_extracti128_si256(kept, 1));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(out + c * count + x), packed);
    }
  }
  return x;
}

// Computes blend_plain(), eight columns at a time. Returns how many are done.
template <bool kPillow>
RETINASDK_TARGET_AVX2 int blend_avx2(const int16_t* const* rows, const int32_t* weights, int taps, int count,
                                     float gain, float bias, float* out) {
  const auto values = [](const int16_t* from) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(from)); };
  const __m256 gains = _mm256_set1_ps(gain), biases = _mm256_set1_ps(bias);
  int x = 0;
  for (; x + 8 <= count; x += 8) {
    __m256i pixels;
    if (kPillow) {
      pixels = _mm256_setzero_si256();
      for (int tap = 0; tap < taps; ++tap) {
        const __m256i row = _mm256_cvtepi16_epi32(values(rows[tap] + x));
        pixels = _mm256_add_epi32(pixels, _mm256_mullo_epi32(_mm256_set1_epi32(weights[tap]), row));
      }
      pixels = pillow_rounded(pixels);
    } else {
      // The upper 16 bits of a product of 16 bits are what opencv_rounded() shifts down.
      const __m128i upper = _mm_mulhi_epi16(_mm_set1_epi16(static_cast<int16_t>(weights[0])), values(rows[0] + x));
      const __m128i lower =
          _mm_mulhi_epi16(_mm_set1_epi16(static_cast<int16_t>(weights[1])), values(rows[taps - 1] + x));
      const __m128i sum = _mm_add_epi16(_mm_add_epi16(upper, lower), _mm_set1_epi16(2));
      pixels = _mm256_cvtepi16_epi32(_mm_srai_epi16(sum, 2));
    }
    _mm256_storeu_ps(out + x, _mm256_add_ps(_mm256_mul_ps(_mm256_cvtepi32_ps(pixels), gains), biases));
  }
  return x;
}
#endif

template <bool kPillow>
void resize(const uint8_t* row, const ColumnTaps<int32_t>& columns, int first, int count, int16_t* out) {
  int x = 0;
#ifdef RETINASDK_AVX2
  if (has_avx2()) x = resize_avx2<kPillow>(row, columns, first, count, out);  // uncovered: a machine without AVX2
#endif
  resize_plain<kPillow>(row, columns, first, x, count, out);
}

template <bool kPillow>
void blend(const int16_t* const* rows, const int32_t* weights, int taps, int count, float gain, float bias,
           float* out) {
  int x = 0;
#ifdef RETINASDK_AVX2
  // uncovered: a machine without AVX2
  if (has_avx2()) x = blend_avx2<kPillow>(rows, weights, taps, count, gain, bias, out);
#endif
  blend_plain<kPillow>(rows, weights, taps, x, count, gain, bias, out);
}

}  // namespace

EightBitRows::EightBitRows(const ImageView& image, const PreprocessOptions& options, const Channels& channels)
    : image_(image),
      channels_(channels),
      width_(options.resized_width),
      antialias_(options.antialias),
      rows_(whole_taps(image.height, options.resized_height, options, true)),
      columns_(whole_taps(image.width, width_, options, false)),
      strip_(strip_columns(rows_.most(), width_)),
      source_(columns_.row_values(image.width)),
      kept_(static_cast<size_t>(rows_.most()), -1),
      resized_(kept_.size() * 3 * static_cast<size_t>(strip_)),
      taps_(kept_.size()) {}

void EightBitRows::write(int y, OutputRow out) {
  const auto blend_row = antialias_ ? blend<true> : blend<false>;
  const int taps = rows_.count(y);
  for (int first = 0; first < width_; first += strip_) {
    const int count = std::min(strip_, width_ - first);
    if (count < width_) std::fill(kept_.begin(), kept_.end(), -1);  // They are of another strip.
    for (int tap = 0; tap < taps; ++tap) {
      taps_[static_cast<size_t>(tap)] = resized_row(rows_.first(y) + tap, first, count);
    }
    for (int source = 0; source < 3; ++source) {
      const int c = channels_.source[source];  // The output channel: the order of channels is its own inverse.
      blend_row(taps_.data(), rows_.weights(y), taps, count, channels_.gain[c], channels_.bias[c], out[c] + first);
      for (int tap = 0; tap < taps; ++tap) taps_[static_cast<size_t>(tap)] += count;  // To the next channel.
    }
  }
}

// Returns the columns of a strip of a source row: (3, count). Neighboring output rows share most of theirs, so the last
// ones are kept.
const int16_t* EightBitRows::resized_row(int row, int first, int count) {
  const size_t place = static_cast<size_t>(row) % kept_.size();
  int16_t* values = resized_.data() + place * 3 * static_cast<size_t>(strip_);
  if (kept_[place] != row) {
    std::memcpy(source_.data(), image_.pixels + row * image_.row_bytes, 3 * static_cast<size_t>(image_.width));
    const auto resize_row = antialias_ ? resize<true> : resize<false>;
    resize_row(source_.data(), columns_, first, count, values);
    kept_[place] = row;
  }
  return values;
}

}  // namespace retinasdk::cpu
