// Fuzzes the custom operators with tensors of any shapes and attributes. The functions of ONNX Runtime that they call
// are replaced: tensors are exactly as large as their shapes say. Where the real runtime checks a model first, such as
// the number of inputs, only models that it lets through are made.
#include <array>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "check.h"
#include "onnxruntime/ort_abi.h"
#include "random.h"

namespace retinasdk::ort {

struct Status {
  std::string message;
};
struct Value {
  std::vector<int64_t> shape;
  std::vector<float> data;
};
struct ShapeInfo {
  std::vector<int64_t> shape;
};
struct KernelInfo {
  std::array<const Value*, 4> inputs;  // Null: not constant or not given.
  std::map<std::string, int64_t> attributes;
};
struct KernelContext {
  std::array<const Value*, 4> inputs;
  Value output;
};
struct CustomOpDomain {
  std::vector<const CustomOp*> ops;
};
struct SessionOptions {};
struct MemoryInfo {};
struct Allocator {};

}  // namespace retinasdk::ort

extern "C" retinasdk::ort::Status* RegisterCustomOps(retinasdk::ort::SessionOptions*, const retinasdk::ort::ApiBase*);

namespace {

using namespace retinasdk::ort;

CustomOpDomain registered;
Allocator only_allocator;
MemoryInfo only_memory;

Status* create_status(int, const char* message) { return new Status{message}; }
const char* get_error_message(const Status* status) { return status->message.c_str(); }
void release_status(Status* status) { delete status; }
Status* create_domain(const char*, CustomOpDomain** domain) {
  *domain = &registered;
  return nullptr;
}
Status* add_op(CustomOpDomain* domain, const CustomOp* op) {
  domain->ops.push_back(op);
  return nullptr;
}
Status* add_domain(SessionOptions*, CustomOpDomain*) { return nullptr; }
Status* get_tensor_data(Value* value, void** data) {
  *data = value->data.data();
  return nullptr;
}
Status* get_shape_info(const Value* value, ShapeInfo** info) {
  *info = new ShapeInfo{value->shape};
  return nullptr;
}
Status* get_dimensions_count(const ShapeInfo* info, size_t* count) {
  *count = info->shape.size();
  return nullptr;
}
Status* get_dimensions(const ShapeInfo* info, int64_t* sizes, size_t count) {
  std::copy_n(info->shape.begin(), count, sizes);
  return nullptr;
}
void release_shape_info(ShapeInfo* info) { delete info; }
Status* get_attribute(const KernelInfo* info, const char* name, int64_t* value) {
  const auto found = info->attributes.find(name);
  if (found == info->attributes.end()) return new Status{"no such attribute"};
  *value = found->second;
  return nullptr;
}
Status* get_constant_input(const KernelInfo* info, size_t index, int* is_constant, const Value** value) {
  *value = info->inputs.at(index);
  *is_constant = *value != nullptr ? 1 : 0;
  return nullptr;
}
Status* get_input(const KernelContext* context, size_t index, const Value** value) {
  *value = context->inputs.at(index);
  return nullptr;
}
Status* get_output(KernelContext* context, size_t, const int64_t* shape, size_t rank, Value** value) {
  context->output.shape.assign(shape, shape + rank);
  size_t count = 1;
  for (size_t i = 0; i < rank; ++i) count *= static_cast<size_t>(shape[i]);
  context->output.data.assign(count, std::numeric_limits<float>::quiet_NaN());
  *value = &context->output;
  return nullptr;
}
Status* create_memory_info(int, int, MemoryInfo** info) {
  *info = &only_memory;
  return nullptr;
}
void release_memory_info(MemoryInfo*) {}
Status* get_allocator(const KernelContext*, const MemoryInfo*, Allocator** allocator) {
  *allocator = &only_allocator;
  return nullptr;
}
void release_allocator(Allocator*) {}
Status* allocate(Allocator*, size_t bytes, void** data) {
  *data = new float[(bytes + sizeof(float) - 1) / sizeof(float)];
  return nullptr;
}
Status* deallocate(Allocator*, void* data) {
  delete[] static_cast<float*>(data);
  return nullptr;
}
Status* parallel_for(const KernelContext*, void (*call)(void*, size_t), size_t total, size_t, void* data) {
  for (size_t i = total; i > 0; --i) call(data, i - 1);
  return nullptr;
}

template <typename Function>
const void* address(Function* function) {
  return reinterpret_cast<const void*>(function);
}

const void* const* table(uint32_t) {
  static const std::array<const void*, 275> functions = [] {
    std::array<const void*, 275> made{};
    made[0] = address(create_status);
    made[2] = address(get_error_message);
    made[26] = address(create_domain);
    made[27] = address(add_op);
    made[28] = address(add_domain);
    made[51] = address(get_tensor_data);
    made[61] = address(get_dimensions_count);
    made[62] = address(get_dimensions);
    made[65] = address(get_shape_info);
    made[69] = address(create_memory_info);
    made[75] = address(allocate);
    made[76] = address(deallocate);
    made[86] = address(get_attribute);
    made[90] = address(get_input);
    made[91] = address(get_output);
    made[93] = address(release_status);
    made[94] = address(release_memory_info);
    made[99] = address(release_shape_info);
    made[132] = address(release_allocator);
    made[249] = address(get_constant_input);
    made[253] = address(get_allocator);
    made[274] = address(parallel_for);
    return made;
  }();
  return functions.data();
}

Value make_value(Random& random, std::vector<int64_t> shape) {
  if (random.chance(12))
    shape[static_cast<size_t>(random.integer(0, static_cast<int>(shape.size()) - 1))] = random.integer(0, 5);
  if (random.chance(24)) shape.pop_back();
  if (random.chance(24)) shape.push_back(random.integer(0, 3));
  int64_t count = 1;
  for (const int64_t size : shape) count *= size;
  Value value{std::move(shape), std::vector<float>(static_cast<size_t>(count))};
  for (float& number : value.data) number = random.real(-1.0f, 1.0f);
  return value;
}

// Returns whether the call succeeded.
bool succeeded(Status* status) {
  const std::unique_ptr<Status> owned(status);
  check(status == nullptr || status->message.find("retinasdk ") == 0, "errors name the operator");
  return status == nullptr;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t count) {
  static const bool is_ready = [] {
    SessionOptions options;
    const ApiBase base{table, [] { return "1.17.0"; }};
    return succeeded(RegisterCustomOps(&options, &base));
  }();
  check(is_ready && registered.ops.size() == 2, "two operators are registered");
  Random random(bytes, count);
  const bool is_pointwise = random.chance(2);
  const CustomOp& op = *registered.ops[is_pointwise ? 1 : 0];
  const int64_t side = is_pointwise ? 1 : 3, in = random.integer(1, 20), out = random.integer(1, 20);
  const int64_t batch = random.integer(1, 2), height = random.integer(1, 14), width = random.integer(1, 14);
  const Value weights = make_value(random, {out, in, side, side}), bias = make_value(random, {out});
  const Value input = make_value(random, {batch, in, height, width});
  const Value residual = make_value(random, {batch, out, height, width});
  const Value* constant_weights = random.chance(24) ? nullptr : &weights;
  const Value* constant_bias = random.chance(2) ? nullptr : &bias;
  const KernelInfo info{{nullptr, constant_weights, constant_bias, nullptr},
                        {{"relu", random.integer(0, 1)}, {"residual", random.integer(0, 1)}}};
  void* kernel = nullptr;
  if (!succeeded(op.create_kernel_v2(&op, table(kApiVersion), &info, &kernel))) return 0;
  KernelContext context{{&input, constant_weights, constant_bias, random.chance(12) ? nullptr : &residual}, {}};
  if (succeeded(op.compute_v2(kernel, &context))) {
    for (const float value : context.output.data) check(value == value, "every output is written");
  }
  op.destroy_kernel(kernel);
  return 0;
}
