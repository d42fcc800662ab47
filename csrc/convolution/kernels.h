// The kernels of the convolutions, compiled once for each instruction set, and the choice between them.
#pragma once

#include <string>
#include <vector>

#include "convolution/depthwise_kernels.h"
#include "convolution/layout_kernels.h"
#include "convolution/multiply_kernels.h"
#include "convolution/winograd_kernels.h"

namespace retinasdk::convolution {

struct Kernels {
  const char* name;  // Of the instruction set: "avx512", "avx2", "neon" or "plain".
  MultiplyKernels multiply;
  LayoutKernels layout;
  WinogradKernels winograd;
  DepthwiseKernels depthwise;
};

// The fastest kernels that this processor can run, or those that the environment variable RETINASDK_ISA names. Read
// once. Throws std::invalid_argument if it names others than this processor can run.
const Kernels& best_kernels();

// All kernels that this processor can run, the fastest first.
std::vector<const Kernels*> usable_kernels();

}  // namespace retinasdk::convolution
