// Fuzzes both convolutions, with the plain kernels and with those of this machine, and the weights that are shared.
#include "convolution_properties.h"
#include "onnxruntime/shared_weights.h"

namespace {

void in_order(size_t count, const retinasdk::Piece& piece) {
  for (size_t i = 0; i < count; ++i) piece(i);
}

// Shared weights are those of the same values, and of no others.
void check_shared(const ConvolutionCase& made, Random& random) {
  const auto shared = [&](const std::vector<float>& from) {
    return retinasdk::ort::shared_weights<WinogradWeights>(from.data(), made.out, made.in, 9);
  };
  std::vector<float> other = made.weights;
  const auto one = shared(made.weights);
  check(one == shared(other), "equal weights are shared");
  float& value = other[static_cast<size_t>(random.integer(0, static_cast<int>(other.size()) - 1))];
  value = value == 0.5f ? 0.25f : 0.5f;
  check(one != shared(other), "weights that differ are not shared");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t count) {
  Random random(bytes, count);
  const auto& kernels = random.chance(2) ? retinasdk::winograd::kPlainKernels : retinasdk::winograd::best_kernels();
  if (random.chance(2)) {
    run_pointwise(random, kernels, in_order, 1e-3);
    return 0;
  }
  ConvolutionCase made = make_convolution(random, !random.chance(16));
  if (random.chance(4)) {  // Whatever the values are, only the output is written.
    for (int i = random.integer(1, 9); i > 0; --i) {
      made.input[static_cast<size_t>(random.integer(0, static_cast<int>(made.input.size()) - 1))] = random.hostile();
    }
    run(made, kernels, in_order);
  } else {
    // The values of a fuzzer may all be 1, so that an output is as large as 9 * in.
    check_close(made, run(made, kernels, in_order), 3e-4 + 3e-5 * 9 * made.in, random);
  }
  if (random.chance(4)) check_shared(made, random);
  return 0;
}
