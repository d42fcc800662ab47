// The part of the CUDA runtime that the kernels' sources and libretinasdk use.
//
// Work on a stream that was made here runs when someone waits for the stream, so that memory that is freed or changed
// too early shows. Work on any other stream, such as the default one, runs immediately. If the stream is being
// captured, work is recorded instead.
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <vector>

#include "cuda_runtime.h"
#include "traffic_hooks.h"

namespace cuda_on_cpu {

void run_grid(const void* kernel, const std::function<void()>& body, dim3 grid, dim3 size);

namespace {

using Recording = std::vector<std::function<void()>>;

thread_local cudaError_t last_error = cudaSuccess;
std::atomic<long> calls, first_fault, last_fault, live_objects;
std::mutex captures_mutex;
std::map<void*, Recording> captures;  // By stream.
std::map<void*, Recording> waiting;   // The work of each stream that was made here.

}  // namespace

cudaError_t remember(cudaError_t error) {
  if (error != cudaSuccess) last_error = error;
  return error;
}

bool is_faulty() {
  const long number = ++calls;
  return number >= first_fault && number <= last_fault;
}

void enqueue(const std::function<void()>& work, void* stream) {
  {
    const std::lock_guard lock(captures_mutex);
    const auto capture = captures.find(stream);
    if (capture != captures.end()) {
      capture->second.push_back(work);
      return;
    }
    const auto queue = waiting.find(stream);
    if (queue != waiting.end()) {
      queue->second.push_back(work);
      return;
    }
  }
  work();
}

bool is_capturing(void* stream) {
  const std::lock_guard lock(captures_mutex);
  return captures.count(stream) > 0;
}

// Runs the work of a stream, if it was made here.
void run_waiting(void* stream) {
  Recording work;
  {
    const std::lock_guard lock(captures_mutex);
    const auto queue = waiting.find(stream);
    if (queue != waiting.end()) work.swap(queue->second);
  }
  for (const std::function<void()>& each : work) each();
}

bool launch(const void* kernel, const std::function<void()>& body, dim3 grid, dim3 block, void* stream) {
  const uint64_t threads = uint64_t{block.x} * block.y * block.z;
  const bool valid = threads >= 1 && threads <= 1024 && block.z <= 64 && grid.x >= 1 && grid.x <= 0x7fffffffu &&
                     grid.y >= 1 && grid.y <= 65535 && grid.z >= 1 && grid.z <= 65535;
  if (valid) enqueue([=] { run_grid(kernel, body, grid, block); }, stream);
  return valid;
}

}  // namespace cuda_on_cpu

using cuda_on_cpu::captures;
using cuda_on_cpu::captures_mutex;
using cuda_on_cpu::is_faulty;
using cuda_on_cpu::live_objects;
using cuda_on_cpu::Recording;
using cuda_on_cpu::remember;
using cuda_on_cpu::run_waiting;
using cuda_on_cpu::waiting;

// For fault loops: the calls of the runtime are counted from 1, and those from `first` to `last` fail with
// cudaErrorUnknown. Belief, from the documentation of CUDA: a call that fails has no effect, except that the end of a
// capture also ends a broken one, and that what destroys an object does so when it reports the error of earlier work.
extern "C" __attribute__((visibility("default"))) void cuda_on_cpu_fail(long first, long last) {
  cuda_on_cpu::calls = 0;
  cuda_on_cpu::first_fault = first;
  cuda_on_cpu::last_fault = last;
}
extern "C" __attribute__((visibility("default"))) long cuda_on_cpu_calls() { return cuda_on_cpu::calls; }
// The number of events, graphs, streams and blocks of memory that are not released yet.
extern "C" __attribute__((visibility("default"))) long cuda_on_cpu_live() { return live_objects; }

// For test doubles of other libraries that use the same streams through ctypes: calls fn(data) in stream order.
extern "C" __attribute__((visibility("default"))) void cuda_on_cpu_enqueue(void (*fn)(void*), void* data,
                                                                           void* stream) {
  cuda_on_cpu::enqueue([=] { fn(data); }, stream);
}

const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "cudaSuccess";
    case cudaErrorInvalidValue:
      return "cudaErrorInvalidValue";
    case cudaErrorMemoryAllocation:
      return "cudaErrorMemoryAllocation";
    case cudaErrorInvalidConfiguration:
      return "cudaErrorInvalidConfiguration";
    case cudaErrorInsufficientDriver:
      return "cudaErrorInsufficientDriver";
    case cudaErrorInvalidDevice:
      return "cudaErrorInvalidDevice";
    case cudaErrorUnknown:
      return "cudaErrorUnknown";
  }
  return "unrecognized error code";
}

const char* cudaGetErrorString(cudaError_t) { return "as the emulated device says"; }

cudaError_t cudaGetLastError() { return std::exchange(cuda_on_cpu::last_error, cudaSuccess); }

cudaError_t cudaGetDeviceCount(int* count) {
  if (is_faulty()) return remember(cudaErrorUnknown);
  const char* devices = std::getenv("CUDA_ON_CPU_DEVICES");
  if (devices != nullptr && std::atoi(devices) == 0) return remember(cudaErrorInsufficientDriver);
  *count = 1;
  return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  if (is_faulty()) return remember(cudaErrorUnknown);
  if (device != 0) return remember(cudaErrorInvalidDevice);
  *properties = {};
  std::snprintf(properties->name, sizeof properties->name, "emulated on the CPU");
  properties->major = 8;
  properties->minor = 7;
  properties->multiProcessorCount = 1;
  properties->totalGlobalMem = size_t{1} << 30;
  properties->integrated = std::getenv("CUDA_ON_CPU_INTEGRATED") != nullptr ? 1 : 0;
  return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int* version) {
  if (is_faulty()) return remember(cudaErrorUnknown);
  *version = 0;
  return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int* version) {
  if (is_faulty()) return remember(cudaErrorUnknown);
  *version = 0;
  return cudaSuccess;
}

cudaError_t cudaGetDevice(int* device) {
  if (is_faulty()) return remember(cudaErrorUnknown);
  *device = 0;
  return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) {
  if (is_faulty()) return remember(cudaErrorUnknown);
  return remember(device == 0 ? cudaSuccess : cudaErrorInvalidDevice);
}

cudaError_t cudaMalloc(void** address, size_t size_bytes) {
  if (is_faulty()) return remember(cudaErrorMemoryAllocation);
  *address = std::aligned_alloc(256, (size_bytes + 255) / 256 * 256);
  std::memset(*address, 0xcd, size_bytes);
  ++live_objects;
  return cudaSuccess;
}

cudaError_t cudaFree(void* address) {
  if (address != nullptr) --live_objects;
  std::free(address);
  return remember(is_faulty() ? cudaErrorUnknown : cudaSuccess);
}

cudaError_t cudaHostAlloc(void** address, size_t size_bytes, unsigned) { return cudaMalloc(address, size_bytes); }

cudaError_t cudaHostGetDevicePointer(void** device, void* host, unsigned) {
  if (is_faulty()) return remember(cudaErrorUnknown);
  *device = host;
  return cudaSuccess;
}

cudaError_t cudaFreeHost(void* address) { return cudaFree(address); }

cudaError_t cudaMemcpyAsync(void* target, const void* source, size_t size_bytes, cudaMemcpyKind, cudaStream_t stream) {
  if (is_faulty()) return remember(cudaErrorUnknown);
  cuda_on_cpu::enqueue([=] { std::memcpy(target, source, size_bytes); }, stream);
  return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void* target, int value, size_t size_bytes, cudaStream_t stream) {
  if (is_faulty()) return remember(cudaErrorUnknown);
  const auto work = [=] {
    cuda_on_cpu::count_memset(size_bytes);
    std::memset(target, value, size_bytes);
  };
  cuda_on_cpu::enqueue(work, stream);
  return cudaSuccess;
}

// An event is the stream on which it was recorded.
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  if (is_faulty()) return remember(cudaErrorUnknown);
  *event = reinterpret_cast<cudaEvent_t>(new void*(nullptr));
  ++live_objects;
  return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  if (is_faulty()) return remember(cudaErrorUnknown);
  if (event == nullptr) return remember(cudaErrorInvalidValue);
  *reinterpret_cast<void**>(event) = stream;
  return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t event, unsigned) {
  if (is_faulty()) return remember(cudaErrorUnknown);
  if (event == nullptr) return remember(cudaErrorInvalidValue);
  run_waiting(*reinterpret_cast<void**>(event));
  return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete reinterpret_cast<void**>(event);
  --live_objects;
  return remember(is_faulty() ? cudaErrorUnknown : cudaSuccess);
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  if (is_faulty()) return remember(cudaErrorUnknown);
  *stream = reinterpret_cast<cudaStream_t>(new char);
  ++live_objects;
  const std::lock_guard lock(captures_mutex);
  waiting[*stream];
  return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  run_waiting(stream);
  return remember(is_faulty() ? cudaErrorUnknown : cudaSuccess);
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  run_waiting(stream);
  {
    const std::lock_guard lock(captures_mutex);
    waiting.erase(stream);
  }
  delete reinterpret_cast<char*>(stream);
  --live_objects;
  return remember(is_faulty() ? cudaErrorUnknown : cudaSuccess);
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  if (is_faulty()) return remember(cudaErrorUnknown);
  const std::lock_guard lock(captures_mutex);
  const bool fresh = captures.emplace(stream, Recording{}).second;
  return remember(fresh ? cudaSuccess : cudaErrorInvalidValue);
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  const std::lock_guard lock(captures_mutex);
  const auto capture = captures.find(stream);
  if (capture == captures.end()) return remember(cudaErrorInvalidValue);
  const Recording recording = std::move(capture->second);
  captures.erase(capture);
  if (is_faulty()) return remember(cudaErrorUnknown);
  *graph = reinterpret_cast<cudaGraph_t>(new Recording(recording));
  ++live_objects;
  return cudaSuccess;
}

cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long) {
  if (is_faulty()) return remember(cudaErrorUnknown);
  *executable = reinterpret_cast<cudaGraphExec_t>(new Recording(*reinterpret_cast<Recording*>(graph)));
  ++live_objects;
  return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete reinterpret_cast<Recording*>(graph);
  --live_objects;
  return remember(is_faulty() ? cudaErrorUnknown : cudaSuccess);
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
  if (is_faulty()) return remember(cudaErrorUnknown);
  for (const std::function<void()>& work : *reinterpret_cast<Recording*>(executable)) {
    cuda_on_cpu::enqueue(work, stream);
  }
  return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  delete reinterpret_cast<Recording*>(executable);
  --live_objects;
  return remember(is_faulty() ? cudaErrorUnknown : cudaSuccess);
}
