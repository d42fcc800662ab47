// Preprocessing on the CPU: writes the network's input row by row. How rows are resized: preprocess_rows.h.
#include <algorithm>

#include "cpu/preprocess_rows.h"
#include "cpu/shares.h"
#include "math/resize_math.h"

namespace retinasdk::cpu {
namespace {

// Whether each output pixel is the source pixel at the same place: by every kind of resize, if the size stays the same.
bool keeps_pixels(const ImageView& image, const PreprocessOptions& options) {
  return options.resized_height == image.height && options.resized_width == image.width &&
         (options.source_step == 0.0 || options.source_step == 1.0);
}

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
// Values of a resize take about four times as long as those that are kept.
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
