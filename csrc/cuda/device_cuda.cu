// Devices, streams and CUDA graphs: the functions of ops_cuda.h that launch no kernel.
#include "cuda/cuda_support.h"

namespace retinasdk::cuda {

int device_count(std::string* reason) {
  int count = 0;  // A failed call does not change it.
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status == cudaSuccess) {
    // uncovered: without a GPU the CUDA runtime reports an error, on which its documentation gives no promise
    if (count == 0) *reason = "the driver reports no GPU";
    return count;
  }
  cudaGetLastError();
  *reason = std::string(cudaGetErrorName(status)) + ": " + cudaGetErrorString(status);
  return 0;
}

DeviceProperties device_properties(int device) {
  cudaDeviceProp properties;
  check(cudaGetDeviceProperties(&properties, device), "cudaGetDeviceProperties");
  return {properties.name,
          {properties.major, properties.minor},
          properties.multiProcessorCount,
          properties.totalGlobalMem,
          properties.integrated != 0};
}

int runtime_version() {
  int version = 0;
  check(cudaRuntimeGetVersion(&version), "cudaRuntimeGetVersion");
  return version;
}

int driver_version() {
  int version = 0;
  check(cudaDriverGetVersion(&version), "cudaDriverGetVersion");
  return version;
}

void wait_for_stream(Stream stream, Stream earlier) {
  cudaEvent_t event = nullptr;
  check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "cudaEventCreateWithFlags");
  cudaError_t status = cudaEventRecord(event, static_cast<cudaStream_t>(earlier));
  if (status == cudaSuccess) status = cudaStreamWaitEvent(static_cast<cudaStream_t>(stream), event, 0);
  cudaEventDestroy(event);  // CUDA frees the event once no work waits for it any more.
  check(status, "waiting for another stream");
}

void begin_capture(Stream stream) {
  // In this mode, other threads may use their own streams during the capture.
  check(cudaStreamBeginCapture(static_cast<cudaStream_t>(stream), cudaStreamCaptureModeThreadLocal),
        "cudaStreamBeginCapture");
}

Graph end_capture(Stream stream) {
  cudaGraph_t graph = nullptr;
  check(cudaStreamEndCapture(static_cast<cudaStream_t>(stream), &graph), "cudaStreamEndCapture");
  cudaGraphExec_t executable = nullptr;
  const cudaError_t status = cudaGraphInstantiateWithFlags(&executable, graph, 0);
  cudaGraphDestroy(graph);
  check(status, "cudaGraphInstantiateWithFlags");
  return executable;
}

void launch_graph(Graph graph, Stream stream) {
  check(cudaGraphLaunch(static_cast<cudaGraphExec_t>(graph), static_cast<cudaStream_t>(stream)), "cudaGraphLaunch");
}

void destroy_graph(Graph graph) {
  check(cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(graph)), "cudaGraphExecDestroy");
}

}  // namespace retinasdk::cuda
