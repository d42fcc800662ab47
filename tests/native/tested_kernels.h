// All kernels that the tests run: those that this processor can run, and those for other processors with stand-ins for
// their instructions (avx512_stand_in.cpp and avx_vnni_stand_in.cpp).
#pragma once

#include <string>
#include <vector>

#include "convolution/int8_kernels.h"
#include "convolution/kernels.h"

namespace retinasdk::convolution {
extern const Kernels kAvx512StandIn;
}
namespace retinasdk::int8 {
extern const Kernels kVnniStandIn, kAvxVnniStandIn;
}

namespace convolution_tests {

// The stand-ins need AVX2 themselves.
inline bool runs_stand_ins() {
  for (const auto* kernels : retinasdk::convolution::usable_kernels()) {
    if (std::string(kernels->name) == "avx2") return true;
  }
  return false;
}

inline std::vector<const retinasdk::convolution::Kernels*> float_kernels() {
  std::vector<const retinasdk::convolution::Kernels*> all = retinasdk::convolution::usable_kernels();
#ifdef RETINASDK_AVX512_STAND_IN
  if (runs_stand_ins()) all.push_back(&retinasdk::convolution::kAvx512StandIn);
#endif
  return all;
}

inline std::vector<const retinasdk::int8::Kernels*> int8_kernels() {
  std::vector<const retinasdk::int8::Kernels*> all = retinasdk::int8::usable_kernels();
#ifdef RETINASDK_AVX512_STAND_IN
  if (runs_stand_ins()) all.push_back(&retinasdk::int8::kVnniStandIn);
#endif
#ifdef RETINASDK_AVX_VNNI_STAND_IN
  if (runs_stand_ins()) all.push_back(&retinasdk::int8::kAvxVnniStandIn);
#endif
  return all;
}

}  // namespace convolution_tests
