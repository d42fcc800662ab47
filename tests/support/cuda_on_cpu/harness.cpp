// Tests of the emulation: correct kernels give correct results, and each kind of faulty kernel is detected. ctest runs
// every case in a separate process and searches its output for the report: cuda_on_cpu_harness CASE.
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <map>
#include <numeric>
#include <string>
#include <vector>

namespace {

constexpr int kThreads = 128;
constexpr unsigned kAllLanes = 0xffffffffu;

void check(bool condition, const char* what) {
  if (condition) return;
  std::fprintf(stderr, "harness: this property does not hold: %s\n", what);
  std::exit(1);
}

template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, Arguments... arguments) {
  std::tuple<Parameters...> values(arguments...);
  std::apply(
      [&](Parameters&... each) {
        void* addresses[] = {&each...};
        check(cudaLaunchKernel(kernel, grid, block, addresses, 0, nullptr) == cudaSuccess, "a kernel is launched");
      },
      values);
}

// -- correct kernels -------------------------------------------------------------------------------------------------

// Collects the values above 0, in any order of blocks. It uses ballots, shared memory and atomics.
__global__ void compact(const int* values, int count, int* out, int* found) {
  __shared__ int warp_counts[kThreads / 32];
  __shared__ int base;
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  const bool keep = i < count && values[i] > 0;
  const unsigned lane = threadIdx.x % 32;
  const unsigned kept = __ballot_sync(kAllLanes, keep);
  if (lane == 0) warp_counts[threadIdx.x / 32] = __popc(kept);
  __syncthreads();
  if (threadIdx.x == 0) {
    int sum = 0;
    for (int& warp_count : warp_counts) sum += std::exchange(warp_count, sum);
    base = atomicAdd(found, sum);
  }
  __syncthreads();
  if (keep) out[base + warp_counts[threadIdx.x / 32] + __popc(kept & ((1u << lane) - 1u))] = values[i];
}

__global__ void shuffles(int* out) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  int sum = lane;
  for (unsigned distance = 16; distance > 0; distance /= 2) sum += __shfl_down_sync(kAllLanes, sum, distance);
  int prefix = lane;
  for (unsigned distance = 1; distance < 32; distance *= 2) {
    const int lower = __shfl_up_sync(kAllLanes, prefix, distance);
    if (lane >= static_cast<int>(distance)) prefix += lower;
  }
  out[4 * threadIdx.x] = __shfl_sync(kAllLanes, sum, 0);
  out[4 * threadIdx.x + 1] = prefix;
  out[4 * threadIdx.x + 2] = __shfl_xor_sync(kAllLanes, lane, 5);
  out[4 * threadIdx.x + 3] = __syncthreads_count(lane < 3) + 1000 * __any_sync(kAllLanes, lane == 7) +
                             10000 * __all_sync(kAllLanes, lane < 31);
}

void right() {
  std::vector<int> values(1000);
  for (int i = 0; i < 1000; ++i) values[static_cast<size_t>(i)] = i % 3 == 0 ? i : -i;
  std::vector<int> out(1000, -1);
  int found = 0;
  launch(compact, dim3(8), dim3(kThreads), values.data(), 1000, out.data(), &found);
  check(found == 333, "every value above 0 is found");  // 3, 6, ..., 999.
  check(std::accumulate(out.begin(), out.begin() + found, 0) == 166833, "every value is found once");
  std::vector<int> shuffled(4 * 64);
  launch(shuffles, dim3(1), dim3(64), shuffled.data());
  for (int i = 0; i < 64; ++i) {
    const int lane = i % 32;
    const int* mine = shuffled.data() + 4 * i;
    check(mine[0] == 496 && mine[1] == lane * (lane + 1) / 2 && mine[2] == (lane ^ 5), "shuffles move values");
    check(mine[3] == 6 + 1000, "votes and counts are correct");
  }
  void* none[] = {nullptr};
  check(cudaLaunchKernel(
            +[] {}, dim3(1), dim3(1025), none, 0, nullptr) == cudaErrorInvalidConfiguration,
        "1025 threads are too many");
  check(cudaGetLastError() == cudaErrorInvalidConfiguration && cudaGetLastError() == cudaSuccess,
        "an error stays until it is read");
  std::puts("harness: right");
}

#if defined(__aarch64__)
using CompilersHalf = __fp16;
#else
using CompilersHalf = _Float16;
#endif

// Compares the conversions with the compiler's own type: for every half, and for floats around every half and every
// tie.
void halves() {
  for (uint32_t bits = 0; bits < 0x10000u; ++bits) {
    const __half half{static_cast<uint16_t>(bits)};
    CompilersHalf theirs;
    std::memcpy(&theirs, &half.bits, sizeof half.bits);
    const float value = __half2float(half);
    const auto expected = static_cast<float>(theirs);
    if (expected != expected) {
      check(value != value && (__float2half_rn(value).bits & 0x7fffu) > 0x7c00u, "NaN stays NaN");
      continue;
    }
    check(std::memcmp(&value, &expected, sizeof value) == 0, "a half is the float that it stands for");
    uint32_t word;
    std::memcpy(&word, &value, sizeof word);
    for (const uint32_t step : {0u, 1u, 0xfffu, 0x1000u, 0x1001u, 0x1fffu}) {
      const uint32_t near = word + step;
      float around;
      std::memcpy(&around, &near, sizeof around);
      if (around != around) continue;
      const auto rounded = static_cast<CompilersHalf>(around);
      uint16_t rounded_bits;
      std::memcpy(&rounded_bits, &rounded, sizeof rounded_bits);
      check(__float2half_rn(around).bits == rounded_bits, "a float is rounded to the nearest half, ties to even");
    }
  }
  std::puts("harness: halves");
}

// -- faulty kernels --------------------------------------------------------------------------------------------------

__global__ void missing_syncthreads(int* out) {
  __shared__ int values[kThreads];
  values[threadIdx.x] = static_cast<int>(threadIdx.x);
  out[threadIdx.x] = values[kThreads - 1 - threadIdx.x];
}

// The result is correct on the emulated device, and on old GPUs whose warps run in lock step. It is a data race anyway.
__global__ void missing_syncwarp(int* out) {
  __shared__ int values[32];
  values[threadIdx.x] = static_cast<int>(threadIdx.x);
  __ballot_sync(kAllLanes, 1);
  const int mine = values[31 - threadIdx.x];
  values[threadIdx.x] = mine;  // Other lanes may not have read the old value yet.
  out[threadIdx.x] = mine;
}

__global__ void race_between_blocks(int* sum) {
  if (threadIdx.x == 0) *sum = *sum + 1;
}

__global__ void write_behind_the_end(int* out, int count) { out[count + static_cast<int>(threadIdx.x)] = 1; }

__global__ void read_behind_shared(int* out) {
  __shared__ int values[kThreads];
  values[threadIdx.x] = 1;
  __syncthreads();
  out[threadIdx.x] = values[threadIdx.x + 1];
}

__global__ void partial_barrier() {
  if (threadIdx.x < 7) __syncthreads();
}

__global__ void exited_lane() {
  if (threadIdx.x == 5) return;
  __ballot_sync(kAllLanes, 1);
}

__global__ void lane_outside_its_mask() { __ballot_sync(0x0000ffffu, 1); }

__global__ void deadlock() {
  if (threadIdx.x < 16) {
    __syncthreads();
  } else {
    __ballot_sync(kAllLanes, 1);
  }
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<int> out(kThreads);
  const std::map<std::string, std::function<void()>> cases{
      {"right", right},
      {"halves", halves},
      {"missing_syncthreads", [&] { launch(missing_syncthreads, dim3(1), dim3(kThreads), out.data()); }},
      {"missing_syncwarp", [&] { launch(missing_syncwarp, dim3(1), dim3(32), out.data()); }},
      {"race_between_blocks", [&] { launch(race_between_blocks, dim3(200), dim3(32), out.data()); }},
      {"write_behind_the_end", [&] { launch(write_behind_the_end, dim3(1), dim3(32), out.data(), kThreads); }},
      {"read_behind_shared", [&] { launch(read_behind_shared, dim3(1), dim3(kThreads), out.data()); }},
      {"partial_barrier", [&] { launch(partial_barrier, dim3(1), dim3(kThreads)); }},
      {"exited_lane", [&] { launch(exited_lane, dim3(1), dim3(32)); }},
      {"lane_outside_its_mask", [&] { launch(lane_outside_its_mask, dim3(1), dim3(32)); }},
      {"deadlock", [&] { launch(deadlock, dim3(1), dim3(32)); }},
  };
  const auto found = cases.find(argc > 1 ? argv[1] : "");
  if (found == cases.end()) {
    std::fprintf(stderr, "harness: no such case; give the name of a case, such as right\n");
    return 2;
  }
  std::signal(SIGABRT, [](int) { std::_Exit(1); });  // ctest reports a failure if a signal ends the process.
  found->second();
  return 0;
}
