// Compares the convolutions with direct convolutions in float64.
//
// Buffers are exactly as large as the headers require, so that the address sanitizer detects any access beyond them.
#pragma once

#include <algorithm>
#include <cmath>
#include <memory>
#include <vector>

#include "check.h"
#include "convolution/pointwise.h"
#include "convolution/winograd.h"
#include "convolution/winograd_kernels.h"
#include "random_cases.h"

using retinasdk::ParallelFor;
using retinasdk::WinogradConv;
using retinasdk::WinogradWeights;

struct ConvolutionCase {
  int batch, in, out, height, width;
  bool relu;
  std::vector<float> input, weights, bias;  // The bias may be empty.
};

inline std::vector<float> values(Random& random, int count) {
  std::vector<float> made(static_cast<size_t>(count));
  for (float& value : made) value = random.real(-1, 1);
  return made;
}

inline ConvolutionCase make_convolution(Random& random, bool small = false) {
  const int channels = small ? 20 : 40, side = small ? 14 : 30;
  ConvolutionCase made{random.integer(1, 3),
                       random.integer(1, channels),
                       random.integer(1, channels),
                       random.integer(1, side),
                       random.integer(1, side),
                       random.chance(2),
                       {},
                       {},
                       {}};
  if (!small && random.chance(8)) made.out = random.integer(130, 150);  // More than one chunk of products.
  if (!small && random.chance(8)) made.in = random.integer(300, 1200);  // More than one block of patches.
  made.input = values(random, made.batch * made.in * made.height * made.width);
  made.weights = values(random, made.out * made.in * 9);
  if (random.chance(2)) made.bias = values(random, made.out);
  return made;
}

inline std::vector<float> run(const ConvolutionCase& made, const retinasdk::winograd::Kernels& kernels,
                              const ParallelFor& parallel_for) {
  const auto weights = std::make_shared<const WinogradWeights>(made.weights.data(), made.out, made.in);
  const WinogradConv conv(weights, made.bias.empty() ? nullptr : made.bias.data(), made.relu, kernels);
  std::vector<float> scratch(conv.scratch_floats(made.batch, made.height, made.width), kNan);
  std::vector<float> output(static_cast<size_t>(made.batch * made.out * made.height * made.width), kNan);
  conv.run(made.input.data(), made.batch, made.height, made.width, output.data(), scratch.data(), parallel_for);
  return output;
}

// Computes one output of the direct convolution.
inline double direct(const ConvolutionCase& made, int image, int out, int y, int x) {
  double sum = made.bias.empty() ? 0.0 : made.bias[static_cast<size_t>(out)];
  for (int in = 0; in < made.in; ++in) {
    for (int dy = -1; dy <= 1; ++dy) {
      for (int dx = -1; dx <= 1; ++dx) {
        if (y + dy < 0 || y + dy >= made.height || x + dx < 0 || x + dx >= made.width) continue;
        const int at = ((image * made.in + in) * made.height + y + dy) * made.width + x + dx;
        const int kernel = (out * made.in + in) * 9 + (dy + 1) * 3 + dx + 1;
        sum += static_cast<double>(made.input[static_cast<size_t>(at)]) * made.weights[static_cast<size_t>(kernel)];
      }
    }
  }
  return made.relu && sum < 0 ? 0.0 : sum;
}

// most: the highest difference that is allowed.
inline void check_close(const ConvolutionCase& made, const std::vector<float>& output, double most, Random& random) {
  for (int i = 0; i < 200; ++i) {
    const int image = random.integer(0, made.batch - 1), out = random.integer(0, made.out - 1);
    const int y = random.integer(0, made.height - 1), x = random.integer(0, made.width - 1);
    const int at = ((image * made.out + out) * made.height + y) * made.width + x;
    const double difference = std::fabs(output[static_cast<size_t>(at)] - direct(made, image, out, y, x));
    check(difference < most, "outputs are close to the direct convolution");
  }
  for (const float value : output) check(std::isfinite(value), "every output is written");
}

inline void run_pointwise(Random& random, const retinasdk::winograd::Kernels& kernels, const ParallelFor& parallel_for,
                          double most) {
  const int batch = random.integer(1, 2), in = random.integer(1, 90), out = random.integer(1, 40);
  const int pixels = random.integer(1, 400);
  const bool relu = random.chance(2), adds = random.chance(2), biased = random.chance(2);
  const std::vector<float> input = values(random, batch * in * pixels), weights = values(random, out * in);
  const std::vector<float> bias = values(random, out), residual = values(random, batch * out * pixels);
  const retinasdk::PointwiseConv conv(std::make_shared<const retinasdk::PointwiseWeights>(weights.data(), out, in),
                                      biased ? bias.data() : nullptr, relu, kernels);
  std::vector<float> scratch(conv.scratch_floats(static_cast<size_t>(pixels)), kNan);
  std::vector<float> output(residual.size(), kNan);
  conv.run(input.data(), adds ? residual.data() : nullptr, batch, static_cast<size_t>(pixels), output.data(),
           scratch.data(), parallel_for);
  for (int at = 0; at < batch * out * pixels; ++at) {
    const int image = at / pixels / out, channel = at / pixels % out, pixel = at % pixels;
    double sum = biased ? bias[static_cast<size_t>(channel)] : 0.0;
    if (adds) sum += residual[static_cast<size_t>(at)];
    for (int i = 0; i < in; ++i) {
      sum += static_cast<double>(weights[static_cast<size_t>(channel * in + i)]) *
             input[static_cast<size_t>((image * in + i) * pixels + pixel)];
    }
    const double wanted = relu && sum < 0 ? 0.0 : sum;
    check(std::fabs(output[static_cast<size_t>(at)] - wanted) < most,
          "pointwise outputs are close to the matrix product");
  }
}
