// Compares the convolutions with direct convolutions in float64, without Python: winograd [seed [rounds]].
//
// Buffers are exactly as large as the headers require, so that the address sanitizer detects any access beyond them.
// The pieces of work run in threads, so that the thread sanitizer detects pieces that write to the same output.
#include "convolution/winograd.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>

#include "convolution/pointwise.h"
#include "convolution/winograd_kernels.h"
#include "onnxruntime/shared_weights.h"
#include "random_cases.h"

namespace {

using retinasdk::Piece;
using retinasdk::WinogradConv;
using retinasdk::WinogradWeights;

void check(bool condition, const char* what) {
  if (condition) return;
  std::fprintf(stderr, "winograd: this property does not hold: %s\n", what);
  std::exit(1);
}

struct Case {
  int batch, in, out, height, width;
  bool relu;
  std::vector<float> input, weights, bias;  // The bias may be empty.
};

std::vector<float> values(Random& random, int count) {
  std::vector<float> made(static_cast<size_t>(count));
  for (float& value : made) value = random.real(-1, 1);
  return made;
}

Case make_case(Random& random) {
  Case made{random.integer(1, 3),
            random.integer(1, 40),
            random.integer(1, 40),
            random.integer(1, 30),
            random.integer(1, 30),
            random.chance(2),
            {},
            {},
            {}};
  if (random.chance(8)) made.out = random.integer(130, 150);  // More than one chunk of products.
  if (random.chance(8)) made.in = random.integer(300, 1200);  // More than one block of patches.
  made.input = values(random, made.batch * made.in * made.height * made.width);
  made.weights = values(random, made.out * made.in * 9);
  if (random.chance(2)) made.bias = values(random, made.out);
  return made;
}

// A ParallelFor with two threads.
void in_threads(size_t count, const Piece& piece) {
  std::atomic<size_t> next{0};
  const auto work = [&] {
    for (size_t i = next++; i < count; i = next++) piece(i);
  };
  std::thread other(work);
  work();
  other.join();
}

std::vector<float> run(const Case& made, const retinasdk::winograd::Kernels& kernels) {
  const auto weights = std::make_shared<const WinogradWeights>(made.weights.data(), made.out, made.in);
  const WinogradConv conv(weights, made.bias.empty() ? nullptr : made.bias.data(), made.relu, kernels);
  std::vector<float> scratch(conv.scratch_floats(made.batch, made.height, made.width), kNan);
  std::vector<float> output(static_cast<size_t>(made.batch * made.out * made.height * made.width), kNan);
  conv.run(made.input.data(), made.batch, made.height, made.width, output.data(), scratch.data(), in_threads);
  return output;
}

// Computes one output of the direct convolution.
double direct(const Case& made, int image, int out, int y, int x) {
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

void check_close(const Case& made, const std::vector<float>& output, Random& random) {
  // The standard deviation of an output: it is a sum of 9 * in products, each with a standard deviation of 1/3.
  const double spread = std::sqrt(made.in);
  const double most = 3e-4 * spread;
  for (int i = 0; i < 200; ++i) {
    const int image = random.integer(0, made.batch - 1), out = random.integer(0, made.out - 1);
    const int y = random.integer(0, made.height - 1), x = random.integer(0, made.width - 1);
    const int at = ((image * made.out + out) * made.height + y) * made.width + x;
    const double difference = std::fabs(output[static_cast<size_t>(at)] - direct(made, image, out, y, x));
    check(difference < most, "outputs are close to the direct convolution");
  }
  for (const float value : output) check(std::isfinite(value), "every output is written");
}

void run_pointwise(Random& random, const retinasdk::winograd::Kernels& kernels) {
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
           scratch.data(), in_threads);
  for (int at = 0; at < batch * out * pixels; ++at) {
    const int image = at / pixels / out, channel = at / pixels % out, pixel = at % pixels;
    double sum = biased ? bias[static_cast<size_t>(channel)] : 0.0;
    if (adds) sum += residual[static_cast<size_t>(at)];
    for (int i = 0; i < in; ++i) {
      sum += static_cast<double>(weights[static_cast<size_t>(channel * in + i)]) *
             input[static_cast<size_t>((image * in + i) * pixels + pixel)];
    }
    const double wanted = relu && sum < 0 ? 0.0 : sum;
    check(std::fabs(output[static_cast<size_t>(at)] - wanted) < 1e-4,
          "pointwise outputs are close to the matrix product");
  }
}

void check_nan_spreads() {
  Random random(5);
  Case made{1, 1, 1, 6, 6, true, std::vector<float>(36, 1.0f), values(random, 9), {}};
  made.input[14] = kNan;
  bool some = false;
  for (const float value : run(made, retinasdk::winograd::kPlainKernels)) some = some || std::isnan(value);
  check(some, "the ReLU keeps a NaN");
}

void check_bad_arguments() {
  try {
    WinogradWeights(nullptr, 0, 8);
  } catch (const std::invalid_argument& error) {
    check(std::string(error.what()).find("channels must be 1 to 65536, got 0 out, 8 in") == 0, error.what());
    return;
  }
  check(false, "zero channels are rejected");
}

struct OneHash {
  size_t operator()(std::string_view) const { return 7; }
};

// Weights with one hash: only equal ones are shared.
template <typename Weights, int kTaps>
void check_sharing(Random& random) {
  const std::vector<float> first = values(random, 24 * 20 * kTaps), other = values(random, 24 * 20 * kTaps);
  const auto shared = [](const std::vector<float>& from) {
    return retinasdk::ort::shared_weights<Weights, OneHash>(from.data(), 24, 20, kTaps);
  };
  const std::shared_ptr<const Weights> one = shared(first), two = shared(other);
  check(one != two, "weights with one hash and other values are not shared");
  check(one == shared(std::vector<float>(first)), "equal weights are shared");
  const Weights alone(other.data(), 24, 20);
  check(std::equal(alone.values.get(), alone.values.get() + alone.count(), two->values.get()),
        "weights that are not shared are their own");
  std::vector<float> nearly = first;
  nearly.back() = std::nextafter(nearly.back(), 2.0f);
  check(one != shared(nearly), "weights that differ in one bit are not shared");
}

}  // namespace

int main(int argc, char** argv) {
  const uint64_t seed = argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 1;
  const int rounds = argc > 2 ? std::atoi(argv[2]) : 60;
  Random random(seed);
  check_bad_arguments();
  check_nan_spreads();
  check_sharing<WinogradWeights, 9>(random);
  check_sharing<retinasdk::PointwiseWeights, 1>(random);
  for (int round = 0; round < rounds; ++round) {
    const Case made = make_case(random);
    check_close(made, run(made, retinasdk::winograd::kPlainKernels), random);
    check_close(made, run(made, retinasdk::winograd::best_kernels()), random);
    run_pointwise(random, retinasdk::winograd::kPlainKernels);
    run_pointwise(random, retinasdk::winograd::best_kernels());
  }
  std::printf("winograd: %d rounds with seed %llu, plain and %s: all properties hold\n", rounds,
              static_cast<unsigned long long>(seed), retinasdk::winograd_simd_name());
}
