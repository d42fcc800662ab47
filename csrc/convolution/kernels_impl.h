// All kernels for the instruction set that the compiler targets. Each kernels_<instruction set>.cpp includes this file
// once and exports kKernels under a name of its own.
//
// Fused multiply-adds are allowed here: the parity contract covers pre- and post-processing, not the network.
#pragma once

#include "convolution/depthwise_kernels_impl.h"
#include "convolution/kernels.h"
#include "convolution/layout_kernels_impl.h"
#include "convolution/multiply_kernels_impl.h"
#include "convolution/winograd_kernels_impl.h"

namespace retinasdk::convolution {
namespace {

#if defined(RETINASDK_VEC16_AVX512)
constexpr const char* kName = "avx512";
#elif defined(RETINASDK_VEC16_AVX2)
constexpr const char* kName = "avx2";
#elif defined(RETINASDK_VEC16_NEON)
constexpr const char* kName = "neon";
#else
constexpr const char* kName = "plain";
#endif

constexpr Kernels kKernels{kName, kMultiplyKernels, kLayoutKernels, kWinogradKernels, kDepthwiseKernels};

}  // namespace
}  // namespace retinasdk::convolution
