// The minimum of a key over the threads of a block.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace retinasdk::cuda {
namespace {

// Returns the smallest `key` of all threads, to all of them. kThreads is the block size, and every thread must call.
// The call is also a barrier: afterwards, all threads see what any thread wrote before.
template <int kThreads>
__device__ inline uint64_t block_min(uint64_t key) {
  __shared__ uint64_t of_warp[kThreads / 32];
  for (int distance = 16; distance > 0; distance /= 2) {
    const uint64_t other = __shfl_xor_sync(0xffffffffu, key, distance);
    key = other < key ? other : key;
  }
  if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = key;
  __syncthreads();
  for (int warp = 0; warp < kThreads / 32; ++warp) key = of_warp[warp] < key ? of_warp[warp] : key;
  __syncthreads();  // The next call may overwrite of_warp.
  return key;
}

}  // namespace
}  // namespace retinasdk::cuda
