#include "convolution/int8_weights.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <stdexcept>
#include <string>

#include "convolution/blocked.h"

namespace retinasdk::int8 {
namespace {

constexpr int kMostProduct = 255 * 128;  // Of a code minus its zero, and a weight.
constexpr int kMostUnits = 16319;        // 127 high units and 63 more.

std::size_t size(int value) { return static_cast<std::size_t>(value); }

// Throws std::invalid_argument for shapes that are not supported.
void require_weights(int out, int in, int height, int width) {
  require_channels(out, in);
  if (height < 1 || height > 31 || width < 1 || width > 31) {
    throw std::invalid_argument("the sides of a kernel must be 1 to 31, got " + std::to_string(height) + " x " +
                                std::to_string(width));
  }
  if (static_cast<int64_t>(height * width) * in > 32768) {  // 32768 * 255 * 128 is less than 2^30.
    throw std::invalid_argument("an output must have at most 32768 weights, got " + std::to_string(height * width) +
                                " * " + std::to_string(in));
  }
}

}  // namespace

int32_t start_of(int32_t bias, int zero, int32_t weight_sum, int weight_count) {
  const int64_t most = std::numeric_limits<int32_t>::max() - int64_t{weight_count} * kMostProduct;
  if (bias < -most || bias > most) {
    throw std::invalid_argument("the bias of an output with " + std::to_string(weight_count) +
                                " weights must be within " + std::to_string(most) + " steps, got " +
                                std::to_string(bias));
  }
  // The sums are right if they wrap on the way, as long as the end fits.
  return static_cast<int32_t>(static_cast<uint32_t>(bias) -
                              static_cast<uint32_t>(zero) * static_cast<uint32_t>(weight_sum));
}

std::vector<int16_t> whole_numbers(const float* weights, int out, int in, int height, int width) {
  require_weights(out, in, height, width);
  std::vector<int16_t> whole(size(out) * size(in) * size(height) * size(width));
  for (std::size_t i = 0; i < whole.size(); ++i) {
    if (!(weights[i] >= -128 && weights[i] <= 127) || weights[i] != std::nearbyint(weights[i])) {
      throw std::invalid_argument("weights must be whole numbers from -128 to 127, got " + std::to_string(weights[i]));
    }
    whole[i] = static_cast<int16_t>(weights[i]);
  }
  return whole;
}

PackedWeights::PackedWeights(const float* weights, int out, int in, int high, int wide, const Kernels& with)
    : PackedWeights(whole_numbers(weights, out, in, high, wide), out, in, high, wide, with) {}

PackedWeights::PackedWeights(const std::vector<int16_t>& weights, int out, int in, int high, int wide,
                             const Kernels& with)
    : kernels(with), out_channels(out), in_channels(in), height(high), width(wide) {
  const int taps = high * wide, dot = kernels.dot, in_groups = groups_of(in, kernels), blocks = blocks_of(out);
  const int group_count = (blocks + kMostBlocks - 1) / kMostBlocks;
  channel_sums.resize(size(blocks) * kBlock);
  values.resize(size(taps) * size(in_groups) * size(blocks) * kVectorBytes);
  int8_t* begin = values.data();
  int first = 0;
  for (int g = 0; g < group_count; ++g) {
    const int end = blocks * (g + 1) / group_count;
    const WeightSteps steps(kernels.one_block, in_groups, end - first);
    groups.push_back(end - first);
    offsets.push_back(static_cast<std::size_t>(begin - values.data()));
    for (int t = 0; t < taps; ++t, begin += in_groups * (end - first) * kVectorBytes) {
      for (int o = first * kBlock; o < std::min(end * kBlock, out); ++o) {
        for (int i = 0; i < in; ++i) {
          const int16_t weight = weights[(size(o) * size(in) + size(i)) * size(taps) + size(t)];
          int8_t* vector = begin + (o / kBlock - first) * steps.block + i / dot * steps.group;
          set_weight(vector, dot, o % kBlock, i % dot, weight);
          channel_sums[size(o)] += weight;
        }
      }
    }
    first = end;
  }
}

std::vector<int32_t> PackedWeights::starts(int in_zero, const int32_t* bias) const {
  std::vector<int32_t> made(channel_sums.size());
  for (std::size_t i = 0; i < made.size(); ++i) {
    const int32_t offset = bias == nullptr || i >= size(out_channels) ? 0 : bias[i];
    made[i] = start_of(offset, in_zero - kernels.code_offset, channel_sums[i], in_channels * height * width);
  }
  return made;
}

struct FineWeights::Units {
  std::vector<int16_t> values;  // (out, in, height, width), or (2, out, in, height, width): high and low parts.
  std::vector<float> scales;
  bool are_split;

  Units(const float* weights, int out, int in, int height, int width, const Kernels& kernels)
      : are_split(kernels.dot == 4) {
    require_weights(out, in, height, width);
    const std::size_t per_channel = size(in) * size(height) * size(width), count = size(out) * per_channel;
    values.resize(count);
    for (std::size_t first = 0; first < count; first += per_channel) {
      float most = 0;
      double total = 0;
      for (std::size_t i = first; i < first + per_channel; ++i) {
        if (!std::isfinite(weights[i])) throw std::invalid_argument("weights must be finite");
        most = std::max(most, std::fabs(weights[i]));
        total += std::fabs(static_cast<double>(weights[i]));
      }
      // So coarse that no weight has more than 15 bits, and no sum, with weights that are rounded up, more than 32.
      const auto unit = static_cast<float>(std::max({static_cast<double>(most) / kMostUnits, total / kMostTotal,
                                                     static_cast<double>(std::numeric_limits<float>::min())}));
      for (std::size_t i = first; i < first + per_channel; ++i) {
        values[i] = static_cast<int16_t>(std::nearbyint(static_cast<double>(weights[i]) / static_cast<double>(unit)));
      }
      scales.push_back(unit);
    }
    if (are_split) split();
  }

 private:
  static constexpr double kMostTotal = 8300000;  // 255 * (this + 32768 / 2) is less than 2^31.

  void split() {
    const std::size_t count = values.size();
    values.resize(2 * count);
    for (std::size_t i = 0; i < count; ++i) {
      const int units = values[i];
      const int high = static_cast<int>(std::floor((units + kHighUnit / 2) / static_cast<double>(kHighUnit)));
      values[i] = static_cast<int16_t>(high);
      values[count + i] = static_cast<int16_t>(units - high * kHighUnit);
    }
  }
};

FineWeights::FineWeights(const float* weights, int out, int in, int high, int wide, const Kernels& with)
    : FineWeights(Units(weights, out, in, high, wide, with), out, in, high, wide, with) {}

FineWeights::FineWeights(const Units& units, int out, int in, int high, int wide, const Kernels& with)
    : PackedWeights(units.values, units.are_split ? 2 * out : out, in, high, wide, with), scales(units.scales) {
  // Weights are only equal if their scales are.
  const auto* bytes = reinterpret_cast<const int8_t*>(scales.data());
  values.insert(values.end(), bytes, bytes + scales.size() * sizeof(float));
}

}  // namespace retinasdk::int8
