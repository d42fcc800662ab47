#include "runtime/tensorrt/head_layout.h"

#include <algorithm>
#include <functional>
#include <numeric>

#include "runtime/errors.h"

namespace retinasdk::runtime::trt {
namespace {

// Whether the strides are the expected ones, except on axes of length 1, where they do not matter.
bool fits(const Sides& shape, const Sides& strides, const Sides& expected) {
  for (size_t axis = 0; axis < shape.size(); ++axis) {
    if (shape[axis] != 1 && strides[axis] != expected[axis]) return false;
  }
  return true;
}

size_t product(const Sides& shape) {
  return static_cast<size_t>(std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>()));
}

}  // namespace

std::string in_words(const Sides& sides) {
  std::string words;
  for (const int64_t side : sides) words += (words.empty() ? "" : ", ") + std::to_string(side);
  return "(" + words + (sides.size() == 1 ? ",)" : ")");
}

StoredOutput ask_how_stored(const nvinfer1::ICudaEngine& engine, const nvinfer1::IExecutionContext& context,
                            const std::string& name) {
  const char* const text = name.c_str();
  const int axis = engine.getTensorVectorizedDim(text);
  return {name, engine.getTensorDataType(text), sides(context.getTensorShape(text)),
          sides(context.getTensorStrides(text)), engine.getTensorFormat(text), axis,
          // Without such an axis, TensorRT says -1.
          axis < 0 ? 1 : std::max(1, static_cast<int>(engine.getTensorComponentsPerElement(text)))};
}

OutputMemory head_memory(const StoredOutput& stored, const std::string& origin) {
  const Sides& shape = stored.shape;
  const std::optional<int> stride = cell_stride(shape, stored.strides, stored.vectorized_axis, stored.vector_size);
  if (!stride) {
    const std::string packed = stored.vectorized_axis < 0
                                   ? ""
                                   : ", " + std::to_string(stored.vector_size) + " values of axis " +
                                         std::to_string(stored.vectorized_axis) + " in each element";
    throw ModelError(origin + ": TensorRT stores the head output '" + stored.name + "' of shape " + in_words(shape) +
                     " in the format " + name_of(stored.format) + " with strides " + in_words(stored.strides) + packed +
                     ". It must be stored as (N, C, H, W) without gaps, or as (N, H, W, C). Build the engine again "
                     "with: retinasdk build model.onnx -o model.engine --head-layout channels_first");
  }
  const size_t cells = static_cast<size_t>(shape[0] * shape[2] * shape[3]);
  return {stored.name, stored.type, shape, *stride > 0 ? cells * static_cast<size_t>(*stride) : product(shape),
          *stride};
}

OutputMemory other_memory(const StoredOutput& stored) {
  Sides shape = stored.shape;
  if (stored.vectorized_axis >= 0) {
    int64_t& side = shape.at(static_cast<size_t>(stored.vectorized_axis));
    side = (side + stored.vector_size - 1) / stored.vector_size;
  }
  int64_t elements = 1;
  for (size_t axis = 0; axis < std::min(shape.size(), stored.strides.size()); ++axis) {
    elements = std::max(elements, shape[axis] * stored.strides[axis]);
  }
  return {stored.name, stored.type, stored.shape,
          std::max(static_cast<size_t>(elements * stored.vector_size), product(stored.shape))};
}

std::optional<int> cell_stride(const Sides& shape, const Sides& strides, int vectorized_axis, int vector_size) {
  if (shape.size() != 4 || strides.size() != 4 || (vectorized_axis != -1 && vectorized_axis != 1)) return {};
  const int64_t batch = shape[0], channels = shape[1], height = shape[2], width = shape[3];
  if (vectorized_axis == -1) {
    // The stride of the innermost axis along which there are several cells. A single cell may have a gap behind it.
    const int64_t cell = width > 1 ? strides[3] : height > 1 ? strides[2] : strides[0];
    if (cell >= channels && fits(shape, strides, {height * width * cell, 1, width * cell, cell})) {
      return static_cast<int>(cell);
    }
    if (fits(shape, strides, {channels * height * width, height * width, width, 1})) return 0;
    return {};
  }
  const int64_t vectors = (channels + vector_size - 1) / vector_size;
  for (const int64_t unit : {int64_t{1}, int64_t{vector_size}}) {
    const int64_t cell = vectors * unit;
    if (fits({batch, vectors, height, width}, strides, {height * width * cell, 1, width * cell, cell})) {
      return static_cast<int>(vectors * vector_size);
    }
  }
  return {};
}

}  // namespace retinasdk::runtime::trt
