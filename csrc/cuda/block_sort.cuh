// Sorting by one block of threads. It is a bitonic sort, whose steps do not depend on the keys.
//
// The block must have a multiple of 32 threads, and all of them must call.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace retinasdk::cuda {
namespace {

constexpr int kSharedKeys = 2048;  // Keys that are sorted in shared memory at a time: 16 KiB.

// One step of the sort: each thread compares, and maybe exchanges, two keys that are `stride` apart. `keys` is a part
// of `count` keys of the array, and `first` is the position of keys[0] in the array.
__device__ inline void bitonic_step(uint64_t* keys, int count, int first, int size, int stride) {
#pragma unroll 1  // There are few pairs for each thread.
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
}

// Merges runs of keys in shared memory, from runs of `size` keys up to one of `last_size`. `keys` is a part of `count`
// keys of the array, as in bitonic_step().
//
// With a stride of at most 32, the 32 pairs of a warp are 64 neighboring keys, in every such step the same ones. So
// between two of these steps, only the lanes of a warp wait for each other.
__device__ inline void merge_runs(uint64_t* keys, int count, int first, int size, int last_size) {
  for (; size <= last_size; size *= 2) {
    for (int stride = size <= count ? size / 2 : count / 2; stride > 0; stride /= 2) {
      bitonic_step(keys, count, first, size, stride);
      const int next_stride = stride > 1 ? stride / 2 : size;
      if (stride <= 32 && next_stride <= 32) {
        __syncwarp();
      } else {
        __syncthreads();
      }
    }
  }
  __syncthreads();
}

// Sorts keys[0..n) in shared memory in ascending order. n must be a power of two.
__device__ inline void sort_in_shared(uint64_t* keys, int n) {
  __syncthreads();  // Other threads of the block may have written the keys.
  merge_runs(keys, n, 0, 2, n);
}

// Sorts keys[0..n) in ascending order. n must be a power of two. The keys lie in global memory that no other block
// uses. Steps with small strides run in shared memory. Up to kSharedKeys keys, global memory is read and written only
// once.
__device__ inline void block_sort(uint64_t* keys, int n) {
  __shared__ uint64_t shared_keys[kSharedKeys];
  const int chunk = n < kSharedKeys ? n : kSharedKeys;
  __syncthreads();  // Other threads of the block may have written the keys.
  for (int size = chunk; size <= n; size *= 2) {
    for (int stride = size / 2; stride >= chunk; stride /= 2) {
      bitonic_step(keys, n, 0, size, stride);
      __syncthreads();
    }
    for (int first = 0; first < n; first += chunk) {
      for (int i = threadIdx.x; i < chunk; i += blockDim.x) shared_keys[i] = keys[first + i];
      __syncthreads();
      merge_runs(shared_keys, chunk, first, size == chunk ? 2 : size, size);
      for (int i = threadIdx.x; i < chunk; i += blockDim.x) keys[first + i] = shared_keys[i];
      __syncthreads();
    }
  }
}

}  // namespace
}  // namespace retinasdk::cuda
