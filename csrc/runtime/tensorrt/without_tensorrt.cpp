// What the library has in place of the GPU backend if TensorRT's headers or CUDA were not found when it was built.
#include "runtime/errors.h"
#include "runtime/tensorrt/tensorrt_backend.h"

namespace retinasdk::runtime {

std::unique_ptr<Backend> open_tensorrt(const std::string& path, const ModelSpec*, const Suppression&, std::string&) {
  throw DeviceError(
      path +
      ": device 'cuda' needs TensorRT, but this libretinasdk was built without TensorRT. Install the "
      "headers of TensorRT (on a Jetson or with NVIDIA's repository: sudo apt install libnvinfer-dev) and "
      "the CUDA toolkit, and build it again with: cmake -B build -DRETINASDK_TENSORRT=ON. Or use device "
      "'cpu' with the ONNX file.");
}

std::string tensorrt_headers() { return {}; }

}  // namespace retinasdk::runtime
