/* The functions of libcuda that libcuda_driver.py calls, on the host's memory and at once. A belief of it: they have
 * these arguments (from the documentation of the CUDA driver API). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static int pushed, retained;
static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return 1e3 * (double)t.tv_sec + 1e-6 * (double)t.tv_nsec;
}
#define NEEDS_CONTEXT \
  if (pushed < 1) return 201
int cuInit(unsigned flags) { return flags ? 1 : 0; }
int cuDeviceGet(int* device, int ordinal) { return *device = ordinal, ordinal ? 101 : 0; }
int cuDeviceGetCount(int* count) { return *count = 1, 0; }
int cuDeviceGetName(char* name, int size, int device) {
  return snprintf(name, (size_t)size, "NVIDIA RTX 4090"), device;
}
int cuDeviceTotalMem_v2(size_t* size, int device) { return *size = 1ULL << 34, device; }
int cuDriverGetVersion(int* version) { return *version = 13000, 0; }
int cuDeviceGetAttribute(int* value, int attribute, int device) {
  switch (attribute) {
    case 75:
      return *value = 8, device; /* CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR */
    case 76:
      return *value = 9, device; /* ..._MINOR */
    case 16:
      return *value = 128, device; /* CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT */
    case 13:
      return *value = 2520000, device; /* CU_DEVICE_ATTRIBUTE_CLOCK_RATE, in kHz */
    case 36:
      return *value = 10501000, device; /* CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE, in kHz */
    default:
      return 1;
  }
}
int cuDevicePrimaryCtxRetain(void** context, int device) { return *context = &retained, ++retained, device; }
int cuDevicePrimaryCtxRelease_v2(int device) { return retained-- > 0 ? device : 201; }
int cuCtxPushCurrent_v2(void* context) { return context == &retained ? (++pushed, 0) : 201; }
int cuCtxPopCurrent_v2(void** context) { return *context = &retained, pushed-- > 0 ? 0 : 201; }
int cuCtxSynchronize(void) { return pushed > 0 ? 0 : 201; }
int cuStreamCreate(void** stream, unsigned flags) {
  NEEDS_CONTEXT;
  return *stream = malloc(8 + flags), 0;
}
int cuStreamSynchronize(void* stream) { return stream ? 0 : 400; }
int cuStreamDestroy_v2(void* stream) {
  NEEDS_CONTEXT;
  return free(stream), 0;
}
int cuEventCreate(void** event, unsigned flags) {
  NEEDS_CONTEXT;
  return *event = calloc(1, sizeof(double) + flags), 0;
}
int cuEventRecord(double* event, void* stream) { return *event = now(), stream ? 0 : 400; }
int cuEventElapsedTime(float* ms, double* begin, double* end) { return *ms = (float)(*end - *begin), 0; }
int cuEventDestroy_v2(void* event) {
  NEEDS_CONTEXT;
  return free(event), 0;
}
int cuMemAlloc_v2(unsigned long long* address, size_t size) {
  NEEDS_CONTEXT;
  if (size > (1ULL << 40)) return 2;
  return *address = (unsigned long long)malloc(size), 0;
}
int cuMemFree_v2(unsigned long long address) {
  NEEDS_CONTEXT;
  return free((void*)address), 0;
}
int cuMemHostAlloc(void** address, size_t size, unsigned flags) {
  NEEDS_CONTEXT;
  return *address = malloc(size), flags & 8;
}
int cuMemFreeHost(void* address) {
  NEEDS_CONTEXT;
  return free(address), 0;
}
int cuMemHostGetDevicePointer_v2(unsigned long long* device, void* host, unsigned flags) {
  return *device = (unsigned long long)host, (int)flags;
}
int cuMemGetInfo_v2(size_t* unused, size_t* total) { return *unused = 1ULL << 33, *total = 1ULL << 34, 0; }
int cuMemcpyHtoD_v2(unsigned long long to, const void* from, size_t size) { return memcpy((void*)to, from, size), 0; }
int cuMemcpyHtoDAsync_v2(unsigned long long to, const void* from, size_t size, void* stream) {
  return memcpy((void*)to, from, size), stream ? 0 : 400;
}
int cuMemcpyDtoHAsync_v2(void* to, unsigned long long from, size_t size, void* stream) {
  return memcpy(to, (void*)from, size), stream ? 0 : 400;
}
int cuMemcpyDtoDAsync_v2(unsigned long long to, unsigned long long from, size_t size, void* stream) {
  return memcpy((void*)to, (void*)from, size), stream ? 0 : 400;
}
int cuGetErrorName(int code, const char** name) {
  *name = code == 2 ? "CUDA_ERROR_OUT_OF_MEMORY" : "CUDA_ERROR_INVALID_CONTEXT";
  return 0;
}
