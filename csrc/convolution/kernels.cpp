// Which kernels run on this machine.
#include "convolution/kernels.h"

#include <cstdlib>
#include <stdexcept>

#include "cpu/cpu_features.h"

namespace retinasdk::convolution {

#ifdef RETINASDK_CONVOLUTION_X86
extern const Kernels kAvx512Kernels, kAvx2Kernels;
#endif
extern const Kernels kPlainKernels;

std::vector<const Kernels*> usable_kernels() {
  std::vector<const Kernels*> usable;
#ifdef RETINASDK_CONVOLUTION_X86
  static const cpu::Features found = cpu::features();
  if (found.avx512 && found.avx2 && found.fma) usable.push_back(&kAvx512Kernels);
  if (found.avx2 && found.fma) usable.push_back(&kAvx2Kernels);
#endif
  usable.push_back(&kPlainKernels);
  return usable;
}

namespace {

const Kernels& chosen_kernels() {
  const std::vector<const Kernels*> usable = usable_kernels();
  const char* wanted = std::getenv("RETINASDK_ISA");
  if (wanted == nullptr || *wanted == '\0') return *usable.front();
  std::string names;
  for (const Kernels* kernels : usable) {
    if (std::string(wanted) == kernels->name) return *kernels;
    names += (names.empty() ? "" : ", ") + std::string(kernels->name);
  }
  throw std::invalid_argument("RETINASDK_ISA is '" + std::string(wanted) + "', but this processor runs " + names +
                              "; set it to one of these, or unset it");
}

}  // namespace

const Kernels& best_kernels() {
  static const Kernels& chosen = chosen_kernels();
  return chosen;
}

}  // namespace retinasdk::convolution
