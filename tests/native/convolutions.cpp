// Compares the convolutions with plain loops in float64, without Python: convolutions [seed [rounds]].
//
// The pieces of work run in threads, so that the thread sanitizer detects pieces that write to the same output.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "blocked_layouts.h"
#include "depthwise_blocks.h"
#include "direct_convolutions.h"
#include "onnxruntime/shared_weights.h"
#include "winograd_convolutions.h"

namespace {

// The fastest kernels are the first, the environment chooses others, and refuses names that are unknown.
void check_choice() {
  using namespace retinasdk::convolution;
  std::set<std::string> names;
  for (const Kernels* kernels : usable_kernels()) names.insert(kernels->name);
  check(!names.empty() && names.size() == usable_kernels().size(), "kernels have names of their own");
#ifndef _WIN32
  const char* wanted = std::getenv("RETINASDK_ISA");
  const std::string before = wanted == nullptr ? "" : wanted;
  setenv("RETINASDK_ISA", "mmx", 1);
  check_refused("RETINASDK_ISA is 'mmx', but this processor runs " + std::string(usable_kernels()[0]->name),
                [] { best_kernels(); });
  setenv("RETINASDK_ISA", before.c_str(), 1);
  check(best_kernels().name == (before.empty() ? usable_kernels()[0]->name : before),
        "the environment chooses the kernels");
#endif
}

struct OneHash {
  size_t operator()(std::string_view) const { return 7; }
};

// Weights with one hash: only equal ones are shared.
void check_sharing(Random& random) {
  using retinasdk::DirectWeights;
  constexpr auto kPlanar = retinasdk::Layout::kPlanar;
  const std::vector<float> first = convolution_tests::values(random, 24 * 20),
                           other = convolution_tests::values(random, 24 * 20);
  int64_t key = 0;
  const auto shared = [&](const std::vector<float>& from) {
    retinasdk::ort::LentTensor tensor;
    tensor.key = ++key;
    tensor.shape = {24, 20, 1, 1};
    tensor.count = from.size();
    tensor.data = from.data();
    return retinasdk::ort::shared_weights<DirectWeights, OneHash>(tensor, 24, 20, 1, 1, kPlanar);
  };
  const std::shared_ptr<const DirectWeights> one = shared(first), two = shared(other);
  check(one != two, "weights with one hash and other values are not shared");
  check(one == shared(std::vector<float>(first)), "equal weights are shared");
  const DirectWeights alone(other.data(), 24, 20, 1, 1, kPlanar);
  check(alone.count() == two->count() &&
            std::memcmp(alone.values.get(), two->values.get(), alone.count() * sizeof(float)) == 0,
        "weights that are not shared are their own");
  std::vector<float> nearly = first;
  nearly.back() = std::nextafter(nearly.back(), 2.0f);
  check(one != shared(nearly), "weights that differ in one bit are not shared");
}

// Whether the system was asked for large pages at an address: "hg" is among the flags of its mapping.
[[maybe_unused]] bool wants_large_pages(const void* memory) {
  const auto address = reinterpret_cast<std::uintptr_t>(memory);
  std::ifstream mappings("/proc/self/smaps");
  bool is_here = false;
  for (std::string line; std::getline(mappings, line);) {
    unsigned long long begin = 0, end = 0;
    if (std::sscanf(line.c_str(), "%llx-%llx ", &begin, &end) == 2) is_here = begin <= address && address < end;
    if (is_here && line.rfind("VmFlags:", 0) == 0) return (line + " ").find(" hg ") != std::string::npos;
  }
  return false;
}

// Large arrays lie in large pages, small ones and parts of a page do not.
void check_large_pages() {
  using retinasdk::cpu::kLargePage;
  const retinasdk::AlignedFloats small = retinasdk::make_aligned(100), large = retinasdk::make_aligned(3 << 20);
  check(reinterpret_cast<std::uintptr_t>(small.get()) % retinasdk::kAlignment == 0, "small arrays are aligned");
  check(reinterpret_cast<std::uintptr_t>(large.get()) % kLargePage == 0, "large arrays begin with a page");
  large[0] = large[(3 << 20) - 1] = 1.0f;
  std::vector<char> bytes(4 * kLargePage);
  const auto begin = reinterpret_cast<std::uintptr_t>(bytes.data());
  char* const inside = bytes.data() + (kLargePage - begin % kLargePage) + 1;
  retinasdk::cpu::prefer_large_pages(inside, kLargePage);
#if defined(__linux__) && defined(__x86_64__)  // Not where another machine is emulated.
  if (!std::ifstream("/sys/kernel/mm/transparent_hugepage/enabled")) return;
  check(wants_large_pages(large.get()), "large arrays lie in large pages");
  check(!wants_large_pages(inside), "a part of a page is left alone");
#endif
}

}  // namespace

int main(int argc, char** argv) {
  const uint64_t seed = argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 1;
  const int rounds = argc > 2 ? std::atoi(argv[2]) : 60;
  Random random(seed);
  check_choice();
  direct_convolutions::check_refusals();
  blocked_layouts::check_refusals();
  depthwise_blocks::check_refusals();
  check_sharing(random);
  check_large_pages();
  for (int round = 0; round < rounds; ++round) {
    direct_convolutions::check_product(random);
    direct_convolutions::check_random(random);
    direct_convolutions::check_not_finite(random);
    blocked_layouts::check_random(random);
    depthwise_blocks::check_random(random);
    depthwise_blocks::check_nan_spreads(random);
  }
  winograd_tests::check_winograd(random, rounds);
  std::printf("convolutions: %d rounds with seed %llu, kernels", rounds, static_cast<unsigned long long>(seed));
  for (const auto* kernels : convolution_tests::float_kernels()) std::printf(" %s", kernels->name);
  std::printf(" (%s chosen): all properties hold\n", retinasdk::convolution::best_kernels().name);
}
