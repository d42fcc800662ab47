// ONNX Runtime's library, which is loaded when the first model is opened.
#pragma once

#include <string>

#include "runtime/ort_session_api.h"

namespace retinasdk::runtime {

// A loaded library with its environment. It stays loaded until the process ends, because its threads may still run.
struct OrtLibrary {
  ort::SessionApi api;
  ort::Env* env;

  // Throws std::runtime_error with the first line of the message, as ONNX Runtime's Python package writes it, if there
  // is an error.
  void check(ort::Status* status) const;
};

// Loads ONNX Runtime, once for each path.
//
// path: of the library. Empty: what the environment variable RETINASDK_ONNXRUNTIME says, else the usual names, which
// the system's loader looks up (LD_LIBRARY_PATH, the application's rpath, ldconfig).
//
// Throws MissingDependencyError if it cannot be loaded or is older than version 1.17.
const OrtLibrary& ort_library(const std::string& path);

}  // namespace retinasdk::runtime
