// Sorting by one block of threads: bitonic, since its steps are the same whatever the keys.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace retinasdk::cuda {
namespace {

constexpr int kSortTile = 2048;  // keys sorted in shared memory at a time: 16 KiB

// One step on `count` keys, of which keys[0] is key number `first` of the whole: each thread compares keys `stride`
// apart.
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

// Sorts keys[0..n), ascending. n: a power of two. keys: global memory that only this block uses; all of its threads
// call. Steps whose strides fit into a tile run in shared memory, so up to kSortTile keys global memory is passed only
// once.
__device__ inline void block_sort(uint64_t* keys, int n) {
  __shared__ uint64_t tile[kSortTile];
  const int tile_keys = n < kSortTile ? n : kSortTile;
  __syncthreads();  // the keys may come from other threads of the block
  for (int size = tile_keys; size <= n; size *= 2) {
    for (int stride = size / 2; stride >= tile_keys; stride /= 2) bitonic_step(keys, n, 0, size, stride);
    for (int first = 0; first < n; first += tile_keys) {
      for (int i = threadIdx.x; i < tile_keys; i += blockDim.x) tile[i] = keys[first + i];
      __syncthreads();
      for (int inner = size == tile_keys ? 2 : size; inner <= size; inner *= 2) {
        const int largest = inner / 2 < tile_keys / 2 ? inner / 2 : tile_keys / 2;
        for (int stride = largest; stride > 0; stride /= 2) bitonic_step(tile, tile_keys, first, inner, stride);
      }
      for (int i = threadIdx.x; i < tile_keys; i += blockDim.x) keys[first + i] = tile[i];
      __syncthreads();
    }
  }
}

}  // namespace
}  // namespace retinasdk::cuda
