#include "convolution/int8_kernels.h"

#include <string>

#include "convolution/kernels.h"
#include "cpu/cpu_features.h"

namespace retinasdk::int8 {

extern const Kernels kPlainKernels;
#ifdef RETINASDK_CONVOLUTION_X86
extern const Kernels kVnniKernels, kAvx2Kernels;
#ifdef RETINASDK_CONVOLUTION_AVX_VNNI
extern const Kernels kAvxVnniKernels;
#endif
#endif
#ifdef RETINASDK_CONVOLUTION_DOTPROD
extern const Kernels kDotprodKernels;
#endif

std::vector<const Kernels*> usable_kernels() {
  std::vector<const Kernels*> usable;
#ifdef RETINASDK_CONVOLUTION_X86
  static const cpu::Features found = cpu::features();
  if (found.avx512_vnni && found.fma) usable.push_back(&kVnniKernels);
#ifdef RETINASDK_CONVOLUTION_AVX_VNNI
  if (found.avx_vnni && found.avx2 && found.fma) usable.push_back(&kAvxVnniKernels);
#endif
  if (found.avx2 && found.fma) usable.push_back(&kAvx2Kernels);
#endif
#ifdef RETINASDK_CONVOLUTION_DOTPROD
  if (cpu::has_dot_product()) usable.push_back(&kDotprodKernels);
#endif
  usable.push_back(&kPlainKernels);
  return usable;
}

namespace {

const Kernels& chosen_kernels() {
  const std::string isa = convolution::best_kernels().name;  // RETINASDK_ISA may limit it.
  for (const Kernels* kernels : usable_kernels()) {
    const bool has_wider_registers = std::string(kernels->name) == "vnni";
    if (isa == "avx512" || (isa != "plain" && !has_wider_registers)) return *kernels;
  }
  return kPlainKernels;
}

}  // namespace

const Kernels* winograd_kernels(const Kernels& kernels) {
  if (kernels.winograd_input != nullptr) return &kernels;
#ifdef RETINASDK_CONVOLUTION_X86
  // Four times fewer products, which take twice as long.
  if (std::string(kernels.name) == "avx_vnni") return &kAvx2Kernels;
#endif
  return nullptr;
}

const Kernels& best_kernels() {
  static const Kernels& best = chosen_kernels();
  return best;
}

}  // namespace retinasdk::int8
