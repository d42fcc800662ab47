#include "convolution/int8_kernels_impl.h"

namespace retinasdk::int8 {

extern const Kernels kPlainKernels;
const Kernels kPlainKernels{"plain", multiply, arrange, depthwise_row, add, quantize, quantize_planes};

}  // namespace retinasdk::int8
