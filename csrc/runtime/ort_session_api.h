// The part of ONNX Runtime's C API that running a network needs. onnxruntime/ort_abi.h explains the numbers, and has
// the opaque types. Checked against "onnxruntime_c_api.h" of ONNX Runtime 1.29.
#pragma once

#include <cstddef>
#include <cstdint>

#include "onnxruntime/ort_abi.h"

namespace retinasdk::ort {

// Opaque types of ONNX Runtime.
struct Env;
struct Session;
struct RunOptions;
struct TypeInfo;
struct ModelMetadata;

#ifdef _WIN32
using PathChar = wchar_t;
#else
using PathChar = char;
#endif

constexpr int kErrorSeverity = 3;  // ORT_LOGGING_LEVEL_ERROR

struct SessionApi {
  const void* const* table;

#define RETINASDK_ORT_FUNCTION(place, result, name, ...) \
  result (*name)(__VA_ARGS__) = function<place, result(__VA_ARGS__)>(table);

  RETINASDK_ORT_FUNCTION(1, int, get_error_code, const Status*)
  RETINASDK_ORT_FUNCTION(2, const char*, get_error_message, const Status*)
  RETINASDK_ORT_FUNCTION(3, Status*, create_env, int severity, const char* log_id, Env**)
  RETINASDK_ORT_FUNCTION(7, Status*, create_session, const Env*, const PathChar* path, const SessionOptions*, Session**)
  RETINASDK_ORT_FUNCTION(9, Status*, run, Session*, const RunOptions*, const char* const* input_names,
                         const Value* const* inputs, size_t input_count, const char* const* output_names,
                         size_t output_count, Value** outputs)
  RETINASDK_ORT_FUNCTION(10, Status*, create_session_options, SessionOptions**)
  RETINASDK_ORT_FUNCTION(22, Status*, set_log_severity, SessionOptions*, int severity)
  RETINASDK_ORT_FUNCTION(24, Status*, set_threads, SessionOptions*, int threads)
  RETINASDK_ORT_FUNCTION(30, Status*, input_count, const Session*, size_t*)
  RETINASDK_ORT_FUNCTION(31, Status*, output_count, const Session*, size_t*)
  RETINASDK_ORT_FUNCTION(33, Status*, input_type, const Session*, size_t index, TypeInfo**)
  RETINASDK_ORT_FUNCTION(34, Status*, output_type, const Session*, size_t index, TypeInfo**)
  RETINASDK_ORT_FUNCTION(36, Status*, input_name, const Session*, size_t index, Allocator*, char**)
  RETINASDK_ORT_FUNCTION(37, Status*, output_name, const Session*, size_t index, Allocator*, char**)
  RETINASDK_ORT_FUNCTION(49, Status*, create_tensor, const MemoryInfo*, void* data, size_t bytes, const int64_t* shape,
                         size_t rank, int type, Value**)
  RETINASDK_ORT_FUNCTION(51, Status*, get_tensor_data, Value*, void**)
  RETINASDK_ORT_FUNCTION(55, Status*, tensor_info, const TypeInfo*, const ShapeInfo**)
  RETINASDK_ORT_FUNCTION(60, Status*, get_element_type, const ShapeInfo*, int*)
  RETINASDK_ORT_FUNCTION(61, Status*, get_dimensions_count, const ShapeInfo*, size_t*)
  RETINASDK_ORT_FUNCTION(62, Status*, get_dimensions, const ShapeInfo*, int64_t*, size_t)
  RETINASDK_ORT_FUNCTION(63, Status*, get_symbolic_dimensions, const ShapeInfo*, const char**, size_t)
  RETINASDK_ORT_FUNCTION(65, Status*, get_shape_info, const Value*, ShapeInfo**)
  RETINASDK_ORT_FUNCTION(69, Status*, create_cpu_memory_info, int allocator, int memory, MemoryInfo**)
  RETINASDK_ORT_FUNCTION(76, Status*, allocator_free, Allocator*, void*)
  RETINASDK_ORT_FUNCTION(78, Status*, default_allocator, Allocator**)
  RETINASDK_ORT_FUNCTION(93, void, release_status, Status*)
  RETINASDK_ORT_FUNCTION(94, void, release_memory_info, MemoryInfo*)
  RETINASDK_ORT_FUNCTION(95, void, release_session, Session*)
  RETINASDK_ORT_FUNCTION(96, void, release_value, Value*)
  RETINASDK_ORT_FUNCTION(98, void, release_type_info, TypeInfo*)
  RETINASDK_ORT_FUNCTION(99, void, release_shape_info, ShapeInfo*)
  RETINASDK_ORT_FUNCTION(100, void, release_session_options, SessionOptions*)
  RETINASDK_ORT_FUNCTION(111, Status*, model_metadata, const Session*, ModelMetadata**)
  RETINASDK_ORT_FUNCTION(116, Status*, lookup_metadata, const ModelMetadata*, Allocator*, const char* key, char** value)
  RETINASDK_ORT_FUNCTION(118, void, release_metadata, ModelMetadata*)
  RETINASDK_ORT_FUNCTION(130, Status*, add_config_entry, SessionOptions*, const char* key, const char* value)

#undef RETINASDK_ORT_FUNCTION
};

}  // namespace retinasdk::ort
