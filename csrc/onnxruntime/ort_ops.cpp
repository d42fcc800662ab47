// Custom operators for ONNX Runtime in the domain `retinasdk`. All tensors are float32, and the stride is 1.
//
//   WinogradConv   X (N, in, H, W), W (out, in, 3, 3), optional B (out,) -> Y (N, out, H, W). The padding is 1.
//   PointwiseConv  X (N, in, H, W), W (out, in, 1, 1), optional B (out,), optional Z of Y's shape -> Y (N, out, H, W).
//                  Z is added to the result, if the attribute `residual` is 1.
//
// W and B must be constant. If the attribute `relu` is 1, a ReLU follows.
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "convolution/pointwise.h"
#include "convolution/winograd.h"
#include "onnxruntime/ort_abi.h"
#include "onnxruntime/shared_weights.h"

namespace retinasdk::ort {
namespace {

// Throws if ONNX Runtime reports an error.
void check(const Api& api, Status* status) {
  if (status == nullptr) return;
  const std::string message = api.get_error_message(status);
  api.release_status(status);
  throw std::runtime_error(message);
}

// Calls a function and turns its exception into an error status for ONNX Runtime.
template <typename Function>
Status* guarded(const Api& api, const char* name, const Function& call) {
  try {
    call();
    return nullptr;
  } catch (const std::exception& error) {
    return api.create_status(kFail, (std::string("retinasdk ") + name + ": " + error.what()).c_str());
  }
}

// Returns a shape for error messages, such as (1, 3, 8, 8).
std::string describe(const std::vector<int64_t>& shape) {
  std::string text;
  for (const int64_t size : shape) text += (text.empty() ? "" : ", ") + std::to_string(size);
  return "(" + text + (shape.size() == 1 ? ",)" : ")");
}

std::vector<int64_t> shape_of(const Api& api, const Value* value) {
  ShapeInfo* info = nullptr;
  check(api, api.get_shape_info(value, &info));
  const std::unique_ptr<ShapeInfo, void (*)(ShapeInfo*)> released(info, api.release_shape_info);
  size_t rank = 0;
  check(api, api.get_dimensions_count(info, &rank));
  std::vector<int64_t> shape(rank);
  check(api, api.get_dimensions(info, shape.data(), rank));
  return shape;
}

// Returns the data of a tensor.
float* data_of(const Api& api, const Value* value) {
  void* data = nullptr;  // Before 1.23, ONNX Runtime has no function for constant data.
  check(api, api.get_tensor_data(const_cast<Value*>(value), &data));
  return static_cast<float*>(data);
}

// Returns a constant input, or null if the input is not constant or missing.
const Value* constant_input(const Api& api, const KernelInfo* info, size_t index) {
  int is_constant = 0;
  const Value* value = nullptr;
  check(api, api.get_constant_input(info, index, &is_constant, &value));
  return is_constant != 0 ? value : nullptr;
}

// The constant inputs and attributes of both operators. `side` is the side of the kernel.
struct Constants {
  const float* weights;
  int out_channels, in_channels;
  const float* bias;  // Or null.
  bool relu;

  Constants(const Api& api, const KernelInfo* info, int64_t side) {
    const Value* tensor = constant_input(api, info, 1);
    const std::vector<int64_t> shape = tensor == nullptr ? std::vector<int64_t>{} : shape_of(api, tensor);
    if (shape.size() != 4 || shape[2] != side || shape[3] != side) {
      const std::string sides = std::to_string(side) + ", " + std::to_string(side);
      throw std::invalid_argument("weights must be constant, (out, in, " + sides + ")" +
                                  (tensor == nullptr ? "; they are not constant" : ", got " + describe(shape)));
    }
    const Value* offsets = constant_input(api, info, 2);
    if (offsets != nullptr && shape_of(api, offsets) != std::vector<int64_t>{shape[0]}) {
      throw std::invalid_argument("bias must be constant, (" + std::to_string(shape[0]) + ",), got " +
                                  describe(shape_of(api, offsets)));
    }
    weights = data_of(api, tensor);
    out_channels = static_cast<int>(shape[0]);
    in_channels = static_cast<int>(shape[1]);
    bias = offsets == nullptr ? nullptr : data_of(api, offsets);
    relu = attribute(api, info, "relu") != 0;
  }

  static int64_t attribute(const Api& api, const KernelInfo* info, const char* name) {
    int64_t value = 0;
    check(api, api.get_attribute(info, name, &value));
    return value;
  }
};

// One call of an operator: its tensors, scratch memory from ONNX Runtime's arena, and its threads.
class Call {
 public:
  Call(const Api& api, KernelContext* context, int in_channels, int out_channels) : api_(api), context_(context) {
    const Value* value = nullptr;
    check(api, api.get_input(context, 0, &value));
    shape = shape_of(api, value);
    if (shape.size() != 4 || shape[1] != in_channels || shape[0] * shape[2] * shape[3] > INT32_MAX) {
      throw std::invalid_argument("input must be (N, " + std::to_string(in_channels) +
                                  ", H, W) with at most 2147483647 pixels, got " + describe(shape));
    }
    input = data_of(api, value);
    shape[1] = out_channels;
    Value* made = nullptr;
    check(api, api.get_output(context, 0, shape.data(), shape.size(), &made));
    output = data_of(api, made);
    batch = static_cast<int>(shape[0]);
    height = static_cast<int>(shape[2]);
    width = static_cast<int>(shape[3]);
  }

  ~Call() {
    if (scratch_ != nullptr) api_.release_status(api_.allocator_free(allocator_.get(), scratch_));
  }

  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;

  bool is_empty() const { return shape[0] * shape[2] * shape[3] == 0; }

  // Returns input 3, which must have the shape of the output.
  const float* residual() const {
    const Value* value = nullptr;
    check(api_, api_.get_input(context_, 3, &value));
    if (value == nullptr || shape_of(api_, value) != shape) {
      throw std::invalid_argument("the added tensor must have the shape of the output, " + describe(shape) + ", got " +
                                  (value == nullptr ? "none" : describe(shape_of(api_, value))) +
                                  "; open the model with convolution=\"direct\"");
    }
    return data_of(api_, value);
  }

  // Allocates scratch memory. May be called once per call.
  float* scratch(size_t floats) {
    MemoryInfo* memory = nullptr;
    check(api_, api_.create_cpu_memory_info(kArenaAllocator, kDefaultMemory, &memory));
    const std::unique_ptr<MemoryInfo, void (*)(MemoryInfo*)> released(memory, api_.release_memory_info);
    Allocator* allocator = nullptr;
    check(api_, api_.get_allocator(context_, memory, &allocator));
    allocator_ = {allocator, api_.release_allocator};
    check(api_, api_.allocator_alloc(allocator, floats * sizeof(float), &scratch_));
    return static_cast<float*>(scratch_);
  }

  ParallelFor threads() const {
    return [this](size_t count, const Piece& piece) {
      // ONNX Runtime requires that pieces throw no exceptions. They also do not wait for each other.
      const auto call = [](void* data, size_t index) { (*static_cast<const Piece*>(data))(index); };
      check(api_, api_.parallel_for(context_, call, count, 0, const_cast<Piece*>(&piece)));
    };
  }

  std::vector<int64_t> shape;  // Of the output.
  const float* input = nullptr;
  float* output = nullptr;
  int batch = 0, height = 0, width = 0;

 private:
  const Api& api_;
  KernelContext* context_;
  std::unique_ptr<Allocator, void (*)(Allocator*)> allocator_{nullptr, nullptr};
  void* scratch_ = nullptr;
};

// The operator WinogradConv.
class Winograd {
 public:
  static constexpr const char* kName = "WinogradConv";
  static constexpr size_t kInputs = 3;

  Winograd(const Api& with, const KernelInfo* info) : api(with), conv_(make(Constants(with, info, 3))) {}

  void compute(KernelContext* context) const {
    Call call(api, context, conv_.in_channels(), conv_.out_channels());
    if (call.is_empty()) return;
    float* scratch = call.scratch(conv_.scratch_floats(call.batch, call.height, call.width));
    conv_.run(call.input, call.batch, call.height, call.width, call.output, scratch, call.threads());
  }

  const Api api;

 private:
  static WinogradConv make(const Constants& from) {
    auto weights = shared_weights<WinogradWeights>(from.weights, from.out_channels, from.in_channels, 9);
    return WinogradConv(std::move(weights), from.bias, from.relu);
  }

  const WinogradConv conv_;
};

// The operator PointwiseConv.
class Pointwise {
 public:
  static constexpr const char* kName = "PointwiseConv";
  static constexpr size_t kInputs = 4;

  Pointwise(const Api& with, const KernelInfo* info)
      : api(with),
        conv_(make(Constants(with, info, 1))),
        has_residual_(Constants::attribute(with, info, "residual") != 0) {}

  void compute(KernelContext* context) const {
    Call call(api, context, conv_.in_channels(), conv_.out_channels());
    const float* residual = has_residual_ ? call.residual() : nullptr;
    if (call.is_empty()) return;
    const size_t pixels = static_cast<size_t>(call.height) * static_cast<size_t>(call.width);
    float* scratch = call.scratch(conv_.scratch_floats(pixels));
    conv_.run(call.input, residual, call.batch, pixels, call.output, scratch, call.threads());
  }

  const Api api;

 private:
  static PointwiseConv make(const Constants& from) {
    auto weights = shared_weights<PointwiseWeights>(from.weights, from.out_channels, from.in_channels, 1);
    return PointwiseConv(std::move(weights), from.bias, from.relu);
  }

  const PointwiseConv conv_;
  const bool has_residual_;
};

// Describes an operator to ONNX Runtime.
template <typename Kernel>
CustomOp make_op() {
  CustomOp op{};
  op.version = kApiVersion;
  op.get_name = [](const CustomOp*) { return Kernel::kName; };
  op.get_execution_provider = [](const CustomOp*) -> const char* { return nullptr; };  // The CPU.
  op.get_input_type = [](const CustomOp*, size_t) { return kFloat; };
  op.get_input_count = [](const CustomOp*) -> size_t { return Kernel::kInputs; };
  op.get_output_type = [](const CustomOp*, size_t) { return kFloat; };
  op.get_output_count = [](const CustomOp*) -> size_t { return 1; };
  op.get_input_characteristic = [](const CustomOp*, size_t index) { return index >= 2 ? kOptional : kRequired; };
  op.get_output_characteristic = [](const CustomOp*, size_t) { return kRequired; };
  op.get_input_memory_type = [](const CustomOp*, size_t) { return kDefaultMemory; };
  op.get_start_version = [](const CustomOp*) { return 1; };
  op.get_end_version = [](const CustomOp*) { return INT32_MAX; };
  op.create_kernel_v2 = [](const CustomOp*, const void* const* table, const KernelInfo* info, void** kernel) {
    const Api api{table};
    return guarded(api, Kernel::kName, [&] { *kernel = new Kernel(api, info); });
  };
  op.compute_v2 = [](void* data, KernelContext* context) {
    const auto* kernel = static_cast<const Kernel*>(data);
    return guarded(kernel->api, Kernel::kName, [&] { kernel->compute(context); });
  };
  op.destroy_kernel = [](void* kernel) { delete static_cast<Kernel*>(kernel); };
  return op;
}

}  // namespace
}  // namespace retinasdk::ort

#ifdef _WIN32
#define RETINASDK_EXPORT __declspec(dllexport)
#else
#define RETINASDK_EXPORT __attribute__((visibility("default")))
#endif

// SessionOptions.register_custom_ops_library() calls this function.
extern "C" RETINASDK_EXPORT retinasdk::ort::Status* RegisterCustomOps(retinasdk::ort::SessionOptions* options,
                                                                      const retinasdk::ort::ApiBase* base) {
  using namespace retinasdk::ort;
  const void* const* table = base->get_api(kApiVersion);
  if (table == nullptr) {  // Every runtime has version 1 of the API, which can create the status.
    const std::string message = std::string("retinasdk needs ONNX Runtime 1.17 or newer, got ") + base->get_version() +
                                "; run: pip install --upgrade onnxruntime";
    return Api{base->get_api(1)}.create_status(kFail, message.c_str());
  }
  const Api api{table};
  return guarded(api, "operators", [&] {
    // The operators live as long as the process, because sessions keep their addresses.
    static const CustomOp ops[] = {make_op<Winograd>(), make_op<Pointwise>()};
    static CustomOpDomain* domain = [&] {
      CustomOpDomain* made = nullptr;
      check(api, api.create_custom_op_domain("retinasdk", &made));
      for (const CustomOp& op : ops) check(api, api.custom_op_domain_add(made, &op));
      return made;
    }();
    check(api, api.add_custom_op_domain(options, domain));
  });
}
