#include "convolution/int8_kernels_impl.h"

namespace retinasdk::int8 {

extern const Kernels kDotprodKernels;
const Kernels kDotprodKernels{"dotprod",     kDot,    kOneBlock, kCodeOffset, multiply, prepare,         arrange,
                              depthwise_row, nullptr, nullptr,   add,         quantize, quantize_planes, to_planes};

}  // namespace retinasdk::int8
