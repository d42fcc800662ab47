// The operators by subject. Each function is in a file of its own, and called once.
#pragma once

#include <vector>

#include "onnxruntime/ort_abi.h"

namespace retinasdk::ort {

std::vector<CustomOp> float_operators();      // ort_ops.cpp
std::vector<CustomOp> quantized_operators();  // int8_ops.cpp

}  // namespace retinasdk::ort
