// The kernels that run on every machine: NEON on ARM64, plain C++ elsewhere.
#include "convolution/kernels_impl.h"

namespace retinasdk::convolution {
extern const Kernels kPlainKernels;
const Kernels kPlainKernels = kKernels;
}  // namespace retinasdk::convolution
