// What every operator is made of: its attributes, its errors, and its description for ONNX Runtime.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <optional>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "convolution/blocked.h"
#include "onnxruntime/lent_weights.h"
#include "onnxruntime/ort_abi.h"
#include "onnxruntime/ort_call.h"

namespace retinasdk::ort {

// Returns an error status for ONNX Runtime, even if no memory is left for the whole message.
inline Status* failure(const Api& api, const char* name, const char* what) noexcept {
  try {
    return api.create_status(kFail, (std::string("retinasdk ") + name + ": " + what).c_str());
  } catch (const std::exception&) {
    return api.create_status(kFail, "retinasdk operators: out of memory");
  }
}

// Calls a function and turns its exception into an error status.
template <typename Function>
Status* guarded(const Api& api, const char* name, const Function& call) noexcept {
  try {
    call();
    return nullptr;
  } catch (const std::bad_alloc&) {
    return failure(api, name, "out of memory");
  } catch (const std::exception& error) {
    return failure(api, name, error.what());
  }
}

// The attributes of a node, and the tensors that are lent to it. Only lives while its operator is made. All functions
// throw std::invalid_argument if a value is not allowed, and std::runtime_error if it is missing.
class Attributes {
 public:
  Attributes(const Api& api, const KernelInfo* info) : api_(api), info_(info) {}

  int integer(const std::string& name, int low, int high) const {
    const int64_t value = key(name);
    if (value < low || value > high) {
      throw std::invalid_argument(name + " must be " + std::to_string(low) + " to " + std::to_string(high) + ", got " +
                                  std::to_string(value));
    }
    return static_cast<int>(value);
  }

  float number(const std::string& name) const {
    float value = 0.0f;
    check(api_, api_.get_float_attribute(info_, name.c_str(), &value));
    return value;
  }

  int channels() const { return integer("channels", 1, kMaxChannels); }

  // `name` is planar_input or planar_output.
  Layout layout(const std::string& name) const { return integer(name, 0, 1) == 1 ? Layout::kPlanar : Layout::kBlocked; }

  Addition addition() const { return static_cast<Addition>(integer("addition", 0, 2)); }

  // How many times an added image is enlarged, if the attribute exists and is not 0.
  int factor() const { return has("factor") ? integer("factor", 1, INT32_MAX) : 0; }

  // The limits low and high, whose names may have a prefix.
  //
  // Note: Limits of blocked images contain 0
  //
  //     The channels that fill the last block up are limited as the others. They must stay 0.
  Clamp clamp(Layout output, const std::string& prefix = "") const {
    const Clamp clamp{number(prefix + "low"), number(prefix + "high")};
    const bool is_blocked = output == Layout::kBlocked;
    if (!(clamp.low <= clamp.high) || (is_blocked && (clamp.low > 0.0f || clamp.high < 0.0f))) {
      throw std::invalid_argument(prefix + "low and " + prefix + "high must be in this order" +
                                  (is_blocked ? ", with 0 between them" : "") + ", got " + std::to_string(clamp.low) +
                                  " and " + std::to_string(clamp.high));
    }
    return clamp;
  }

  // The strides and the padding, for a kernel of this size.
  Window window(int height, int width, const std::string& prefix = "") const {
    Window window;
    window.height = height;
    window.width = width;
    window.stride_y = integer(prefix + "stride_y", 1, kMaxSide);
    window.stride_x = integer(prefix + "stride_x", 1, kMaxSide);
    window.top = integer(prefix + "top", 0, kMaxSide);
    window.left = integer(prefix + "left", 0, kMaxSide);
    window.bottom = integer(prefix + "bottom", 0, kMaxSide);
    window.right = integer(prefix + "right", 0, kMaxSide);
    return window;
  }

  // The kernel, the strides and the padding of a pooling.
  Window pooling() const {
    const Window found = window(integer("kernel_y", 1, kMaxSide), integer("kernel_x", 1, kMaxSide));
    if (found.top >= found.height || found.bottom >= found.height || found.left >= found.width ||
        found.right >= found.width) {
      throw std::invalid_argument("the padding must be smaller than the kernel");  // A window would have no pixels.
    }
    return found;
  }

  // Whether an optional tensor is lent: its attribute exists and is not 0.
  bool has(const std::string& name) const {
    int64_t value = 0;
    if (Status* status = api_.get_integer_attribute(info_, name.c_str(), &value)) api_.release_status(status);
    return value != 0;
  }

  // The lent weights of a convolution, (out, in, height, width).
  LentTensor weights(const std::string& name) const {
    LentTensor tensor = lent_.find(key(name), name);
    const std::vector<int64_t>& shape = tensor.shape;
    if (shape.size() != 4 || shape[0] > kMaxChannels || shape[1] > kMaxChannels || shape[2] > kMaxSide ||
        shape[3] > kMaxSide) {
      throw std::invalid_argument(name +
                                  " must be (out, in, height, width) with at most 65536 channels and sides of at "
                                  "most 31, got " +
                                  text_of(shape));
    }
    return tensor;
  }

  // Throws std::invalid_argument if the sizes of weights are others. A size of 0 stands for any.
  static void require(const LentTensor& weights, const std::string& name, const std::vector<int64_t>& expected) {
    bool fits = true;
    for (std::size_t i = 0; i < expected.size(); ++i) {
      fits = fits && (expected[i] == 0 || expected[i] == weights.shape[i]);
    }
    if (!fits) {
      throw std::invalid_argument(name + " must be " + text_of(expected) + (has_any(expected) ? ", 0 for any" : "") +
                                  ", got " + text_of(weights.shape));
    }
  }

  // The lent bias (channels,), or nothing if its key is 0.
  std::optional<LentTensor> bias(const std::string& name, int64_t channels) const {
    const int64_t found = key(name);
    if (found == 0) return std::nullopt;
    LentTensor tensor = lent_.find(found, name);
    if (tensor.shape != std::vector<int64_t>{channels}) {
      throw std::invalid_argument(name + " must be " + text_of({channels}) + ", got " + text_of(tensor.shape));
    }
    return tensor;
  }

 private:
  static constexpr int kMaxSide = 31;  // Of kernels, strides and padding.

  int64_t key(const std::string& name) const {
    int64_t value = 0;
    check(api_, api_.get_integer_attribute(info_, name.c_str(), &value));
    return value;
  }

  static bool has_any(const std::vector<int64_t>& shape) {
    return std::find(shape.begin(), shape.end(), 0) != shape.end();
  }

  static std::string text_of(const std::vector<int64_t>& shape) {
    Shape copy;
    copy.rank = shape.size();
    std::copy_n(shape.begin(), std::min(shape.size(), copy.sizes.size()), copy.sizes.begin());
    return copy.text();
  }

  const Api& api_;
  const KernelInfo* info_;
  const LentTensors lent_;
};

// An operator of a session: what ONNX Runtime holds for a node. `Op` has
//
//     static constexpr const char* kName;
//     static constexpr size_t kInputs;      the most inputs, and kOutputs if there may be more than one output: only
//     the
//                                           first ones are required
//     explicit Op(const Attributes&);
//     void compute(Call& call) const;
template <typename Op>
struct Node {
  Node(const Api& with, const KernelInfo* info) : api(with), memory(api), op(Attributes(api, info)) {}

  const Api api;
  const ScratchMemory memory;
  const Op op;
};

// The types of the tensors of an operator: float32, unless it has kInputType and kOutputType.
template <typename Op, typename = void>
struct TensorTypes {
  static constexpr int kInput = kFloat, kOutput = kFloat;
};
template <typename Op>
struct TensorTypes<Op, std::void_t<decltype(Op::kInputType + Op::kOutputType)>> {
  static constexpr int kInput = Op::kInputType, kOutput = Op::kOutputType;
};

// The most outputs of an operator: one, unless it has kOutputs.
template <typename Op, typename = void>
struct Outputs {
  static constexpr size_t kMost = 1;
};
template <typename Op>
struct Outputs<Op, std::void_t<decltype(Op::kOutputs)>> {
  static constexpr size_t kMost = Op::kOutputs;
};

// Describes an operator to ONNX Runtime.
template <typename Op>
CustomOp make_op() {
  CustomOp op{};
  op.version = kApiVersion;
  op.get_name = [](const CustomOp*) { return Op::kName; };
  op.get_execution_provider = [](const CustomOp*) -> const char* { return nullptr; };  // The CPU.
  op.get_input_type = [](const CustomOp*, size_t) { return TensorTypes<Op>::kInput; };
  op.get_input_count = [](const CustomOp*) -> size_t { return Op::kInputs; };
  op.get_output_type = [](const CustomOp*, size_t) { return TensorTypes<Op>::kOutput; };
  op.get_output_count = [](const CustomOp*) -> size_t { return Outputs<Op>::kMost; };
  op.get_input_characteristic = [](const CustomOp*, size_t index) { return index >= 1 ? kOptional : kRequired; };
  op.get_output_characteristic = [](const CustomOp*, size_t index) { return index >= 1 ? kOptional : kRequired; };
  op.get_input_memory_type = [](const CustomOp*, size_t) { return kDefaultMemory; };
  op.get_start_version = [](const CustomOp*) { return 1; };
  op.get_end_version = [](const CustomOp*) { return INT32_MAX; };
  op.create_kernel_v2 = [](const CustomOp*, const void* const* table, const KernelInfo* info, void** kernel) {
    const Api api{table};
    return guarded(api, Op::kName, [&] { *kernel = new Node<Op>(api, info); });
  };
  op.compute_v2 = [](void* data, KernelContext* context) {
    const auto* node = static_cast<const Node<Op>*>(data);
    return guarded(node->api, Op::kName, [&] {
      Call call(node->api, node->memory, context);
      node->op.compute(call);
    });
  };
  op.destroy_kernel = [](void* node) { delete static_cast<Node<Op>*>(node); };
  return op;
}

}  // namespace retinasdk::ort
