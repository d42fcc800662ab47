// Sorting by one block of threads. It is a bitonic sort, whose steps do not depend on the keys.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace retinasdk::cuda {
namespace {

constexpr int kSharedKeys = 2048;  // Keys that are sorted in shared memory at a time: 16 KiB.

// One step of the sort: each thread compares, and maybe exchanges, two keys that are `stride` apart. `keys` is a part
// of `count` keys of the array, and `first` is the position of keys[0] in the array.
__device__ inline void bitonic_step(uint64_t* keys, int count, int first, int size, int stride) {
  for (int pair = threadIdx.x; pair < count / 2; pair += blockDim.x) {
    const int i = 2 * pair - (pair & (stride - 1));
    const bool ascending = ((first + i) & size) == 0;
    const uint64_t a = keys[i];
    const uint64_t b = keys[i + stride];
    if ((a > b) == ascending) {
      keys[i] = b;
      keys[i + stride] = a;
    }
  }
  __syncthreads();
}

// Sorts keys[0..n) in ascending order. n must be a power of two. The keys lie in global memory that no other block
// uses, and all threads of the block must call. Steps with small strides run in shared memory. Up to kSharedKeys keys,
// global memory is read and written only once.
__device__ inline void block_sort(uint64_t* keys, int n) {
  __shared__ uint64_t shared_keys[kSharedKeys];
  const int chunk = n < kSharedKeys ? n : kSharedKeys;
  __syncthreads();  // Other threads of the block may have written the keys.
  for (int size = chunk; size <= n; size *= 2) {
    for (int stride = size / 2; stride >= chunk; stride /= 2) bitonic_step(keys, n, 0, size, stride);
    for (int first = 0; first < n; first += chunk) {
      for (int i = threadIdx.x; i < chunk; i += blockDim.x) shared_keys[i] = keys[first + i];
      __syncthreads();
      for (int inner = size == chunk ? 2 : size; inner <= size; inner *= 2) {
        const int largest = inner / 2 < chunk / 2 ? inner / 2 : chunk / 2;
        for (int stride = largest; stride > 0; stride /= 2) bitonic_step(shared_keys, chunk, first, inner, stride);
      }
      for (int i = threadIdx.x; i < chunk; i += blockDim.x) keys[first + i] = shared_keys[i];
      __syncthreads();
    }
  }
}

}  // namespace
}  // namespace retinasdk::cuda
