// What a processor can do at best: multiplications with addition of float32, and bytes moved, by all threads at once.
//
//     c++ -std=c++17 -O3 -ffp-contract=fast -pthread benchmarks/peak.cpp -o peak && ./peak THREADS
//
// Prints JSON: multiply-adds per second of one core, while all threads compute, for each instruction set that the
// processor has; and for working sets of 1 to 256 MB the bytes per second of all threads together, the better of
// reading and copying. Bytes that are read and bytes that are written both count. benchmarks/roofline.py compiles it.

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <thread>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;

constexpr double kSeconds = 0.15;  // Of one measurement. The best of several counts.
constexpr int kTries = 3;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

// The shortest time in which all threads are done with work(thread).
double best_seconds(int threads, const std::function<void(int)>& work) {
  double best = 1e30;
  for (int attempt = 0; attempt < kTries; ++attempt) {
    std::atomic<int> waiting{threads};
    std::vector<double> ends(static_cast<std::size_t>(threads));
    std::vector<std::thread> all;
    for (int thread = 0; thread < threads; ++thread) {
      all.emplace_back([&, thread] {
        --waiting;
        while (waiting > 0) {  // So that all begin at once.
        }
        const Clock::time_point start = Clock::now();
        work(thread);
        ends[static_cast<std::size_t>(thread)] = seconds_since(start);
      });
    }
    for (std::thread& one : all) one.join();
    best = std::min(best, *std::max_element(ends.begin(), ends.end()));
  }
  return best;
}

// The number of repetitions that take about kSeconds.
template <class Work>
long repetitions(const Work& work) {
  for (long count = 1;; count *= 2) {
    const Clock::time_point start = Clock::now();
    work(count);
    const double seconds = seconds_since(start);
    if (seconds > kSeconds / 4) return std::max(1L, static_cast<long>(static_cast<double>(count) * kSeconds / seconds));
  }
}

using V4 = float __attribute__((vector_size(16)));
using V8 = float __attribute__((vector_size(32)));
using V16 = float __attribute__((vector_size(64)));

volatile float g_seed = 0.5f;  // Unknown to the compiler, which else would find that all sums are equal.
volatile float g_sink;

constexpr long kSteps = 1000;  // Of a repetition.

// As many sums as hide the latency of an instruction and fit into the registers. They approach 1.
#define RETINASDK_PEAK(name, features, Vector, sums)                                  \
  features void name(long count) {                                                    \
    Vector a[sums];                                                                   \
    _Pragma("GCC unroll 32") for (int s = 0; s < sums; ++s) a[s] = Vector{} + g_seed; \
    const Vector x = Vector{} + 0.999f, y = Vector{} + 0.001f;                        \
    for (long i = 0; i < count * kSteps; ++i) {                                       \
      _Pragma("GCC unroll 32") for (int s = 0; s < sums; ++s) a[s] = a[s] * x + y;    \
    }                                                                                 \
    _Pragma("GCC unroll 32") for (int s = 1; s < sums; ++s) a[0] += a[s];             \
    g_sink = a[0][0];                                                                 \
  }

struct Kind {
  const char* name;
  bool is_usable;
  void (*run)(long);
  int products;  // Of a step.
};

#if defined(__x86_64__)
RETINASDK_PEAK(peak_avx512, __attribute__((target("avx512f,fma"))), V16, 24)
RETINASDK_PEAK(peak_avx2, __attribute__((target("avx2,fma"))), V8, 12)

std::vector<Kind> kinds() {
  return {{"avx512", __builtin_cpu_supports("avx512f") != 0, peak_avx512, 24 * 16},
          {"avx2", __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"), peak_avx2, 12 * 8}};
}
#elif defined(__aarch64__)
RETINASDK_PEAK(peak_neon, , V4, 24)

std::vector<Kind> kinds() { return {{"neon", true, peak_neon, 24 * 4}}; }
#else
std::vector<Kind> kinds() { return {}; }
#endif

// Bytes per second of all threads, each with its part of a working set.
double bytes_per_second(int threads, std::size_t working_set) {
  const std::size_t size = working_set / static_cast<std::size_t>(threads) / 2 / 64 * 64;
  std::vector<std::vector<V4>> parts(static_cast<std::size_t>(threads));
  for (std::vector<V4>& part : parts) part.resize(2 * size / sizeof(V4), V4{} + 1.0f);
  const auto read = [&](int thread, long count) {
    const std::vector<V4>& part = parts[static_cast<std::size_t>(thread)];
    V4 sums[8] = {};
    for (long i = 0; i < count; ++i) {
      for (std::size_t at = 0; at + 8 <= part.size(); at += 8) {
        for (std::size_t s = 0; s < 8; ++s) sums[s] += part[at + s];
      }
    }
    for (int s = 1; s < 8; ++s) sums[0] += sums[s];
    g_sink = sums[0][0];
  };
  const auto copy = [&](int thread, long count) {
    char* bytes = reinterpret_cast<char*>(parts[static_cast<std::size_t>(thread)].data());
    for (long i = 0; i < count; ++i) {
      const bool there = i % 2 == 0;  // Back again, so that no copy is left out.
      std::memcpy(bytes + (there ? size : 0), bytes + (there ? 0 : size), size);
      asm volatile("" : : "r"(bytes) : "memory");
    }
  };
  const long reads = repetitions([&](long count) { read(0, count); });
  const long copies = repetitions([&](long count) { copy(0, count); });
  const double moved = 2.0 * static_cast<double>(size) * threads;
  const double reading = moved * static_cast<double>(reads) / best_seconds(threads, [&](int t) { read(t, reads); });
  const double copying = moved * static_cast<double>(copies) / best_seconds(threads, [&](int t) { copy(t, copies); });
  return std::max(reading, copying);
}

}  // namespace

int main(int argc, char** argv) {
  const int threads = argc > 1 ? std::atoi(argv[1]) : 1;
  if (threads < 1 || threads > 1024) {
    std::fprintf(stderr, "usage: peak THREADS, a number of 1 to 1024\n");
    return 2;
  }
  std::printf("{\"threads\": %d, \"multiply_adds_per_core\": {", threads);
  const char* separator = "";
  for (const Kind& kind : kinds()) {
    if (!kind.is_usable) continue;
    const long count = repetitions(kind.run);
    const double seconds = best_seconds(threads, [&](int) { kind.run(count); });
    std::printf("%s\"%s\": %.4g", separator, kind.name, static_cast<double>(count) * kSteps * kind.products / seconds);
    separator = ", ";
  }
  std::printf("}, \"bytes_per_second\": {");
  separator = "";
  for (std::size_t megabytes = 1; megabytes <= 256; megabytes *= 2) {
    std::printf("%s\"%zu\": %.4g", separator, megabytes, bytes_per_second(threads, megabytes << 20));
    separator = ", ";
  }
  std::printf("}}\n");
}
