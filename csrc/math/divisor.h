// Division of whole numbers by a divisor that many threads share.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define RETINASDK_HOST_DEVICE_DIVISOR __host__ __device__ inline
#else
#define RETINASDK_HOST_DEVICE_DIVISOR inline
#endif

namespace retinasdk {
namespace {

// Note [Division]
// GPUs have no instruction for the division of whole numbers; it takes about 20 others. For values below 2^31, this is
// a multiplication and a shift instead. With s = ceil(log2(divisor)) and m = ceil(2^(31 + s) / divisor), which is below
// 2^32: m * divisor exceeds 2^(31 + s) by less than 2^s, so value * m / 2^(31 + s) exceeds value / divisor by less than
// 1 / divisor. Rounded down, both are the same. (T. Granlund and P. Montgomery, "Division by invariant integers using
// multiplication", 1994.)
struct Divisor {
  uint32_t multiplier;
  int shift;
};

// divisor: 1 to 2^31.
RETINASDK_HOST_DEVICE_DIVISOR Divisor make_divisor(uint32_t divisor) {
  int log2 = 0;
  while ((uint64_t{1} << log2) < divisor) ++log2;
  const int shift = 31 + log2;
  return {static_cast<uint32_t>(((uint64_t{1} << shift) + divisor - 1) / divisor), shift};
}

// Returns value / divisor. value: below 2^31.
RETINASDK_HOST_DEVICE_DIVISOR uint32_t divide(uint32_t value, const Divisor& divisor) {
  return static_cast<uint32_t>(uint64_t{value} * divisor.multiplier >> divisor.shift);
}

}  // namespace
}  // namespace retinasdk
