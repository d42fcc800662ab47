// TensorRT's library, libnvinfer, which is loaded when the first engine is opened.
//
// Note [Loading TensorRT]
//
// The API of TensorRT is one C function that makes a runtime; everything behind it is a virtual call, which needs no
// symbol. So libretinasdk is compiled with TensorRT's headers but not linked to libnvinfer:
//
// - The same program runs on a machine without TensorRT, on the CPU. On Jetson, images of containers are built where
//   NVIDIA's container runtime does not mount libnvinfer, and run where it does.
// - The CMake package and the pkg-config file of retinasdk name no path of a TensorRT, so they can be moved.
// - A missing library is an error with words, instead of a program that does not start.
//
// The name that is loaded has the major version of the headers, such as libnvinfer.so.10: inside a major version,
// NVIDIA keeps the binary interface. It is found as the dynamic loader finds any library (LD_LIBRARY_PATH, the
// application's rpath, ldconfig). RETINASDK_TENSORRT_LINKED links the functions instead, for a static libnvinfer and
// for tests.
#pragma once

#include <string>

#include "runtime/tensorrt/versions.h"

namespace retinasdk::runtime::trt {

// Makes a runtime, or returns null; the reason is in the log. There must be a GPU, because some versions crash without
// one. Throws MissingDependencyError if the library cannot be loaded.
nvinfer1::IRuntime* new_runtime(nvinfer1::ILogger& logger);

// The version of the library that is loaded, such as "10.3.0". Throws as new_runtime().
std::string library_version();

}  // namespace retinasdk::runtime::trt
