// Winograd kernels for what every machine of this architecture has: NEON on ARM64, else plain C++.
#include "convolution/winograd_kernels_impl.h"

namespace retinasdk::winograd {
const Kernels kPlainKernels = kKernels;
}
