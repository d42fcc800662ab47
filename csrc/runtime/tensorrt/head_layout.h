// The layout of head outputs in memory, as a loaded engine states it. See retinasdk/tensorrt/head_layout.py, whose
// Note [Channels last] and Note [Units of strides] hold here too.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "runtime/tensorrt/versions.h"

namespace retinasdk::runtime::trt {

using Sides = std::vector<int64_t>;

// What TensorRT says about how a context stores an output.
struct StoredOutput {
  std::string name;
  nvinfer1::DataType type;
  Sides shape;
  Sides strides;
  nvinfer1::TensorFormat format;
  int vectorized_axis;  // The axis of which each element holds several values. -1: there is none.
  int vector_size;      // The number of values in an element, at least 1.
};

// Asks an engine and its context, whose input shape is set.
StoredOutput ask_how_stored(const nvinfer1::ICudaEngine& engine, const nvinfer1::IExecutionContext& context,
                            const std::string& name);

// How an output lies in memory.
struct OutputMemory {
  std::string name;
  nvinfer1::DataType type;
  Sides shape;          // (N, C, H, W) for head outputs.
  size_t values;        // The number of values that its memory holds, with gaps.
  int cell_stride = 0;  // 0: channels come first. Else they come last: the number of values from cell to cell.
};

// Returns how a head output lies in memory. Throws ModelError if the kernels cannot read it. `origin`: the engine file.
OutputMemory head_memory(const StoredOutput& stored, const std::string& origin);

// Returns how much memory TensorRT needs for an output that nobody reads.
OutputMemory other_memory(const StoredOutput& stored);

// Derives the layout of a head output from its strides: 0 if channels come first, (N, C, H, W) without gaps. If they
// come last, the number of values from one cell to the next. If both are true, as with one channel, it says last.
// Nothing if it is another layout.
std::optional<int> cell_stride(const Sides& shape, const Sides& strides, int vectorized_axis, int vector_size);

// Returns "(1, 36, 4, 5)".
std::string in_words(const Sides& sides);

}  // namespace retinasdk::runtime::trt
