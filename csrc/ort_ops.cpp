// ONNX Runtime's custom operator `retinasdk::WinogradConv`: Y = X * W (+ B), then ReLU where the attribute relu is 1.
// X (N, in, H, W); W (out, in, 3, 3) and B (out,) constant; Y (N, out, H, W); stride 1, padding 1; all float32.
#include <array>
#include <map>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "ort_abi.h"
#include "winograd.h"

namespace retinasdk::ort {
namespace {

void check(const Api& api, Status* status) {
  if (status == nullptr) return;
  const std::string message = api.get_error_message(status);
  api.release_status(status);
  throw std::runtime_error(message);
}

// What ONNX Runtime gets for an exception.
template <typename Call>
Status* guarded(const Api& api, const Call& call) {
  try {
    call();
    return nullptr;
  } catch (const std::exception& error) {
    return api.create_status(kFail, (std::string("retinasdk WinogradConv: ") + error.what()).c_str());
  }
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

float* data_of(const Api& api, const Value* value) {
  void* data = nullptr;  // ONNX Runtime has no function for constant data before 1.23
  check(api, api.get_tensor_data(const_cast<Value*>(value), &data));
  return static_cast<float*>(data);
}

// Nodes that share weights, as the levels of a head do, and sessions of one model share them transformed, too.
std::shared_ptr<const WinogradWeights> shared_weights(const float* weights, int out_channels, int in_channels) {
  using Key = std::tuple<int, int, size_t>;
  static std::mutex mutex;
  static std::map<Key, std::weak_ptr<const WinogradWeights>> known;
  const size_t bytes = static_cast<size_t>(out_channels) * static_cast<size_t>(in_channels) * 9 * sizeof(float);
  const std::string_view content(reinterpret_cast<const char*>(weights), bytes);
  const Key key{out_channels, in_channels, std::hash<std::string_view>()(content)};
  const std::lock_guard<std::mutex> lock(mutex);
  if (std::shared_ptr<const WinogradWeights> found = known[key].lock()) return found;
  auto made = std::make_shared<const WinogradWeights>(weights, out_channels, in_channels);
  known[key] = made;
  return made;
}

const Value* constant_input(const Api& api, const KernelInfo* info, size_t index) {
  int is_constant = 0;
  const Value* value = nullptr;
  check(api, api.get_constant_input(info, index, &is_constant, &value));
  return is_constant != 0 ? value : nullptr;
}

class Kernel {
 public:
  Kernel(const Api& api, const KernelInfo* info) : api_(api), conv_(make_conv(api, info)) {
    MemoryInfo* memory = nullptr;
    check(api, api.create_cpu_memory_info(kArenaAllocator, kDefaultMemory, &memory));
    memory_ = {memory, api.release_memory_info};
  }

  void compute(KernelContext* context) const {
    const Value* input = nullptr;
    check(api_, api_.get_input(context, 0, &input));
    const std::vector<int64_t> shape = shape_of(api_, input);
    if (shape.size() != 4 || shape[1] != conv_.in_channels() || shape[0] * shape[2] * shape[3] > INT32_MAX) {
      throw std::invalid_argument("input must be (N, " + std::to_string(conv_.in_channels()) + ", H, W)");
    }
    const std::array<int64_t, 4> made{shape[0], conv_.out_channels(), shape[2], shape[3]};
    Value* output = nullptr;
    check(api_, api_.get_output(context, 0, made.data(), made.size(), &output));
    if (shape[0] * shape[2] * shape[3] == 0) return;
    const int batch = static_cast<int>(shape[0]), height = static_cast<int>(shape[2]),
              width = static_cast<int>(shape[3]);

    Allocator* raw = nullptr;
    check(api_, api_.get_allocator(context, memory_.get(), &raw));
    const std::unique_ptr<Allocator, void (*)(Allocator*)> allocator(raw, api_.release_allocator);
    void* scratch = nullptr;
    check(api_, api_.allocator_alloc(raw, conv_.scratch_floats(batch, height, width) * sizeof(float), &scratch));
    const auto free_scratch = [&](void* memory) { api_.release_status(api_.allocator_free(raw, memory)); };
    const std::unique_ptr<void, decltype(free_scratch)> freed(scratch, free_scratch);

    conv_.run(data_of(api_, input), batch, height, width, data_of(api_, output), static_cast<float*>(scratch),
              [&](size_t count, const Piece& piece) {
                // The pieces neither throw nor wait for each other.
                const auto call = [](void* data, size_t index) { (*static_cast<const Piece*>(data))(index); };
                check(api_, api_.parallel_for(context, call, count, 0, const_cast<Piece*>(&piece)));
              });
  }

  const Api& api() const { return api_; }

 private:
  static WinogradConv make_conv(const Api& api, const KernelInfo* info) {
    const Value* weights = constant_input(api, info, 1);
    const std::vector<int64_t> shape = weights == nullptr ? std::vector<int64_t>{} : shape_of(api, weights);
    if (shape.size() != 4 || shape[2] != 3 || shape[3] != 3) {
      throw std::invalid_argument("weights must be constant, (out, in, 3, 3)");
    }
    const Value* bias = constant_input(api, info, 2);
    if (bias != nullptr && shape_of(api, bias) != std::vector<int64_t>{shape[0]}) {
      throw std::invalid_argument("bias must be (out,)");
    }
    int64_t relu = 0;
    check(api, api.get_attribute(info, "relu", &relu));
    return WinogradConv(shared_weights(data_of(api, weights), static_cast<int>(shape[0]), static_cast<int>(shape[1])),
                        bias == nullptr ? nullptr : data_of(api, bias), relu != 0);
  }

  const Api api_;
  const WinogradConv conv_;
  std::unique_ptr<MemoryInfo, void (*)(MemoryInfo*)> memory_{nullptr, nullptr};
};

CustomOp make_op() {
  CustomOp op{};
  op.version = kApiVersion;
  op.get_name = [](const CustomOp*) { return "WinogradConv"; };
  op.get_execution_provider = [](const CustomOp*) -> const char* { return nullptr; };  // the CPU's
  op.get_input_type = [](const CustomOp*, size_t) { return kFloat; };
  op.get_input_count = [](const CustomOp*) -> size_t { return 3; };
  op.get_output_type = [](const CustomOp*, size_t) { return kFloat; };
  op.get_output_count = [](const CustomOp*) -> size_t { return 1; };
  op.get_input_characteristic = [](const CustomOp*, size_t index) { return index == 2 ? kOptional : kRequired; };
  op.get_output_characteristic = [](const CustomOp*, size_t) { return kRequired; };
  op.get_input_memory_type = [](const CustomOp*, size_t) { return kDefaultMemory; };
  op.get_start_version = [](const CustomOp*) { return 1; };
  op.get_end_version = [](const CustomOp*) { return INT32_MAX; };
  op.create_kernel_v2 = [](const CustomOp*, const void* const* table, const KernelInfo* info, void** kernel) {
    const Api api{table};
    return guarded(api, [&] { *kernel = new Kernel(api, info); });
  };
  op.compute_v2 = [](void* data, KernelContext* context) {
    const auto* kernel = static_cast<const Kernel*>(data);
    return guarded(kernel->api(), [&] { kernel->compute(context); });
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

// What SessionOptions.register_custom_ops_library() looks for.
extern "C" RETINASDK_EXPORT retinasdk::ort::Status* RegisterCustomOps(retinasdk::ort::SessionOptions* options,
                                                                      const retinasdk::ort::ApiBase* base) {
  using namespace retinasdk::ort;
  const void* const* table = base->get_api(kApiVersion);
  if (table == nullptr) {  // a status can only be made by a version that every runtime has
    return Api{base->get_api(1)}.create_status(kFail, "retinasdk needs ONNX Runtime 1.17 or newer");
  }
  const Api api{table};
  return guarded(api, [&] {
    static const CustomOp op = make_op();  // these live as long as the process: sessions keep their addresses
    static CustomOpDomain* domain = [&] {
      CustomOpDomain* made = nullptr;
      check(api, api.create_custom_op_domain("retinasdk", &made));
      check(api, api.custom_op_domain_add(made, &op));
      return made;
    }();
    check(api, api.add_custom_op_domain(options, domain));
  });
}
