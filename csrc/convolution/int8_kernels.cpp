#include "convolution/int8_kernels.h"

#include <cstring>

#include "convolution/kernels.h"
#include "cpu/cpu_features.h"

namespace retinasdk::int8 {

extern const Kernels kPlainKernels;
#ifdef RETINASDK_CONVOLUTION_X86
extern const Kernels kVnniKernels;
#endif

std::vector<const Kernels*> usable_kernels() {
  std::vector<const Kernels*> usable;
#ifdef RETINASDK_CONVOLUTION_X86
  static const cpu::Features found = cpu::features();
  if (found.avx512_vnni && found.fma) usable.push_back(&kVnniKernels);
#endif
  usable.push_back(&kPlainKernels);
  return usable;
}

const Kernels& best_kernels() {
  static const Kernels& best = []() -> const Kernels& {
    const bool is_limited = std::strcmp(convolution::best_kernels().name, "avx512") != 0;  // By RETINASDK_ISA.
    return *(is_limited ? usable_kernels().back() : usable_kernels().front());
  }();
  return best;
}

}  // namespace retinasdk::int8
