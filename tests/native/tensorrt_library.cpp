// How libretinasdk loads TensorRT's library: through the dynamic loader, by the name with the major version.
//
//   tensorrt_library missing    there is none: the error says what to install
//   tensorrt_library found      LD_LIBRARY_PATH has a library, whose version is told and whose runtime is made
//   tensorrt_library foreign    it has one of that name that is not TensorRT's
//
// The library itself, empty_nvinfer.c, runs nothing.
#include <cstdio>
#include <string>

#include "check.h"
#include "runtime/errors.h"
#include "runtime/tensorrt/library.h"
#include "runtime/tensorrt/logger.h"

using namespace retinasdk::runtime;

int main(int, char** argv) {
  const std::string expected = argv[1];
  if (expected == "found") {
    check(trt::library_version() == "10.13.3", "the library tells its version");
    check(trt::new_runtime(trt::process_logger()) == nullptr, "the library's function is called");
    return 0;
  }
  const std::string words = expected == "missing" ? "libnvinfer.so.10 cannot be loaded (libnvinfer.so.10: cannot open"
                                                  : "libnvinfer.so.10 cannot be loaded (it is not TensorRT's)";
  for (int attempt = 0; attempt < 2; ++attempt) {
    try {
      trt::library_version();
      check(false, "a library that is missing is an error");
    } catch (const MissingDependencyError& error) {
      const std::string message = error.what();
      check(message.find(words) != std::string::npos, error.what());
      check(message.find("sudo apt install libnvinfer10") != std::string::npos, error.what());
    }
  }
}
