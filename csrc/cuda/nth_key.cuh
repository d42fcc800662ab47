// Selection of the n smallest of many keys by one block of threads.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace retinasdk::cuda {
namespace {

constexpr int kDigitBits = 11;
constexpr int kDigits = 1 << kDigitBits;

// What one thread finds for all. A wide load of these words must not fetch others with them: another thread may write
// those at that time. Hence the alignment.
struct alignas(16) ChosenDigit {
  uint32_t digit, below, count, unused;
};

// Returns an upper bound that exactly `wanted` of the keys do not exceed. It is a radix selection: count the keys by
// their highest digit, find the digit of the wanted-th smallest key, and go on with the keys of that digit. All keys
// are different, so the selection ends with the last digit at the latest.
//
// for_each_key(body) must call body(key) once for each key, from any thread of the block. There must be `wanted` keys
// or more, and all threads must call.
template <typename ForEachKey>
__device__ uint64_t nth_key(uint32_t wanted, ForEachKey for_each_key) {
  __shared__ uint32_t counts[kDigits];
  __shared__ ChosenDigit chosen;
  uint64_t prefix = 0;
  uint64_t known = 0;  // The bits of `prefix` that are determined.
  // uncovered: all keys are different, so the break below ends the loop with the last digit at the latest
  for (int shift = 55; shift >= 0; shift -= kDigitBits) {
    for (int digit = threadIdx.x; digit < kDigits; digit += blockDim.x) counts[digit] = 0;
    __syncthreads();
    for_each_key([&](uint64_t key) {
      if ((key & known) == prefix) atomicAdd(&counts[key >> shift & (kDigits - 1)], 1u);
    });
    __syncthreads();
    // Each lane sums a share of the digits. The lane that contains the wanted-th key searches its share.
    if (threadIdx.x < 32) {
      constexpr uint32_t kShare = kDigits / 32;
      const uint32_t first = threadIdx.x * kShare;
      uint32_t share = 0;
      for (uint32_t i = 0; i < kShare; ++i) share += counts[first + i];
      uint32_t up_to = share;
      for (int distance = 1; distance < 32; distance *= 2) {
        const uint32_t lower = __shfl_up_sync(0xffffffffu, up_to, static_cast<unsigned>(distance));
        if (static_cast<int>(threadIdx.x) >= distance) up_to += lower;
      }
      uint32_t below = up_to - share;
      if (below < wanted && wanted <= up_to) {
        uint32_t digit = first;
        while (below + counts[digit] < wanted) below += counts[digit++];
        chosen = {digit, below, counts[digit], 0};
      }
    }
    __syncthreads();
    prefix |= uint64_t{chosen.digit} << shift;
    known |= static_cast<uint64_t>(kDigits - 1) << shift;
    wanted -= chosen.below;
    const bool all_wanted = wanted == chosen.count;  // All keys with this digit.
    __syncthreads();                                 // The next round, or the next call, writes `chosen`.
    if (all_wanted) break;
  }
  return prefix | ~known;
}

}  // namespace
}  // namespace retinasdk::cuda
