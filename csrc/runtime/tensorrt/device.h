// The GPU: its choice for a thread, checked calls, a stream, and memory that only grows.
//
// Everything here uses the CUDA runtime, and thereby the primary context of the device, as TensorRT and the kernels do.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <string>

#include "retinasdk/ops_cuda.h"

namespace retinasdk::runtime::trt {

constexpr int kOrdinal = 0;  // The first visible GPU. CUDA_VISIBLE_DEVICES decides which one that is.

// Throws DeviceError if there is no usable GPU. Must come before any object of TensorRT: some versions crash without
// a GPU.
void require_gpu();

// Throws DeviceError if a call failed. `doing` begins the message, such as "making a stream".
void check(cudaError_t status, const std::string& doing);

// Runs a call of ops_cuda.h, and turns its cuda::Error into DeviceError.
template <typename Call>
auto checked(const std::string& doing, const Call& call) -> decltype(call());

// Makes the GPU the current one of the calling thread while it lives, and then the one from before. The application may
// use another GPU in the same thread.
class CurrentDevice {
 public:
  CurrentDevice();
  ~CurrentDevice();
  CurrentDevice(const CurrentDevice&) = delete;
  CurrentDevice& operator=(const CurrentDevice&) = delete;

 private:
  int before_ = kOrdinal;
};

// A stream that does not wait for the default stream.
class Stream {
 public:
  Stream();
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  cudaStream_t handle() const { return stream_; }
  // Waits until all launched work is done. Throws DeviceError if any of it failed.
  void wait() const;

 private:
  cudaStream_t stream_ = nullptr;
};

// A block of GPU memory.
class DeviceBuffer {
 public:
  // purpose: what the memory is for, for error messages.
  explicit DeviceBuffer(std::string purpose) : purpose_(std::move(purpose)) {}
  ~DeviceBuffer() { free(); }
  DeviceBuffer(const DeviceBuffer&) = delete;
  DeviceBuffer& operator=(const DeviceBuffer&) = delete;

  std::byte* data() const { return data_; }
  // Makes sure that the block has at least `size_bytes` bytes. If it has to grow, its address changes and its content
  // is lost; no launched work may still use it. Returns whether it had to grow.
  bool reserve(size_t size_bytes);
  void free() noexcept;

 private:
  std::string purpose_;
  std::byte* data_ = nullptr;
  size_t size_bytes_ = 0;
};

// A block of pinned host memory and a GPU block of the same size, or one block that both sides use (mapped).
class SharedBuffer {
 public:
  // mapped: whether both sides use one block, which is sensible if the GPU shares the memory of the CPU.
  SharedBuffer(std::string purpose, bool mapped) : purpose_(purpose), mapped_(mapped), twin_(std::move(purpose)) {}
  ~SharedBuffer() { free(); }
  SharedBuffer(const SharedBuffer&) = delete;
  SharedBuffer& operator=(const SharedBuffer&) = delete;

  std::byte* host() const { return host_; }
  std::byte* device() const { return mapped_ ? mapped_address_ : twin_.data(); }
  bool reserve(size_t size_bytes);
  // Launch the copy of the first `size_bytes` bytes.
  void upload(size_t size_bytes, const Stream& stream, const std::string& doing) const;
  void download(size_t size_bytes, const Stream& stream, const std::string& doing) const;
  void free() noexcept;

 private:
  std::string purpose_;
  bool mapped_;
  DeviceBuffer twin_;
  std::byte* host_ = nullptr;
  std::byte* mapped_address_ = nullptr;
  size_t size_bytes_ = 0;
};

// The place of an array inside a block.
struct Field {
  size_t offset = 0;
  size_t size_bytes = 0;

  template <typename T>
  T* in(std::byte* block) const {
    return reinterpret_cast<T*>(block + offset);
  }
};

// Assigns consecutive places to arrays inside a block.
class Layout {
 public:
  explicit Layout(size_t alignment = 256) : alignment_(alignment) {}  // What cudaMalloc, TensorRT and kernels agree on.

  Field add(size_t size_bytes) {
    const Field field{size_bytes_, size_bytes};
    size_bytes_ += (size_bytes + alignment_ - 1) / alignment_ * alignment_;
    return field;
  }
  template <typename T>
  Field add(size_t count) {
    return add(count * sizeof(T));
  }
  size_t size_bytes() const { return size_bytes_; }

 private:
  size_t alignment_;
  size_t size_bytes_ = 0;
};

// -- implementation of the template ----------------------------------------------------------------------------------

[[noreturn]] void throw_gpu_failed(const std::string& doing, const std::string& cause);

template <typename Call>
auto checked(const std::string& doing, const Call& call) -> decltype(call()) {
  try {
    return call();
  } catch (const cuda::Error& error) {
    throw_gpu_failed(doing, error.what());
  }
}

}  // namespace retinasdk::runtime::trt
