// The GPU backend: runs a RetinaNet as a TensorRT engine, with preprocessing and post-processing on the GPU too.
//
// This header includes nothing of CUDA or TensorRT, and exists in every build: without_tensorrt.cpp replaces the rest
// where they were not found.
#pragma once

#include <memory>
#include <string>

#include "runtime/backend.h"

namespace retinasdk::runtime {

// Opens the GPU and loads an engine.
//
// path: an engine with its JSON file beside it. An ONNX file is refused with the command that builds its engine.
// spec: null for the one in the JSON file. warning: receives what Python logs as a warning, or nothing.
//
// Throws DeviceError if there is no usable GPU, it fails, or this library was built without TensorRT; ModelError if the
// file is not an engine for this machine or does not fit its spec; MissingDependencyError if TensorRT cannot be loaded.
std::unique_ptr<Backend> open_tensorrt(const std::string& path, const ModelSpec* spec, const Suppression& suppression,
                                       std::string& warning);

// The version of TensorRT whose headers the library was built with, such as "10.3.0". Empty: without TensorRT.
std::string tensorrt_headers();

}  // namespace retinasdk::runtime
