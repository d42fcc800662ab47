// Compares the convolutions with direct convolutions in float64, without Python: winograd [seed [rounds]].
//
// The pieces of work run in threads, so that the thread sanitizer detects pieces that write to the same output.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string_view>
#include <thread>

#include "convolution_properties.h"
#include "onnxruntime/shared_weights.h"

namespace {

// A ParallelFor with two threads.
void in_threads(size_t count, const retinasdk::Piece& piece) {
  std::atomic<size_t> next{0};
  const auto work = [&] {
    for (size_t i = next++; i < count; i = next++) piece(i);
  };
  std::thread other(work);
  work();
  other.join();
}

void check_nan_spreads() {
  Random random(5);
  ConvolutionCase made{1, 1, 1, 6, 6, true, std::vector<float>(36, 1.0f), values(random, 9), {}};
  made.input[14] = kNan;
  bool some = false;
  for (const float value : run(made, retinasdk::winograd::kPlainKernels, in_threads)) some = some || std::isnan(value);
  check(some, "the ReLU keeps a NaN");
}

void check_bad_arguments() {
  check_refused("channels must be 1 to 65536, got 0 out, 8 in", [] { WinogradWeights(nullptr, 0, 8); });
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
    const ConvolutionCase made = make_convolution(random);
    // The standard deviation of an output: it is a sum of 9 * in products, each with a standard deviation of 1/3.
    const double spread = std::sqrt(made.in);
    for (const auto* kernels : {&retinasdk::winograd::kPlainKernels, &retinasdk::winograd::best_kernels()}) {
      check_close(made, run(made, *kernels, in_threads), 3e-4 * spread, random);
      run_pointwise(random, *kernels, in_threads, 1e-4);
    }
  }
  std::printf("winograd: %d rounds with seed %llu, plain and %s: all properties hold\n", rounds,
              static_cast<unsigned long long>(seed), retinasdk::winograd_simd_name());
}
