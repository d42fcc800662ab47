// The part of CUDA's language and runtime that the kernels' sources use, for the CPU.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <tuple>
#include <utility>

#include "cuda_on_cpu.h"

// -- language --------------------------------------------------------------------------------------------------------

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
// An OS thread runs one block at a time, so thread-local variables are shared by the block.
#define __shared__ static thread_local

#define threadIdx (cuda_on_cpu::thread_index())
#define blockIdx (cuda_on_cpu::block_index())
#define blockDim (cuda_on_cpu::block_size())
#define gridDim (cuda_on_cpu::grid_size())

inline void __syncthreads() { cuda_on_cpu::barrier(false); }
inline int __syncthreads_count(int predicate) { return cuda_on_cpu::barrier(predicate != 0); }
inline int __syncthreads_or(int predicate) { return cuda_on_cpu::barrier(predicate != 0) > 0 ? 1 : 0; }

inline void __syncwarp(unsigned mask = 0xffffffffu) {
  cuda_on_cpu::collective(cuda_on_cpu::Collective::kSync, mask, 0, 0);
}
inline unsigned __ballot_sync(unsigned mask, int predicate) {
  return static_cast<unsigned>(
      cuda_on_cpu::collective(cuda_on_cpu::Collective::kBallot, mask, predicate != 0 ? 1 : 0, 0));
}
inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0u ? 1 : 0; }
inline int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) == mask ? 1 : 0; }

template <typename T>
T __shfl_sync(unsigned mask, T value, int source) {
  static_assert(sizeof(T) <= sizeof(uint64_t));
  uint64_t word = 0;
  std::memcpy(&word, &value, sizeof value);
  word = cuda_on_cpu::collective(cuda_on_cpu::Collective::kShuffle, mask, word, source & 31);
  std::memcpy(&value, &word, sizeof value);
  return value;
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned distance) {
  const int lane = cuda_on_cpu::lane();
  return __shfl_sync(mask, value, lane >= static_cast<int>(distance) ? lane - static_cast<int>(distance) : lane);
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned distance) {
  const int source = cuda_on_cpu::lane() + static_cast<int>(distance);
  return __shfl_sync(mask, value, source < 32 ? source : cuda_on_cpu::lane());
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int bits) {
  return __shfl_sync(mask, value, cuda_on_cpu::lane() ^ bits);
}

inline float __uint_as_float(unsigned value) {
  float result;
  std::memcpy(&result, &value, sizeof result);
  return result;
}
inline int __popc(unsigned value) { return __builtin_popcount(value); }
inline int __ffs(int value) { return __builtin_ffs(value); }

// Blocks may run on several OS threads. An atomic addition after a fence orders what was written before the fence, so
// it acquires and releases here. The thread sanitizer does not understand fences.
inline void __threadfence() {}
template <typename T>
T __ldcg(const T* source) {
  return *source;
}
template <typename T>
T atomicAdd(T* target, T value) {
  return __atomic_fetch_add(target, value, __ATOMIC_ACQ_REL);
}
template <typename T>
T atomicOr(T* target, T value) {
  return __atomic_fetch_or(target, value, __ATOMIC_RELAXED);
}

// -- runtime ---------------------------------------------------------------------------------------------------------

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorInsufficientDriver = 35,
  cudaErrorInvalidDevice = 101,
  cudaErrorUnknown = 999,
};
struct CUstream_st;
struct CUevent_st;
struct CUgraph_st;
struct CUgraphExec_st;
using cudaStream_t = CUstream_st*;
using cudaEvent_t = CUevent_st*;
using cudaGraph_t = CUgraph_st*;
using cudaGraphExec_t = CUgraphExec_st*;
constexpr unsigned cudaEventDisableTiming = 2;
constexpr unsigned cudaStreamNonBlocking = 1, cudaHostAllocDefault = 0, cudaHostAllocMapped = 2;
enum cudaStreamCaptureMode { cudaStreamCaptureModeThreadLocal = 1 };
enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToHost = 2 };

struct cudaDeviceProp {
  char name[256];
  int major, minor;
  int multiProcessorCount;
  size_t totalGlobalMem;
  int integrated;
};

const char* cudaGetErrorName(cudaError_t error);
const char* cudaGetErrorString(cudaError_t error);
cudaError_t cudaGetLastError();
// There is one device. If CUDA_ON_CPU_DEVICES is 0, there is none, and the call fails with error 35.
cudaError_t cudaGetDeviceCount(int* count);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device);
cudaError_t cudaRuntimeGetVersion(int* version);
cudaError_t cudaDriverGetVersion(int* version);
cudaError_t cudaGetDevice(int* device);
cudaError_t cudaSetDevice(int device);
// Memory of the device is memory of the host, which the sanitizers watch. It starts with bytes 0xCD.
cudaError_t cudaMalloc(void** address, size_t size_bytes);
cudaError_t cudaFree(void* address);
cudaError_t cudaHostAlloc(void** address, size_t size_bytes, unsigned flags);
cudaError_t cudaHostGetDevicePointer(void** device, void* host, unsigned flags);
cudaError_t cudaFreeHost(void* address);
cudaError_t cudaMemcpyAsync(void* target, const void* source, size_t size_bytes, cudaMemcpyKind kind,
                            cudaStream_t stream);
cudaError_t cudaMemsetAsync(void* target, int value, size_t size_bytes, cudaStream_t stream);
// When work runs is said in runtime.cpp.
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph);
cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long flags);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable);

namespace cuda_on_cpu {

cudaError_t remember(cudaError_t error);
// Counts a call of the runtime. Returns whether a test wants it to fail (runtime.cpp).
bool is_faulty();

template <typename... Parameters, size_t... kIndex>
std::function<void()> bind(void (*kernel)(Parameters...), void** arguments, std::index_sequence<kIndex...>) {
  // The arguments are copied, as in a launch.
  return [=, values = std::tuple<Parameters...>(*static_cast<Parameters*>(arguments[kIndex])...)] {
    std::apply(kernel, values);
  };
}

}  // namespace cuda_on_cpu

template <typename... Parameters>
cudaError_t cudaLaunchKernel(void (*kernel)(Parameters...), dim3 grid, dim3 block, void** arguments, size_t,
                             cudaStream_t stream) {
  if (cuda_on_cpu::is_faulty()) return cuda_on_cpu::remember(cudaErrorUnknown);
  const auto body = cuda_on_cpu::bind(kernel, arguments, std::index_sequence_for<Parameters...>{});
  const bool valid = cuda_on_cpu::launch(reinterpret_cast<const void*>(kernel), body, grid, block, stream);
  return cuda_on_cpu::remember(valid ? cudaSuccess : cudaErrorInvalidConfiguration);
}
