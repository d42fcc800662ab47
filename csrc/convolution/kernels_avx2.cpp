// The kernels for AVX2 and FMA. CMakeLists.txt enables both for this file.
//
// Code in this file may call only functions with internal linkage. If the linker used this file's copy of an inline
// function for the whole program, that function would not run on a machine without AVX2.
#include "convolution/kernels_impl.h"

namespace retinasdk::convolution {
extern const Kernels kAvx2Kernels;
const Kernels kAvx2Kernels = kKernels;
}  // namespace retinasdk::convolution
