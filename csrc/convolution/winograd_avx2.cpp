// The convolution kernels for AVX2 and FMA. CMakeLists.txt enables both instruction sets for this file.
//
// Code in this file may call only functions with internal linkage. If the linker used this file's copy of an inline
// function for the whole program, that function would not run on a machine without AVX2.
#include "convolution/winograd_kernels_impl.h"

namespace retinasdk::winograd {
const Kernels kAvx2Kernels = kKernels;
}
