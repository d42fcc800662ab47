#include "convolution/int8_kernels_impl.h"

namespace retinasdk::int8 {

extern const Kernels kAvxVnniKernels;
const Kernels kAvxVnniKernels{"avx_vnni",    kDot,    kOneBlock, kCodeOffset, multiply, nullptr,         arrange,
                              depthwise_row, nullptr, nullptr,   add,         quantize, quantize_planes, to_planes};

}  // namespace retinasdk::int8
