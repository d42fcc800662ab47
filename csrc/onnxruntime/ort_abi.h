// The part of ONNX Runtime's C API that a custom operator needs. It is declared here, because the Python packages of
// ONNX Runtime contain no header.
//
// The API is stable: functions keep their positions in the table (struct OrtApi) in later versions, and the version of
// OrtCustomOp tells which of its fields exist. The numbers below are positions in struct OrtApi of
// "onnxruntime_c_api.h", checked for ONNX Runtime 1.17 to 1.32.
#pragma once

#include <cstddef>
#include <cstdint>

namespace retinasdk::ort {

constexpr uint32_t kApiVersion = 17;  // ONNX Runtime 1.17, the oldest version with all of these functions.

// Opaque types of ONNX Runtime.
struct Status;
struct SessionOptions;
struct CustomOpDomain;
struct KernelInfo;
struct KernelContext;
struct Value;
struct ShapeInfo;
struct MemoryInfo;
struct Allocator;

struct ApiBase {
  const void* const* (*get_api)(uint32_t version);  // Returns null if the runtime is older.
  const char* (*get_version)();
};

struct CustomOp {
  uint32_t version;
  void* create_kernel;  // Replaced by create_kernel_v2.
  const char* (*get_name)(const CustomOp*);
  const char* (*get_execution_provider)(const CustomOp*);
  int (*get_input_type)(const CustomOp*, size_t);
  size_t (*get_input_count)(const CustomOp*);
  int (*get_output_type)(const CustomOp*, size_t);
  size_t (*get_output_count)(const CustomOp*);
  void* compute;  // Replaced by compute_v2.
  void (*destroy_kernel)(void* kernel);
  int (*get_input_characteristic)(const CustomOp*, size_t);
  int (*get_output_characteristic)(const CustomOp*, size_t);
  int (*get_input_memory_type)(const CustomOp*, size_t);
  void* variadic[4];
  Status* (*create_kernel_v2)(const CustomOp*, const void* const* api, const KernelInfo*, void** kernel);
  Status* (*compute_v2)(void* kernel, KernelContext*);
  void* infer_output_shape;
  int (*get_start_version)(const CustomOp*);
  int (*get_end_version)(const CustomOp*);
};

constexpr int kFloat = 1;                    // ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT
constexpr int kUint8 = 2;                    // ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8
constexpr int kRequired = 0, kOptional = 1;  // OrtCustomOpInputOutputCharacteristic
constexpr int kFail = 1;                     // OrtErrorCode
constexpr int kArenaAllocator = 1, kDefaultMemory = 0;

// Returns the function at a position of the table.
template <int Place, typename Function>
Function* function(const void* const* api) {
  return reinterpret_cast<Function*>(const_cast<void*>(api[Place]));
}

// The functions that the operators use.
struct Api {
  const void* const* table;

#define RETINASDK_ORT_FUNCTION(place, result, name, ...) \
  result (*name)(__VA_ARGS__) = function<place, result(__VA_ARGS__)>(table);

  RETINASDK_ORT_FUNCTION(0, Status*, create_status, int code, const char* message)
  RETINASDK_ORT_FUNCTION(2, const char*, get_error_message, const Status*)
  RETINASDK_ORT_FUNCTION(26, Status*, create_custom_op_domain, const char* name, CustomOpDomain**)
  RETINASDK_ORT_FUNCTION(27, Status*, custom_op_domain_add, CustomOpDomain*, const CustomOp*)
  RETINASDK_ORT_FUNCTION(28, Status*, add_custom_op_domain, SessionOptions*, CustomOpDomain*)
  RETINASDK_ORT_FUNCTION(51, Status*, get_tensor_data, Value*, void**)
  RETINASDK_ORT_FUNCTION(61, Status*, get_dimensions_count, const ShapeInfo*, size_t*)
  RETINASDK_ORT_FUNCTION(62, Status*, get_dimensions, const ShapeInfo*, int64_t*, size_t)
  RETINASDK_ORT_FUNCTION(65, Status*, get_shape_info, const Value*, ShapeInfo**)
  RETINASDK_ORT_FUNCTION(69, Status*, create_cpu_memory_info, int allocator, int memory, MemoryInfo**)
  RETINASDK_ORT_FUNCTION(75, Status*, allocator_alloc, Allocator*, size_t, void**)
  RETINASDK_ORT_FUNCTION(76, Status*, allocator_free, Allocator*, void*)
  RETINASDK_ORT_FUNCTION(85, Status*, get_float_attribute, const KernelInfo*, const char* name, float*)
  RETINASDK_ORT_FUNCTION(86, Status*, get_integer_attribute, const KernelInfo*, const char* name, int64_t*)
  RETINASDK_ORT_FUNCTION(90, Status*, get_input, const KernelContext*, size_t, const Value**)
  RETINASDK_ORT_FUNCTION(91, Status*, get_output, KernelContext*, size_t, const int64_t* shape, size_t rank, Value**)
  RETINASDK_ORT_FUNCTION(93, void, release_status, Status*)
  RETINASDK_ORT_FUNCTION(94, void, release_memory_info, MemoryInfo*)
  RETINASDK_ORT_FUNCTION(99, void, release_shape_info, ShapeInfo*)
  RETINASDK_ORT_FUNCTION(132, void, release_allocator, Allocator*)
  RETINASDK_ORT_FUNCTION(253, Status*, get_allocator, const KernelContext*, const MemoryInfo*, Allocator**)
  RETINASDK_ORT_FUNCTION(274, Status*, parallel_for, const KernelContext*, void (*)(void*, size_t), size_t total,
                         size_t batches, void* data)

#undef RETINASDK_ORT_FUNCTION
};

}  // namespace retinasdk::ort
