// Tests the counters of cuda_on_cpu_traffic.h with kernels whose counts are known.
#include <cuda_on_cpu_traffic.h>
#include <cuda_runtime.h>

#include <cstdio>
#include <cstdlib>

namespace {

using cuda_on_cpu::Counts;
using cuda_on_cpu::Launch;

constexpr unsigned kThreads = 64;
constexpr unsigned kAllLanes = 0xffffffffu;

void check(bool condition, const char* what) {
  if (condition) return;
  std::fprintf(stderr, "traffic_harness: this property does not hold: %s\n", what);
  std::exit(1);
}

bool same(const Counts& ours, const Counts& theirs) {
  return ours.read_bytes == theirs.read_bytes && ours.written_bytes == theirs.written_bytes &&
         ours.watched_read_bytes == theirs.watched_read_bytes && ours.shared_read_bytes == theirs.shared_read_bytes &&
         ours.shared_written_bytes == theirs.shared_written_bytes && ours.atomics == theirs.atomics &&
         ours.shared_atomics == theirs.shared_atomics && ours.barriers == theirs.barriers &&
         ours.collectives == theirs.collectives;
}

// Arguments that do not fit into registers, as those of the real kernels.
struct Arguments {
  const float* values;
  double* out;
  unsigned* sum;
  int unused[60];
};

// A block reverses 64 values through shared memory. Block 1 has twice the work.
__global__ void reverse(Arguments arguments) {
  __shared__ float values[kThreads];
  __shared__ unsigned sum;
  for (unsigned round = 0; round <= blockIdx.x; ++round) {
    values[threadIdx.x] = arguments.values[blockIdx.x * kThreads + threadIdx.x];
    if (threadIdx.x == 0) sum = 0;
    __syncthreads();
    arguments.out[blockIdx.x * kThreads + threadIdx.x] = values[kThreads - 1 - threadIdx.x];
    atomicAdd(&sum, 1u);
    __syncthreads();
  }
  if (__any_sync(kAllLanes, threadIdx.x == 0)) atomicAdd(arguments.sum, 2u);
}

struct alignas(16) Vector {
  float values[4];
};

// Copies 16 bytes a thread, and the last element of each vector once more.
__global__ void copy(const Vector* from, Vector* to, volatile float* last) {
  const Vector loaded = from[threadIdx.x];
  to[threadIdx.x] = loaded;
  *last = *(const_cast<const volatile float*>(&from[threadIdx.x].values[3]));
}

template <typename... Parameters, typename... Arguments_>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, Arguments_... arguments) {
  std::tuple<Parameters...> values(arguments...);
  std::apply(
      [&](Parameters&... each) {
        void* addresses[] = {&each...};
        check(cudaLaunchKernel(kernel, grid, block, addresses, 0, nullptr) == cudaSuccess, "a kernel is launched");
      },
      values);
}

template <typename T>
T* allocate(size_t count) {
  return static_cast<T*>(cuda_on_cpu::allocate(count * sizeof(T)));
}

}  // namespace

int main() {
  auto* sum = allocate<unsigned>(1);
  cudaMemsetAsync(sum, 0, 4, nullptr);
  launch(reverse, dim3(2), dim3(kThreads), Arguments{allocate<float>(128), allocate<double>(128), sum, {}});
  check(*sum == 128, "the kernel runs as without counters");
  const std::vector<Launch> launches = cuda_on_cpu::take_launches();
  check(launches.size() == 2, "each launch is counted");
  check(launches[0].kernel == 0 && same(launches[0].total, {0, 4, 0, 0, 0, 0, 0, 0, 0}), "cudaMemsetAsync() writes");
  // Three rounds in all, and two in block 1. A warp has 32 lanes, so a block has two warps, and each votes once.
  const Counts total{3 * 256, 3 * 512, 0, 3 * 256, 3 * 260, 64, 3 * 64, 6, 4};
  const Counts busiest{2 * 256, 2 * 512, 0, 2 * 256, 2 * 260, 32, 2 * 64, 4, 2};
  check(launches[1].kernel != 0 && launches[1].grid.x == 2 && launches[1].block.x == kThreads, "the launch is named");
  check(same(launches[1].total, total), "all blocks together are counted");
  check(same(launches[1].busiest, busiest), "the busiest block is counted");

  const auto* from = allocate<Vector>(8);
  cuda_on_cpu::watch(from, 8 * sizeof(Vector), sizeof(float));
  launch(copy, dim3(1), dim3(8), from, allocate<Vector>(8), allocate<float>(1));
  const Counts copied = cuda_on_cpu::take_launches()[0].total;
  check(same(copied, {8 * 20, 8 * 20, 8 * 20, 0, 0, 0, 0, 0, 0}), "vectors are counted with all their bytes");
  for (unsigned i = 0; i < 32; ++i) {
    check(cuda_on_cpu::reads_of(from)[i] == (i % 4 == 3 ? 2u : 1u), "reads of each watched element are counted");
  }
  std::puts("traffic_harness: the counts are right");
}
