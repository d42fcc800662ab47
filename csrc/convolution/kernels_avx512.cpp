// The kernels for AVX-512 (F, BW, DQ, VL) and FMA. CMakeLists.txt enables them for this file.
//
// Code in this file may call only functions with internal linkage. If the linker used this file's copy of an inline
// function for the whole program, that function would not run on a machine without AVX-512.
#include "convolution/kernels_impl.h"

namespace retinasdk::convolution {
extern const Kernels kAvx512Kernels;
const Kernels kAvx512Kernels = kKernels;
}  // namespace retinasdk::convolution
