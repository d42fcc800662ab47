// The conversion of camera and decoder frames to RGB on the CPU.
#include "cpu/kernels_cpu.h"
#include "math/color_math.h"

#ifdef RETINASDK_AVX2
#include <immintrin.h>
#endif

namespace retinasdk::cpu {
namespace {

// Converts the pixels of a row from x on.
template <typename Sample>
void convert_plain(const YuvToRgb& rule, const Sample* luma, const Sample* chroma, int x, int width, uint8_t* rgb) {
  for (; x < width; ++x) {
    const int pair = x / 2 * 2;
    const Rgb pixel =
        yuv_to_rgb(rule, sample_value(luma[x]), sample_value(chroma[pair]), sample_value(chroma[pair + 1]));
    for (int c = 0; c < 3; ++c) rgb[3 * x + c] = pixel.channels[c];
  }
}

#ifdef RETINASDK_AVX2
// Returns eight samples from an address on.
RETINASDK_TARGET_AVX2 inline __m256i eight_samples(const uint8_t* from) {
  return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)));
}
RETINASDK_TARGET_AVX2 inline __m256i eight_samples(const uint16_t* from) {
  return _mm256_srli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))), 6);
}

// Puts the four quarters of a vector in the order that instructions need, or leave, which work on its halves apart.
RETINASDK_TARGET_AVX2 inline __m256i inner_swapped(__m256i values) {
  return _mm256_permute4x64_epi64(values, _MM_SHUFFLE(3, 1, 2, 0));
}

RETINASDK_TARGET_AVX2 inline __m256i scaled(__m256i values, int32_t factor) {
  return _mm256_mullo_epi32(values, _mm256_set1_epi32(factor));
}

// Returns every second of the values of two vectors, from the first or the second one on.
template <bool kSecond>
RETINASDK_TARGET_AVX2 inline __m256i every_second(__m256i low, __m256i high) {
  constexpr int order = kSecond ? _MM_SHUFFLE(3, 1, 3, 1) : _MM_SHUFFLE(2, 0, 2, 0);
  const __m256 values = _mm256_shuffle_ps(_mm256_castsi256_ps(low), _mm256_castsi256_ps(high), order);
  return inner_swapped(_mm256_castps_si256(values));
}

// The parts of the sums of sixteen pixels that come from their chroma: each of eight pairs for two pixels.
struct Pairs {
  __m256i first, last;
};

RETINASDK_TARGET_AVX2 inline Pairs for_pixels(__m256i pairs) {
  const __m256i ordered = inner_swapped(pairs);
  return {_mm256_unpacklo_epi32(ordered, ordered), _mm256_unpackhi_epi32(ordered, ordered)};
}

// Returns the gray levels of sixteen sums. Packing limits them to 0..255.
RETINASDK_TARGET_AVX2 inline __m128i gray_levels(__m256i first, __m256i last) {
  const __m256i ordered =
      inner_swapped(_mm256_packs_epi32(_mm256_srai_epi32(first, kColorShift), _mm256_srai_epi32(last, kColorShift)));
  return _mm_packus_epi16(_mm256_castsi256_si128(ordered), _mm256_extracti128_si256(ordered, 1));
}

// Where the bytes of each channel go when sixteen pixels are interleaved: 48 bytes.
struct Places {
  alignas(16) int8_t at[3][3][16];  // By part of the output and channel; -1 gives 0.
};

constexpr Places interleaved() {
  Places places{};
  for (int byte = 0; byte < 48; ++byte) {
    for (int c = 0; c < 3; ++c) {
      places.at[byte / 16][c][byte % 16] = static_cast<int8_t>(byte % 3 == c ? byte / 3 : -1);
    }
  }
  return places;
}

constexpr Places kPlaces = interleaved();

// Converts sixteen pixels at a time. Returns how many are done.
template <typename Sample>
RETINASDK_TARGET_AVX2 int convert_avx2(const YuvToRgb& rule, const Sample* luma, const Sample* chroma, int width,
                                       uint8_t* rgb) {
  const __m256i black = _mm256_set1_epi32(rule.black), gray = _mm256_set1_epi32(rule.gray);
  const __m256i half = _mm256_set1_epi32(1 << (kColorShift - 1));
  int x = 0;
  for (; x + 16 <= width; x += 16) {
    const __m256i sums[2] = {
        _mm256_add_epi32(scaled(_mm256_sub_epi32(eight_samples(luma + x), black), rule.luma), half),
        _mm256_add_epi32(scaled(_mm256_sub_epi32(eight_samples(luma + x + 8), black), rule.luma), half)};
    const __m256i low = eight_samples(chroma + x), high = eight_samples(chroma + x + 8);
    const __m256i blue = _mm256_sub_epi32(every_second<false>(low, high), gray);
    const __m256i red = _mm256_sub_epi32(every_second<true>(low, high), gray);
    const Pairs parts[3] = {
        for_pixels(scaled(red, rule.red_by_red)),
        for_pixels(_mm256_sub_epi32(_mm256_setzero_si256(), _mm256_add_epi32(scaled(blue, rule.green_by_blue),
                                                                             scaled(red, rule.green_by_red)))),
        for_pixels(scaled(blue, rule.blue_by_blue))};
    __m128i levels[3];
    for (int c = 0; c < 3; ++c) {
      levels[c] = gray_levels(_mm256_add_epi32(sums[0], parts[c].first), _mm256_add_epi32(sums[1], parts[c].last));
    }
    for (int part = 0; part < 3; ++part) {
      __m128i bytes = _mm_setzero_si128();
      for (int c = 0; c < 3; ++c) {
        const __m128i places = _mm_load_si128(reinterpret_cast<const __m128i*>(kPlaces.at[part][c]));
        bytes = _mm_or_si128(bytes, _mm_shuffle_epi8(levels[c], places));
      }
      _mm_storeu_si128(reinterpret_cast<__m128i*>(rgb + 3 * x + 16 * part), bytes);
    }
  }
  return x;
}
#endif

template <typename Sample>
void convert(const YuvView& frame, const YuvToRgb& rule, uint8_t* rgb) {
  for (int y = 0; y < frame.height; ++y, rgb += static_cast<std::ptrdiff_t>(3) * frame.width) {
    const auto* luma = reinterpret_cast<const Sample*>(frame.luma + y * frame.luma_row_bytes);
    const auto* chroma = reinterpret_cast<const Sample*>(frame.chroma + y / 2 * frame.chroma_row_bytes);
    int x = 0;
#ifdef RETINASDK_AVX2
    if (has_avx2()) x = convert_avx2(rule, luma, chroma, frame.width, rgb);  // uncovered: a machine without AVX2
#endif
    convert_plain(rule, luma, chroma, x, frame.width, rgb);
  }
}

}  // namespace

void yuv_to_rgb(const YuvView& frame, uint8_t* rgb) {
  if (frame.format == PixelFormat::kNv12) {
    convert<uint8_t>(frame, yuv_to_rgb_rule(frame.matrix, frame.full_range, 8), rgb);
  } else {
    convert<uint16_t>(frame, yuv_to_rgb_rule(frame.matrix, frame.full_range, 10), rgb);
  }
}

}  // namespace retinasdk::cpu
