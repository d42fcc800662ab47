#include <algorithm>
#include <vector>

#include "kernels_cpu.h"
#include "resize_math.h"

namespace retinasdk::cpu {
namespace {

// Taps of every output position of one axis.
class Axis {
 public:
  Axis(int in, int out, bool antialias) : stride_(static_cast<size_t>(max_taps(in, out, antialias))) {
    const auto positions = static_cast<size_t>(out);
    first_.resize(positions);
    count_.resize(positions);
    weights_.resize(positions * stride_);
    for (int i = 0; i < out; ++i) {
      const auto at = static_cast<size_t>(i);
      count_[at] = source_taps(i, in, out, antialias, &first_[at], &weights_[at * stride_]);
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

// Weighted sum of whole source rows: contiguous, so compilers vectorise it.
void blend_rows(const ImageView& image, const Axis& axis, int row, std::vector<float>& blended) {
  const int values = image.width * 3;
  float* out = blended.data();
  for (int tap = 0; tap < axis.count(row); ++tap) {
    const uint8_t* source = image.pixels + (axis.first(row) + tap) * image.row_bytes;
    const float weight = axis.weights(row)[tap];
    if (tap == 0) {
      for (int i = 0; i < values; ++i) out[i] = weight * static_cast<float>(source[i]);
    } else {
      for (int i = 0; i < values; ++i) out[i] += weight * static_cast<float>(source[i]);
    }
  }
}

}  // namespace

void preprocess(const ImageView& image, const PreprocessOptions& options, float* output) {
  const Axis rows(image.height, options.resized_height, options.antialias);
  const Axis columns(image.width, options.resized_width, options.antialias);
  const int64_t plane = static_cast<int64_t>(options.padded_height) * options.padded_width;
  int source_channel[3];
  float gain[3];
  float bias[3];
  for (int c = 0; c < 3; ++c) {
    source_channel[c] = options.reverse_channels ? 2 - c : c;
    gain[c] = 1.0f / options.std[c];
    bias[c] = -options.mean[c] / options.std[c];
  }

  std::vector<float> blended(static_cast<size_t>(image.width) * 3);
  for (int y = 0; y < options.resized_height; ++y) {
    blend_rows(image, rows, y, blended);
    float* out_rows[3];
    for (int c = 0; c < 3; ++c) {
      out_rows[c] = output + c * plane + static_cast<int64_t>(y) * options.padded_width;
    }
    for (int x = 0; x < options.resized_width; ++x) {
      const float* source = blended.data() + 3 * columns.first(x);
      const float* weights = columns.weights(x);
      float sum[3] = {weights[0] * source[0], weights[0] * source[1], weights[0] * source[2]};
      for (int tap = 1; tap < columns.count(x); ++tap) {
        for (int c = 0; c < 3; ++c) sum[c] += weights[tap] * source[3 * tap + c];
      }
      for (int c = 0; c < 3; ++c) out_rows[c][x] = normalise(sum[source_channel[c]], gain[c], bias[c]);
    }
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
