// The CPU backend: runs a RetinaNet with ONNX Runtime. The counterpart of retinasdk/backends/onnx_cpu.py, with the
// convolutions of ONNX Runtime: convolution="direct" there.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "runtime/backend.h"

namespace retinasdk::runtime {

// Loads a model.
//
// spec: null for the one that belongs to the file. threads: of a call; none: one for each core.
// library: the path of ONNX Runtime, see ort_library(). warning: receives what Python logs as a warning, or nothing.
//
// Throws ModelError if the file cannot be loaded, has no spec, or does not fit it, and MissingDependencyError if ONNX
// Runtime cannot be loaded.
std::unique_ptr<Backend> open_onnx(const std::filesystem::path& path, const ModelSpec* spec, std::optional<int> threads,
                                   const Suppression& suppression, const std::string& library, std::string& warning);

}  // namespace retinasdk::runtime
