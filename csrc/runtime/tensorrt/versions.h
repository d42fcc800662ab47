// Hides how the versions of TensorRT differ, from 8.5 to 11. This is the only file that looks at version numbers.
//
// The functions of the runtime that are used exist under the same names, with the same arguments, in all of these
// versions: compiled against the headers of 8.5.1 to 8.5.3, 8.6.1, 10.3.0, 10.13.3, 10.16, 11.0 and 11.1 by
// tests/native/checks/tensorrt_headers.py. Not compared: 9.x, which NVIDIA made for language models only.
#pragma once

// The headers of some versions warn about their own deprecated names.
#if defined(__GNUC__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
#endif
#include <NvInferRuntime.h>
#if defined(__GNUC__)
#pragma GCC diagnostic pop
#endif

#include <cstdint>
#include <string>
#include <vector>

#if !defined(NV_TENSORRT_MAJOR) || NV_TENSORRT_MAJOR * 100 + NV_TENSORRT_MINOR < 805
#error \
    "retinasdk needs TensorRT 8.5 or newer. Install the development package of one (libnvinfer-dev), or set \
-DRETINASDK_TENSORRT=OFF."
#endif

namespace retinasdk::runtime::trt {

// The version of the headers, such as "10.3.0".
inline std::string header_version() {
  return std::to_string(NV_TENSORRT_MAJOR) + "." + std::to_string(NV_TENSORRT_MINOR) + "." +
         std::to_string(NV_TENSORRT_PATCH);
}

// The version that a library reports as a number, in the same form. Before version 10 it is 8503, later 100300.
inline std::string version_text(int number) {
  const int major = number < 10000 ? number / 1000 : number / 10000;
  const int rest = number < 10000 ? number % 1000 : number % 10000;
  return std::to_string(major) + "." + std::to_string(rest / 100) + "." + std::to_string(rest % 100);
}

// From version 10 on the sides of `Dims` have 64 bits, before 32.
using Side = std::remove_reference_t<decltype(nvinfer1::Dims{}.d[0])>;

inline std::vector<int64_t> sides(const nvinfer1::Dims& dims) {
  return dims.nbDims < 0 ? std::vector<int64_t>{} : std::vector<int64_t>(dims.d, dims.d + dims.nbDims);
}

template <typename Sides>
nvinfer1::Dims as_dims(const Sides& shape) {
  nvinfer1::Dims dims{};
  for (const auto side : shape) dims.d[dims.nbDims++] = static_cast<Side>(side);
  return dims;
}

// The name of a type without its "k", as the Python bindings call it. The numbers are the same in all versions.
inline std::string name_of(nvinfer1::DataType type) {
  static const char* const names[] = {"FLOAT", "HALF", "INT8",  "INT32", "BOOL", "UINT8",
                                      "FP8",   "BF16", "INT64", "INT4",  "FP4",  "E8M0"};
  const auto number = static_cast<size_t>(type);
  return number < sizeof names / sizeof *names ? names[number] : "number " + std::to_string(number);
}

// The name of a type that the kernels can copy, as NumPy calls it.
inline std::string numpy_name(nvinfer1::DataType type) {
  static const char* const names[] = {"float32", "float16", "int8", "int32", "bool"};
  const auto number = static_cast<size_t>(type);
  return number < sizeof names / sizeof *names ? names[number] : name_of(type);
}

// The size of a value of such a type in bytes.
inline size_t bytes_of(nvinfer1::DataType type) {
  static const size_t sizes[] = {4, 2, 1, 4, 1};
  return sizes[static_cast<size_t>(type)];
}

// The name of a format without its "k".
inline std::string name_of(nvinfer1::TensorFormat format) {
  static const char* const names[] = {"LINEAR", "CHW2", "HWC8",       "CHW4",     "CHW16", "CHW32", "DHWC8",
                                      "CDHW32", "HWC",  "DLA_LINEAR", "DLA_HWC4", "HWC16", "DHWC"};
  const auto number = static_cast<size_t>(format);
  return number < sizeof names / sizeof *names ? names[number] : "number " + std::to_string(number);
}

}  // namespace retinasdk::runtime::trt
