// Preprocessing on the CPU: blends source rows, then the pixels along each row.
#include <algorithm>
#include <vector>

#include "cpu/kernels_cpu.h"
#include "cpu/shares.h"
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
    for (const int count : count_) {
      if (count != count_.front()) break;
      ++equal_;
    }
  }

  // Returns how many positions, from the first one on, have as many taps as the first one.
  int equal() const { return equal_; }
  int first(int i) const { return first_[static_cast<size_t>(i)]; }
  int count(int i) const { return count_[static_cast<size_t>(i)]; }
  const float* weights(int i) const { return &weights_[static_cast<size_t>(i) * stride_]; }

 private:
  size_t stride_;
  int equal_ = 0;
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
  // uncovered: a machine without AVX2
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

// Computes four pixels at a time from x on, while there are four before `end`. Returns where it stopped. kTaps: the
// taps of each pixel, 0 for any number.
template <int kTaps>
int blend_fours(int x, int end, const float* blended, const Axis& columns, const Channels& channels,
                float* const (&out)[3]) {
  // Channels in the order of the source, so that the sums are not indexed by what only run time knows: the order of
  // channels is its own inverse.
  float* to[3];
  __m128 gain[3], bias[3];
  for (int c = 0; c < 3; ++c) {
    to[c] = out[channels.source[c]];
    gain[c] = _mm_set1_ps(channels.gain[channels.source[c]]);
    bias[c] = _mm_set1_ps(channels.bias[channels.source[c]]);
  }
  for (; x + 4 <= end; x += 4) {
    __m128 sums[4];
    for (int j = 0; j < 4; ++j) {
      const int taps = kTaps == 0 ? columns.count(x + j) : kTaps;
      sums[j] = blend_pixel(blended + 3 * columns.first(x + j), columns.weights(x + j), taps);
    }
    _MM_TRANSPOSE4_PS(sums[0], sums[1], sums[2], sums[3]);
    for (int c = 0; c < 3; ++c) _mm_storeu_ps(to[c] + x, _mm_add_ps(_mm_mul_ps(sums[c], gain[c]), bias[c]));
  }
  return x;
}

// Computes blend_columns() with SSE2, which every x86-64 supports. Returns how many output pixels are done.
int blend_columns_sse2(const float* blended, const Axis& columns, int count, const Channels& channels,
                       float* const (&out)[3]) {
  const int equal = std::min(columns.equal(), count);
  int x = 0;
  if (columns.count(0) == 2) x = blend_fours<2>(x, equal, blended, columns, channels, out);
  return blend_fours<0>(x, count, blended, columns, channels, out);
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
    for (int c = 0; c < 3; ++c) out[c][x] = normalize(sum[channels.source[c]], channels.gain[c], channels.bias[c]);
  }
}

// The taps of all output positions of one axis with whole weights, see Note [Eight bits].
class WholeAxis {
 public:
  WholeAxis(int in, int out, const PreprocessOptions& options, bool is_row)
      : stride_(static_cast<size_t>(max_whole_taps(in, out, options.antialias))),
        taps_(static_cast<size_t>(out)),
        weights_(taps_.size() * stride_) {
    for (int i = 0; i < out; ++i) {
      WholeTaps& taps = taps_[static_cast<size_t>(i)];
      taps.weights = &weights_[static_cast<size_t>(i) * stride_];
      if (options.antialias) {
        pillow_taps(i, in, out, taps);
      } else {
        opencv_taps(i, in, opencv_step(in, out, options.source_step), is_row, taps);
      }
    }
  }

  WholeAxis(const WholeAxis&) = delete;  // The taps point into the weights.

  const WholeTaps& operator[](int i) const { return taps_[static_cast<size_t>(i)]; }
  size_t most() const { return stride_; }

 private:
  size_t stride_;
  std::vector<WholeTaps> taps_;
  std::vector<int32_t> weights_;
};

// Resizes one source row along itself: (count, 3) whole numbers.
void resize_row(const uint8_t* source, const WholeAxis& columns, int count, bool antialias, int32_t* out) {
  for (int x = 0; x < count; ++x) {
    const WholeTaps& taps = columns[x];
    const uint8_t* pixel = source + 3 * taps.first;
    int32_t sum[3] = {};
    for (int tap = 0; tap < taps.count; ++tap) {
      for (int c = 0; c < 3; ++c) sum[c] += taps.weights[tap] * pixel[3 * tap + c];
    }
    for (int c = 0; c < 3; ++c) out[3 * x + c] = antialias ? pillow_rounded(sum[c]) : sum[c];
  }
}

// Writes one row of each output channel from whole pixel values.
void write_whole_row(const std::vector<int32_t>& values, int count, const Channels& channels, float* const (&out)[3]) {
  for (int c = 0; c < 3; ++c) {
    for (int x = 0; x < count; ++x) {
      const auto value = static_cast<float>(values[static_cast<size_t>(3 * x + channels.source[c])]);
      out[c][x] = normalize(value, channels.gain[c], channels.bias[c]);
    }
  }
}

// Computes output rows one after the other as Pillow and OpenCV compute 8-bit images.
class EightBitRows {
 public:
  EightBitRows(const ImageView& image, const PreprocessOptions& options, const Channels& channels)
      : image_(image),
        channels_(channels),
        width_(options.resized_width),
        antialias_(options.antialias),
        rows_(image.height, options.resized_height, options, true),
        columns_(image.width, options.resized_width, options, false),
        kept_(kept_rows(rows_.most(), static_cast<size_t>(3 * width_))),
        resized_(kept_.size() * static_cast<size_t>(3 * width_)),
        blended_(static_cast<size_t>(3 * width_)) {
    std::fill(kept_.begin(), kept_.end(), -1);
  }

  void write(int y, float* const (&out)[3]) {
    const WholeTaps& taps = rows_[y];
    if (antialias_) {
      blend_pillow(taps);
    } else {
      blend_opencv(taps);
    }
    write_whole_row(blended_, width_, channels_, out);
  }

 private:
  // Returns how many resized rows a thread keeps: those of one output row, unless they take more than 64 MiB. Then rows
  // are resized again where output rows share them. A tall image that becomes low and wide would take gigabytes
  // otherwise.
  static size_t kept_rows(size_t most, size_t values) {
    constexpr size_t kMostValues = size_t{16} << 20;
    return std::min(most, std::max<size_t>(2, kMostValues / values));
  }

  void blend_pillow(const WholeTaps& taps) {
    std::fill(blended_.begin(), blended_.end(), 0);
    for (int tap = 0; tap < taps.count; ++tap) {
      const int32_t* row = resized_row(taps.first + tap);
      const int32_t weight = taps.weights[tap];
      for (size_t i = 0; i < blended_.size(); ++i) blended_[i] += weight * row[i];
    }
    for (int32_t& value : blended_) value = pillow_rounded(value);
  }

  void blend_opencv(const WholeTaps& taps) {
    const int32_t* upper = resized_row(taps.first);
    const int32_t* lower = resized_row(taps.first + taps.count - 1);
    for (size_t i = 0; i < blended_.size(); ++i) blended_[i] = opencv_rounded(upper[i], lower[i], taps.weights);
  }

  // Returns a source row, resized. Neighboring output rows share most of theirs, so the last ones are kept.
  const int32_t* resized_row(int row) {
    const size_t place = static_cast<size_t>(row) % kept_.size();
    int32_t* values = resized_.data() + place * static_cast<size_t>(3 * width_);
    if (kept_[place] != row) {
      resize_row(image_.pixels + row * image_.row_bytes, columns_, width_, antialias_, values);
      kept_[place] = row;
    }
    return values;
  }

  const ImageView& image_;
  const Channels& channels_;
  int width_;
  bool antialias_;
  WholeAxis rows_, columns_;
  std::vector<int> kept_;  // Which source row each place holds, or -1.
  std::vector<int32_t> resized_, blended_;
};

// Computes output rows one after the other with floating-point numbers.
class FloatRows {
 public:
  FloatRows(const ImageView& image, const PreprocessOptions& options, const Channels& channels)
      : image_(image),
        channels_(channels),
        width_(options.resized_width),
        rows_(image.height, options.resized_height,
              source_step(image.height, options.resized_height, options.source_step), options.antialias),
        columns_(image.width, width_, source_step(image.width, width_, options.source_step), options.antialias),
        blended_(static_cast<size_t>(image.width) * 3 + 1) {}  // One more, because pixels are read as four values.

  void write(int y, float* const (&out)[3]) {
    blend_rows(image_, rows_, y, blended_.data());
    blend_columns(blended_.data(), columns_, width_, channels_, out);
  }

 private:
  const ImageView& image_;
  const Channels& channels_;
  int width_;
  Axis rows_, columns_;
  std::vector<float> blended_;
};

#ifdef RETINASDK_AVX2
// Computes eight pixels at a time. Returns how many are done.
__attribute__((target("avx2"))) int normalize_eights(const uint8_t* source, int count, const Channels& channels,
                                                     float* const (&out)[3]) {
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
#endif

// Whether each output pixel is the source pixel at the same place: by every kind of resize, if the size stays the same.
bool keeps_pixels(const ImageView& image, const PreprocessOptions& options) {
  return options.resized_height == image.height && options.resized_width == image.width &&
         (options.source_step == 0.0 || options.source_step == 1.0);
}

// Normalizes the pixels of an image that keeps its size: a tile, or a frame of a camera that was set to it.
class SameRows {
 public:
  SameRows(const ImageView& image, const Channels& channels) : image_(image), channels_(channels) {}

  void write(int y, float* const (&out)[3]) {
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

 private:
  const ImageView& image_;
  const Channels& channels_;
};

// Writes the output rows first to end - 1, and zeros in the padding.
template <typename Rows>
void write_rows(Rows rows, const PreprocessOptions& options, int first, int end, float* output) {
  const int64_t plane = static_cast<int64_t>(options.padded_height) * options.padded_width;
  for (int y = first; y < end; ++y) {
    float* out_rows[3];
    for (int c = 0; c < 3; ++c) out_rows[c] = output + c * plane + static_cast<int64_t>(y) * options.padded_width;
    const bool is_padding = y >= options.resized_height;
    if (!is_padding) rows.write(y, out_rows);
    for (float* row : out_rows) {
      std::fill(row + (is_padding ? 0 : options.resized_width), row + options.padded_width, 0.0f);
    }
  }
}

// Returns how many of some threads are worth their start, which takes 0.1 to 0.4 ms: each has 0.5 ms of work or more.
// Values of a resize take about three times as long as those that are kept.
int useful_threads(const ImageView& image, const PreprocessOptions& options, int threads) {
  constexpr int64_t kLeastResized = 1 << 21, kLeastKept = 1 << 23, kMost = 4;
  const int64_t least = keeps_pixels(image, options) ? kLeastKept : kLeastResized;  // Values of a thread.
  const int64_t read = int64_t{3} * image.height * image.width;
  const int64_t written = int64_t{3} * options.padded_height * options.padded_width;
  return static_cast<int>(std::clamp<int64_t>((read + written) / least, 1, std::min<int64_t>(threads, kMost)));
}

}  // namespace

void preprocess(const ImageView& image, const PreprocessOptions& options, float* output, int threads) {
  Channels channels;
  for (int c = 0; c < 3; ++c) {
    channels.source[c] = options.reverse_channels ? 2 - c : c;
    channels.gain[c] = normalize_gain(options.std[c]);
    channels.bias[c] = normalize_bias(options.mean[c], options.std[c]);
  }
  in_shares(options.padded_height, useful_threads(image, options, threads), [&](int first, int end) {
    if (keeps_pixels(image, options)) {
      write_rows(SameRows(image, channels), options, first, end, output);
    } else if (options.eight_bit) {
      write_rows(EightBitRows(image, options, channels), options, first, end, output);
    } else {
      write_rows(FloatRows(image, options, channels), options, first, end, output);
    }
  });
}

}  // namespace retinasdk::cpu
