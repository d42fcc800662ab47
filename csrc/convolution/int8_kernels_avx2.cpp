#include "convolution/int8_kernels_impl.h"
#include "convolution/int8_winograd_avx2.h"

namespace retinasdk::int8 {

extern const Kernels kAvx2Kernels;
const Kernels kAvx2Kernels{"avx2",  kDot,     kOneBlock,       kCodeOffset,    multiply,
                           prepare, arrange,  depthwise_row,   winograd_input, winograd_output,
                           add,     quantize, quantize_planes, to_planes};

}  // namespace retinasdk::int8
