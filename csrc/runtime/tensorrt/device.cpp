#include "runtime/tensorrt/device.h"

#include "runtime/errors.h"

namespace retinasdk::runtime::trt {
namespace {

std::string named(cudaError_t status) {
  return std::string(cudaGetErrorName(status)) + ": " + cudaGetErrorString(status);
}

// 1234567 as "1,234,567".
std::string grouped(size_t number) {
  std::string digits = std::to_string(number);
  for (size_t at = digits.size(); at > 3;) digits.insert(at -= 3, ",");
  return digits;
}

}  // namespace

void require_gpu() {
  std::string reason;
  if (cuda::device_count(&reason) > 0) return;
  throw DeviceError("device 'cuda' needs a GPU, but there is no usable one here (" + reason +
                    "). Install NVIDIA's driver, or use device 'cpu'.");
}

void throw_gpu_failed(const std::string& doing, const std::string& cause) {
  throw DeviceError(doing + ": the GPU failed: " + cause + ". To check the machine, run: retinasdk doctor");
}

void check(cudaError_t status, const std::string& doing) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // Clears the error, so that the next call does not report it again.
  if (status == cudaErrorMemoryAllocation) {
    throw DeviceError(doing + ": the GPU has too little free memory (" + named(status) +
                      "). Use smaller images or batches, or end other programs on the GPU.");
  }
  throw_gpu_failed(doing, named(status));
}

CurrentDevice::CurrentDevice() {
  check(cudaGetDevice(&before_), "asking for the current GPU");
  if (before_ != kOrdinal) check(cudaSetDevice(kOrdinal), "choosing the GPU");
}

CurrentDevice::~CurrentDevice() {
  if (before_ != kOrdinal) cudaSetDevice(before_);
}

Stream::Stream() { check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "making a stream"); }

Stream::~Stream() { cudaStreamDestroy(stream_); }

void Stream::wait() const { check(cudaStreamSynchronize(stream_), "running a frame"); }

bool DeviceBuffer::reserve(size_t size_bytes) {
  if (size_bytes <= size_bytes_) return false;
  free();
  void* data = nullptr;
  check(cudaMalloc(&data, size_bytes), "allocating " + grouped(size_bytes) + " bytes on the GPU for " + purpose_);
  data_ = static_cast<std::byte*>(data);
  size_bytes_ = size_bytes;
  return true;
}

void DeviceBuffer::free() noexcept {
  if (data_ != nullptr) cudaFree(data_);
  data_ = nullptr;
  size_bytes_ = 0;
}

bool SharedBuffer::reserve(size_t size_bytes) {
  if (host_ != nullptr && size_bytes <= size_bytes_) return false;
  free();
  void* host = nullptr;
  check(cudaHostAlloc(&host, size_bytes, mapped_ ? cudaHostAllocMapped : cudaHostAllocDefault),
        "allocating " + grouped(size_bytes) + " bytes of pinned memory for " + purpose_);
  host_ = static_cast<std::byte*>(host);
  if (mapped_) {
    void* address = nullptr;
    check(cudaHostGetDevicePointer(&address, host, 0), "mapping pinned memory for " + purpose_);
    mapped_address_ = static_cast<std::byte*>(address);
  } else {
    twin_.reserve(size_bytes);
  }
  size_bytes_ = size_bytes;
  return true;
}

void SharedBuffer::upload(size_t size_bytes, const Stream& stream, const std::string& doing) const {
  if (mapped_) return;
  check(cudaMemcpyAsync(twin_.data(), host_, size_bytes, cudaMemcpyHostToDevice, stream.handle()), doing);
}

void SharedBuffer::download(size_t size_bytes, const Stream& stream, const std::string& doing) const {
  if (mapped_) return;
  check(cudaMemcpyAsync(host_, twin_.data(), size_bytes, cudaMemcpyDeviceToHost, stream.handle()), doing);
}

void SharedBuffer::free() noexcept {
  if (host_ != nullptr) cudaFreeHost(host_);
  host_ = nullptr;
  mapped_address_ = nullptr;
  size_bytes_ = 0;
  twin_.free();
}

}  // namespace retinasdk::runtime::trt
