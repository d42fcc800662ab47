// Winograd kernels for AVX2 and FMA; CMakeLists.txt compiles this file with them. Only what has internal linkage may be
// called here: a function of a header that the linker takes from this file would not run on a machine without.
#include "convolution/winograd_kernels_impl.h"

namespace retinasdk::winograd {
const Kernels kAvx2Kernels = kKernels;
}
