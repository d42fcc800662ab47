// The convolution kernels that run on every machine: NEON on ARM64, plain C++ elsewhere.
#include "convolution/winograd_kernels_impl.h"

namespace retinasdk::winograd {
const Kernels kPlainKernels = kKernels;
}
