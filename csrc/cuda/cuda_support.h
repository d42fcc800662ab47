// Helpers for the host code of all *_cuda.cu files: checked calls, typed launches, scratch layout, argument checks.
#pragma once

#include <cuda_runtime.h>

#include <string>
#include <type_traits>

#include "retinasdk/ops_cuda.h"

namespace retinasdk::cuda {

// Throws cuda::Error if the call named `what` failed.
inline void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // Clears the error, so that the next call does not report it again.
  throw Error(std::string(what) + " failed: " + cudaGetErrorName(status) + " (" + cudaGetErrorString(status) + ")");
}

// Runs kernel<<<grid, block, 0, stream>>>(arguments...) and checks the launch.
template <typename... Parameters>
void launch(const char* name, void (*kernel)(Parameters...), dim3 grid, dim3 block, Stream stream,
            std::common_type_t<Parameters>... arguments) {
  void* addresses[] = {&arguments...};
  check(cudaLaunchKernel(kernel, grid, block, addresses, 0, static_cast<cudaStream_t>(stream)), name);
}

// Divides a scratch buffer into consecutive, aligned parts. Without a buffer (data is null), it only computes the size
// that is needed.
class ScratchLayout {
 public:
  explicit ScratchLayout(void* data = nullptr) : data_(static_cast<unsigned char*>(data)) {}

  template <typename T>
  T* take(size_t count) {
    T* part = data_ == nullptr ? nullptr : reinterpret_cast<T*>(data_ + size_bytes_);
    size_bytes_ += (count * sizeof(T) + kAlignment - 1) / kAlignment * kAlignment;
    return part;
  }

  size_t size_bytes() const { return size_bytes_; }

 private:
  static constexpr size_t kAlignment = 256;
  unsigned char* data_;
  size_t size_bytes_ = 0;
};

inline void require(bool condition, const std::string& message) {
  if (!condition) throw std::invalid_argument(message);
}

inline void require_scratch(Scratch scratch, size_t wanted) {
  require(scratch.size_bytes >= wanted && scratch.data != nullptr,
          "scratch must have " + std::to_string(wanted) + " bytes, got " + std::to_string(scratch.size_bytes) +
              (scratch.data == nullptr ? " at a null address" : "") +
              "; allocate what the *_scratch_bytes function returns for the same options");
}

// Checks the arguments that NMS, soft NMS and fusion share.
inline void require_suppression(int batch, int capacity, const DeviceNmsOptions& options, int classes) {
  require(batch >= 1 && batch <= 65535, "batch must be 1 to 65535, got " + std::to_string(batch));
  require(capacity >= 1 && capacity <= 1 << 24,
          "the capacity of the candidates must be 1 to 16777216 per image, got " + std::to_string(capacity));
  require(options.max_detections >= 1 && options.max_detections <= 1 << 20,
          "max_detections must be 1 to 1048576, got " + std::to_string(options.max_detections));
  require(options.max_per_class >= 1, "max_per_class must be at least 1, got " + std::to_string(options.max_per_class));
  require(options.iou_threshold == options.iou_threshold, "iou_threshold must be a number, got NaN");
  require(classes >= 1 && classes <= 1 << 16, "classes must be 1 to 65536, got " + std::to_string(classes));
}

// Returns the smallest power of two that is not below the value.
inline int power_of_two_from(int value) {
  int power = 1;
  while (power < value) power *= 2;
  return power;
}

}  // namespace retinasdk::cuda
