// Preprocessing on the CPU: blends source rows, then the pixels along each row.
#include <algorithm>
#include <vector>

#include "cpu/kernels_cpu.h"
#include "math/resize_math.h"

#ifdef RETINASDK_AVX2
#include <immintrin.h>
#endif

namespace retinasdk::cpu {
namespace {

// The source channel and the normalization of each output channel.
struct Channels {
  int source[3];
  float gain[3];
  float bias[3];
  bool round_pixels;
};

// The taps of all output positions of one axis, see resize_math.h.
class Axis {
 public:
  Axis(int in, int out, float step, bool antialias) : stride_(static_cast<size_t>(max_taps(step, antialias))) {
    const auto positions = static_cast<size_t>(out);
    first_.resize(positions);
    count_.resize(positions);
    weights_.resize(positions * stride_);
    for (int i = 0; i < out; ++i) {
      const auto at = static_cast<size_t>(i);
      count_[at] = source_taps(i, in, step, antialias, &first_[at], &weights_[at * stride_]);
    }
  }

  int first(int i) const { return first_[static_cast<size_t>(i)]; }
  int count(int i) const { return count_[static_cast<size_t>(i)]; }
  const float* weights(int i) const { return &weights_[static_cast<size_t>(i) * stride_]; }

 private:
  size_t stride_;
  std::vector<int> first_;
  std::vector<int> count_;
  std::vector<float> weights_;
};

// Computes the weighted sum of `taps` source rows, for `count` values of each.
void blend_plain(const uint8_t* source, std::ptrdiff_t row_bytes, const float* weights, int taps, int count,
                 float* out) {
  for (int i = 0; i < count; ++i) out[i] = weights[0] * static_cast<float>(source[i]);
  for (int tap = 1; tap < taps; ++tap) {
    source += row_bytes;
    for (int i = 0; i < count; ++i) out[i] += weights[tap] * static_cast<float>(source[i]);
  }
}

#ifdef RETINASDK_AVX2
constexpr int kRun = 32;  // Values summed at a time. Their sums stay in registers from tap to tap.

// Computes the same sums in the same order, for whole runs only. Returns how many values are done.
__attribute__((target("avx2"))) int blend_avx2(const uint8_t* source, std::ptrdiff_t row_bytes, const float* weights,
                                               int taps, int count, float* out) {
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
#endif

// Computes the weighted sum of whole source rows, for one output row.
void blend_rows(const ImageView& image, const Axis& axis, int row, float* out) {
  const uint8_t* source = image.pixels + axis.first(row) * image.row_bytes;
  const int values = image.width * 3;
  int done = 0;
#ifdef RETINASDK_AVX2
  if (has_avx2()) done = blend_avx2(source, image.row_bytes, axis.weights(row), axis.count(row), values, out);
#endif
  blend_plain(source + done, image.row_bytes, axis.weights(row), axis.count(row), values - done, out + done);
}

#ifdef RETINASDK_AVX2
// Returns the weighted sum of pixels. The fourth value belongs to the next pixel and has no meaning.
inline __m128 blend_pixel(const float* source, const float* weights, int taps) {
  __m128 sum = _mm_mul_ps(_mm_set1_ps(weights[0]), _mm_loadu_ps(source));
  for (int tap = 1; tap < taps; ++tap) {
    sum = _mm_add_ps(sum, _mm_mul_ps(_mm_set1_ps(weights[tap]), _mm_loadu_ps(source + 3 * tap)));
  }
  return sum;
}

// Computes blend_columns() for four pixels at a time, with SSE2, which every x86-64 supports. Returns how many output
// pixels are done.
int blend_columns_sse2(const float* blended, const Axis& columns, int count, const Channels& channels,
                       float* const (&out)[3]) {
  int x = 0;
  for (; x + 4 <= count; x += 4) {
    __m128 sums[4];
    for (int j = 0; j < 4; ++j) {
      sums[j] = blend_pixel(blended + 3 * columns.first(x + j), columns.weights(x + j), columns.count(x + j));
    }
    _MM_TRANSPOSE4_PS(sums[0], sums[1], sums[2], sums[3]);
    for (int c = 0; channels.round_pixels && c < 3; ++c) {  // whole_level() of resize_math.h.
      sums[c] = _mm_cvtepi32_ps(_mm_cvttps_epi32(_mm_add_ps(sums[c], _mm_set1_ps(0.5f))));
    }
    for (int c = 0; c < 3; ++c) {
      const __m128 scaled = _mm_mul_ps(sums[channels.source[c]], _mm_set1_ps(channels.gain[c]));
      _mm_storeu_ps(out[c] + x, _mm_add_ps(scaled, _mm_set1_ps(channels.bias[c])));
    }
  }
  return x;
}
#endif

// Computes the weighted sums along a blended row, normalizes them, and writes one row of each output channel.
void blend_columns(const float* blended, const Axis& columns, int count, const Channels& channels,
                   float* const (&out)[3]) {
  int x = 0;
#ifdef RETINASDK_AVX2
  x = blend_columns_sse2(blended, columns, count, channels, out);
#endif
  for (; x < count; ++x) {
    const float* source = blended + 3 * columns.first(x);
    const float* weights = columns.weights(x);
    float sum[3] = {weights[0] * source[0], weights[0] * source[1], weights[0] * source[2]};
    for (int tap = 1; tap < columns.count(x); ++tap) {
      for (int c = 0; c < 3; ++c) sum[c] += weights[tap] * source[3 * tap + c];
    }
    for (int c = 0; channels.round_pixels && c < 3; ++c) sum[c] = whole_level(sum[c]);
    for (int c = 0; c < 3; ++c) out[c][x] = normalize(sum[channels.source[c]], channels.gain[c], channels.bias[c]);
  }
}

}  // namespace

void preprocess(const ImageView& image, const PreprocessOptions& options, float* output) {
  const float step_y = source_step(image.height, options.resized_height, options.source_step);
  const float step_x = source_step(image.width, options.resized_width, options.source_step);
  const Axis rows(image.height, options.resized_height, step_y, options.antialias);
  const Axis columns(image.width, options.resized_width, step_x, options.antialias);
  const int64_t plane = static_cast<int64_t>(options.padded_height) * options.padded_width;
  Channels channels;
  channels.round_pixels = options.round_pixels;
  for (int c = 0; c < 3; ++c) {
    channels.source[c] = options.reverse_channels ? 2 - c : c;
    channels.gain[c] = normalize_gain(options.std[c]);
    channels.bias[c] = normalize_bias(options.mean[c], options.std[c]);
  }

  // There is one more value, because pixels are read as four values.
  std::vector<float> blended(static_cast<size_t>(image.width) * 3 + 1);
  for (int y = 0; y < options.resized_height; ++y) {
    blend_rows(image, rows, y, blended.data());
    float* out_rows[3];
    for (int c = 0; c < 3; ++c) {
      out_rows[c] = output + c * plane + static_cast<int64_t>(y) * options.padded_width;
    }
    blend_columns(blended.data(), columns, options.resized_width, channels, out_rows);
    for (int c = 0; c < 3; ++c) {
      std::fill(out_rows[c] + options.resized_width, out_rows[c] + options.padded_width, 0.0f);
    }
  }
  for (int c = 0; c < 3; ++c) {
    float* padding = output + c * plane + static_cast<int64_t>(options.resized_height) * options.padded_width;
    std::fill(padding, output + (c + 1) * plane, 0.0f);
  }
}

}  // namespace retinasdk::cpu
