#include "convolution/int8_kernels_impl.h"

namespace retinasdk::int8 {

extern const Kernels kVnniKernels;
const Kernels kVnniKernels{"vnni", multiply, arrange, depthwise_row, add, quantize, quantize_planes};

}  // namespace retinasdk::int8
