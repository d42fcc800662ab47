// Compares Winograd convolutions with direct convolutions in float64.
//
// Buffers are exactly as large as the headers require, so that the address sanitizer detects any access beyond them.
#pragma once

#include <algorithm>
#include <cmath>
#include <memory>
#include <vector>

#include "check.h"
#include "convolution/winograd_conv.h"
#include "convolution_properties.h"
#include "random.h"
#include "tested_kernels.h"

namespace winograd_tests {

using convolution_tests::in_threads;
using convolution_tests::same_bits;
using convolution_tests::values;
using retinasdk::Addition;
using retinasdk::kBlock;
using retinasdk::Layout;

// A convolution with its images, all planar.
struct Case {
  int batch, in, out, height, width, patch;
  Addition addition;
  int added_height, added_width;
  retinasdk::Clamp clamp;
  Layout output;
  std::vector<float> input, weights, bias, added;  // Bias and added image may be empty.
};

inline size_t size_of(int a, int b, int c, int d) {
  return static_cast<size_t>(a) * static_cast<size_t>(b) * static_cast<size_t>(c) * static_cast<size_t>(d);
}

// small: for fuzzers, which run many cases.
inline Case make_case(Random& random, bool small = false) {
  Case made{};
  made.batch = random.integer(1, 3);
  made.in = random.integer(1, small ? 20 : 40);
  made.out = random.integer(1, small ? 20 : 90);
  made.height = random.integer(1, small ? 14 : 30);
  made.width = random.integer(1, small ? 14 : 30);
  if (!small && random.chance(8)) {  // Many patches, so that each thread has blocks of its own.
    made.batch = 1;
    made.height = random.integer(90, 130);
    made.width = random.integer(90, 130);
  }
  if (!small && random.chance(8)) made.in = random.integer(300, 600);
  made.patch = random.chance(2) ? 6 : 4;
  made.addition = static_cast<Addition>(random.integer(0, 2));
  const bool upsampled = made.addition == Addition::kUpsampled;
  made.added_height = upsampled ? random.integer(1, made.height) : made.height;
  made.added_width = upsampled ? random.integer(1, made.width) : made.width;
  if (random.chance(2)) made.clamp.low = 0.0f;
  if (random.chance(3)) made.clamp.high = random.real(0, 6);
  made.output = random.chance(3) ? Layout::kPlanar : Layout::kBlocked;
  made.input = values(random, size_of(made.batch, made.in, made.height, made.width));
  made.weights = values(random, size_of(made.out, made.in, 3, 3));
  if (random.chance(2)) made.bias = values(random, static_cast<size_t>(made.out));
  if (made.addition != Addition::kNone) {
    made.added = values(random, size_of(made.batch, made.out, made.added_height, made.added_width));
  }
  return made;
}

inline std::vector<float> blocked(const std::vector<float>& planar, int batch, int channels, int height, int width) {
  const int blocks = retinasdk::blocks_of(channels);
  std::vector<float> made(size_of(batch, blocks * kBlock, height, width));
  const size_t pixels = size_of(1, 1, height, width);
  for (int image = 0; image < batch; ++image) {
    for (int channel = 0; channel < channels; ++channel) {
      const float* from = planar.data() + size_of(image * channels + channel, 1, height, width);
      float* to = made.data() + size_of(image * blocks + channel / kBlock, kBlock, height, width) + channel % kBlock;
      for (size_t pixel = 0; pixel < pixels; ++pixel) to[pixel * kBlock] = from[pixel];
    }
  }
  return made;
}

// Runs the convolution, with some threads. Returns the output as it is.
inline std::vector<float> run(const Case& made, const retinasdk::convolution::Kernels& kernels, int threads) {
  const auto weights =
      std::make_shared<const retinasdk::WinogradWeights>(made.weights.data(), made.out, made.in, made.patch);
  const retinasdk::WinogradConv conv(weights, made.bias.empty() ? nullptr : made.bias.data(), made.clamp, made.addition,
                                     made.output, kernels);
  const int channels = made.output == Layout::kPlanar ? made.out : retinasdk::blocks_of(made.out) * kBlock;
  const std::vector<float> input = blocked(made.input, made.batch, made.in, made.height, made.width);
  std::vector<float> added, scratch(conv.scratch_floats(made.batch, made.height, made.width), kNan);
  if (!made.added.empty()) added = blocked(made.added, made.batch, made.out, made.added_height, made.added_width);
  std::vector<float> output(size_of(made.batch, channels, made.height, made.width), kNan);
  retinasdk::ConvCall call;
  call.batch = made.batch;
  call.height = made.height;
  call.width = made.width;
  call.input = input.data();
  call.added = added.empty() ? nullptr : added.data();
  call.added_height = made.added_height;
  call.added_width = made.added_width;
  call.output = output.data();
  call.scratch = scratch.data();
  conv.run(call, in_threads(threads));
  return output;
}

// Computes one output by a direct convolution.
inline double direct(const Case& made, int image, int out, int y, int x) {
  double sum = made.bias.empty() ? 0.0 : made.bias[static_cast<size_t>(out)];
  for (int in = 0; in < made.in; ++in) {
    const float* plane = made.input.data() + size_of(image * made.in + in, 1, made.height, made.width);
    const float* kernel = made.weights.data() + size_of(out * made.in + in, 1, 3, 3);
    for (int dy = -1; dy <= 1; ++dy) {
      for (int dx = -1; dx <= 1; ++dx) {
        if (y + dy < 0 || y + dy >= made.height || x + dx < 0 || x + dx >= made.width) continue;
        sum += double{plane[(y + dy) * made.width + x + dx]} * kernel[(dy + 1) * 3 + dx + 1];
      }
    }
  }
  if (!made.added.empty()) {
    const int from_y = y * made.added_height / made.height, from_x = x * made.added_width / made.width;
    sum += made.added[size_of(image * made.out + out, 1, made.added_height, made.added_width) +
                      static_cast<size_t>(from_y * made.added_width + from_x)];
  }
  return std::min<double>(made.clamp.high, std::max<double>(made.clamp.low, sum));
}

// Where the output of a channel lies in the result of run().
inline size_t index_of(const Case& made, int image, int out, int y, int x) {
  const size_t pixel = static_cast<size_t>(y) * static_cast<size_t>(made.width) + static_cast<size_t>(x);
  if (made.output == Layout::kPlanar) return size_of(image * made.out + out, 1, made.height, made.width) + pixel;
  const int block = image * retinasdk::blocks_of(made.out) + out / kBlock;
  return size_of(block, kBlock, made.height, made.width) + pixel * kBlock + static_cast<size_t>(out % kBlock);
}

// Returns the largest difference to the direct convolution, in units of an output's standard deviation.
inline double largest_error(const Case& made, const std::vector<float>& output, Random& random, int samples) {
  double largest = 0.0;
  for (int i = 0; i < samples; ++i) {
    const int image = random.integer(0, made.batch - 1), out = random.integer(0, made.out - 1);
    const int y = random.integer(0, made.height - 1), x = random.integer(0, made.width - 1);
    const double found = output[index_of(made, image, out, y, x)];
    const double error = std::fabs(found - direct(made, image, out, y, x));
    check(!std::isnan(error), "every output is written");
    largest = std::max(largest, error);
  }
  // An output is a sum of 9 * in products, each with a standard deviation of 1/3.
  return largest / std::sqrt(made.in);
}

inline void check_padding(const Case& made, const std::vector<float>& output) {
  if (made.output == Layout::kPlanar) return;
  for (int image = 0; image < made.batch; ++image) {
    for (int out = made.out; out < retinasdk::blocks_of(made.out) * kBlock; ++out) {
      for (int at = 0; at < made.height * made.width; ++at) {
        const float value = output[index_of(made, image, out, at / made.width, at % made.width)];
        check(value == 0.0f, "channels that fill a block up are zero");
      }
    }
  }
}

// One random convolution with each of the kernels. Returns the largest error.
inline double check_random(Random& random, bool small = false) {
  const Case made = make_case(random, small);
  double largest = 0.0;
  for (const retinasdk::convolution::Kernels* kernels : convolution_tests::float_kernels()) {
    const std::vector<float> output = run(made, *kernels, 1);
    for (const float value : output) check(std::isfinite(value), "every output is written");
    largest = std::max(largest, largest_error(made, output, random, small ? 30 : 200));
    check(largest < 1e-4, "outputs are close to the direct convolution");
    check_padding(made, output);
    for (const int threads : {2, 5}) {
      check(same_bits(output, run(made, *kernels, threads)), "results are equal for any number of threads");
    }
  }
  return largest;
}

inline void check_nan_spreads() {
  for (const int patch : {6, 4}) {
    Random random(5);
    Case made{1, 1, 1, 6, 6, patch, Addition::kNone, 0, 0, {0.0f, 6.0f}, Layout::kPlanar, {}, {}, {}, {}};
    made.input.assign(36, 1.0f);
    made.input[14] = kNan;
    made.weights = values(random, 9);
    for (const retinasdk::convolution::Kernels* kernels : convolution_tests::float_kernels()) {
      check(std::isnan(run(made, *kernels, 1)[14]), "the clamp keeps a NaN");
    }
  }
}

inline void check_refusals() {
  using retinasdk::WinogradWeights;
  check_refused("channels must be 1 to 65536, got 0 out, 8 in", [] { WinogradWeights(nullptr, 0, 8, 6); });
  check_refused("patch must be 6 or 4, got 5", [] { WinogradWeights(nullptr, 8, 8, 5); });
  const std::vector<float> weights(9, 1.0f);
  const retinasdk::WinogradConv conv(std::make_shared<const WinogradWeights>(weights.data(), 1, 1, 6), nullptr, {},
                                     Addition::kNone, Layout::kBlocked);
  const std::vector<retinasdk::ConvCall> calls(9);
  check_refused("there must be at most 8 levels, got 9", [&] { conv.scratch_floats(calls.data(), 9); });
}

// Images of several sizes in one call give what each gives in a call of its own.
inline void check_levels(Random& random) {
  std::vector<Case> levels{make_case(random)};
  levels.front().addition = Addition::kNone;
  levels.front().added.clear();
  const int count = random.integer(1, retinasdk::WinogradConv::kMaxLevels);
  while (static_cast<int>(levels.size()) < count) {
    Case level = levels.front();
    level.batch = random.integer(0, 2);
    level.height = random.integer(1, 20);
    level.width = random.integer(1, 20);
    level.input = values(random, size_of(level.batch, level.in, level.height, level.width));
    levels.push_back(std::move(level));
  }
  const Case& first = levels.front();
  const auto weights =
      std::make_shared<const retinasdk::WinogradWeights>(first.weights.data(), first.out, first.in, first.patch);
  const int channels = first.output == Layout::kPlanar ? first.out : retinasdk::blocks_of(first.out) * kBlock;
  for (const retinasdk::convolution::Kernels* kernels : convolution_tests::float_kernels()) {
    const retinasdk::WinogradConv conv(weights, first.bias.empty() ? nullptr : first.bias.data(), first.clamp,
                                       first.addition, first.output, *kernels);
    std::vector<std::vector<float>> inputs, outputs;
    std::vector<retinasdk::ConvCall> calls;
    for (const Case& level : levels) {
      inputs.push_back(blocked(level.input, level.batch, level.in, level.height, level.width));
      outputs.emplace_back(size_of(level.batch, channels, level.height, level.width), kNan);
      retinasdk::ConvCall& call = calls.emplace_back();
      call.batch = level.batch;
      call.height = level.height;
      call.width = level.width;
      call.input = inputs.back().data();
      call.output = outputs.back().data();
    }
    std::vector<float> scratch(conv.scratch_floats(calls.data(), count), kNan);
    conv.run(calls.data(), count, scratch.data(), in_threads(random.integer(1, 3)));
    for (size_t i = 0; i < levels.size(); ++i) {
      check(same_bits(outputs[i], run(levels[i], *kernels, 1)), "a level does not depend on the others");
    }
  }
}

// All properties, for some rounds of random convolutions.
inline void check_winograd(Random& random, int rounds) {
  check_refusals();
  check_nan_spreads();
  for (int round = 0; round < rounds; ++round) {
    check_random(random);
    check_levels(random);
  }
}

}  // namespace winograd_tests
