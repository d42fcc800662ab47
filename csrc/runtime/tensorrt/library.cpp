#include "runtime/tensorrt/library.h"

#include <string>

#include "runtime/errors.h"

#ifndef RETINASDK_TENSORRT_LINKED
#include <dlfcn.h>
#endif

namespace retinasdk::runtime::trt {
namespace {

struct Functions {
  void* (*create_runtime)(void* logger, int32_t version) noexcept;
  int32_t (*version)() noexcept;
};

#ifdef RETINASDK_TENSORRT_LINKED

Functions functions() { return {&createInferRuntime_INTERNAL, &getInferLibVersion}; }

#else

[[noreturn]] void throw_missing(const std::string& name, const std::string& cause) {
  const std::string major = std::to_string(NV_TENSORRT_MAJOR);
  throw MissingDependencyError(
      "Running an engine needs TensorRT " + major + ", but " + name + " cannot be loaded (" + cause +
      "). On a Jetson, TensorRT is part of JetPack: install it with: sudo apt install libnvinfer" + major +
      ". On a desktop, install the same package of NVIDIA's repository for CUDA, or add the folder of the library to "
      "LD_LIBRARY_PATH. To run without TensorRT, use device 'cpu' with the ONNX file.");
}

Functions load() {
  const std::string name = "libnvinfer.so." + std::to_string(NV_TENSORRT_MAJOR);
  // It is never closed: TensorRT's threads and its logger live as long as the process.
  void* const library = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) throw_missing(name, dlerror());
  const Functions found = {
      reinterpret_cast<decltype(Functions::create_runtime)>(dlsym(library, "createInferRuntime_INTERNAL")),
      reinterpret_cast<decltype(Functions::version)>(dlsym(library, "getInferLibVersion"))};
  if (found.create_runtime == nullptr || found.version == nullptr) throw_missing(name, "it is not TensorRT's");
  return found;
}

// A failed attempt is repeated by the next call: the library may have been installed since.
Functions functions() {
  static const Functions loaded = load();
  return loaded;
}

#endif

}  // namespace

nvinfer1::IRuntime* new_runtime(nvinfer1::ILogger& logger) {
  return static_cast<nvinfer1::IRuntime*>(functions().create_runtime(&logger, NV_TENSORRT_VERSION));
}

std::string library_version() { return version_text(functions().version()); }

}  // namespace retinasdk::runtime::trt
