// Fuzzes the custom operators with tensors of any shapes, attributes and lent weights. The functions of ONNX Runtime
// that they call are replaced: tensors are exactly as large as their shapes say. Where the real runtime checks a model
// first, such as the number of inputs, only models that it lets through are made.
#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <map>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "check.h"
#include "onnxruntime/lent_weights.h"
#include "onnxruntime/ort_abi.h"
#include "onnxruntime/ort_call.h"
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
  std::map<std::string, int64_t> integers;
  std::map<std::string, float> numbers;
};
struct KernelContext {
  std::array<const Value*, 8> inputs;  // Null: not given.
  std::array<Value, 8> outputs;
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
template <typename Number>
Status* get_attribute(const std::map<std::string, Number>& attributes, const char* name, Number* value) {
  const auto found = attributes.find(name);
  if (found == attributes.end()) return new Status{"no such attribute"};
  *value = found->second;
  return nullptr;
}
Status* get_integer_attribute(const KernelInfo* info, const char* name, int64_t* value) {
  return get_attribute(info->integers, name, value);
}
Status* get_float_attribute(const KernelInfo* info, const char* name, float* value) {
  return get_attribute(info->numbers, name, value);
}
Status* get_input(const KernelContext* context, size_t index, const Value** value) {
  *value = context->inputs.at(index);
  return nullptr;
}
Status* get_output(KernelContext* context, size_t index, const int64_t* shape, size_t rank, Value** value) {
  Value& output = context->outputs.at(index);
  output.shape.assign(shape, shape + rank);
  size_t count = 1;
  for (size_t i = 0; i < rank; ++i) count *= static_cast<size_t>(shape[i]);
  output.data.assign(count, std::numeric_limits<float>::quiet_NaN());
  *value = &output;
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
// Exceptions must not reach the runtime, here neither: the program ends.
Status* parallel_for(const KernelContext*, void (*call)(void*, size_t), size_t total, size_t, void* data) noexcept {
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
    made[85] = address(get_float_attribute);
    made[86] = address(get_integer_attribute);
    made[90] = address(get_input);
    made[91] = address(get_output);
    made[93] = address(release_status);
    made[94] = address(release_memory_info);
    made[99] = address(release_shape_info);
    made[132] = address(release_allocator);
    made[253] = address(get_allocator);
    made[274] = address(parallel_for);
    return made;
  }();
  return functions.data();
}

// Returns whether the call succeeded.
bool succeeded(Status* status) {
  const std::unique_ptr<Status> owned(status);
  check(status == nullptr || status->message.find("retinasdk ") == 0, "errors name the operator");
  return status == nullptr;
}

// A use of one operator: values of all attributes, and tensors whose shapes mostly fit together.
class Use {
 public:
  Use(Random& random, const std::string& name) : random_(random) {
    const bool is_depthwise = name == "DepthwiseBlock", is_winograd = name.rfind("Winograd", 0) == 0;
    const bool is_convolution = is_depthwise || is_winograd || name == "BlockedConv";
    const int in = channels(), middle = is_depthwise && random.chance(2) ? channels() : in;
    int out = is_depthwise || !is_convolution ? middle : channels();
    const int height = is_winograd ? 3 : random.integer(1, 4), width = is_winograd ? 3 : random.integer(1, 4);
    const bool planar_input = flag("planar_input") || name == "ToBlocked";
    limit("", flag("planar_output"));
    limit("expand_", false);
    limit("project_", false);
    integer("channels", in);
    integer("kernel_y", height);
    integer("kernel_x", width);
    integer("patch", random.chance(2) ? 4 : 6);
    integer("levels", random.integer(1, 2));
    integer("threads", random.integer(0, 9));
    if (is_convolution) lend("", out, is_depthwise ? 1 : in, height, width);
    const bool is_first = is_depthwise && planar_input && middle != in;  // It reads the photo.
    const int first_height = is_first ? random.integer(1, 3) : 1, first_width = is_first ? random.integer(1, 3) : 1;
    if (is_depthwise && middle != in) lend("expand_", middle, in, first_height, first_width);
    if (is_depthwise && random.chance(2)) lend("project_", out = channels(), middle, 1, 1);
    const int addition = random.integer(name == "BlockedAdd" ? 1 : 0, 2);
    integer("addition", addition);
    const bool is_planar = is_first || (planar_input && (name == "BlockedConv" || name == "ToBlocked"));
    image = make_value(is_planar, in, random.integer(1, 14), random.integer(1, 14));
    const bool keeps = is_winograd || !is_convolution;
    int rows = size_of(image, 2), columns = size_of(image, 3);
    if (is_first) {
      rows = side(rows, first_height, {"expand_top", "expand_bottom", "expand_stride_y"}, false);
      columns = side(columns, first_width, {"expand_left", "expand_right", "expand_stride_x"}, false);
    }
    rows = side(rows, height, {"top", "bottom", "stride_y"}, keeps);
    columns = side(columns, width, {"left", "right", "stride_x"}, keeps);
    const bool is_smaller = addition == 2 && random.chance(2);
    added = make_value(false, name == "WinogradLevels" ? in : out, is_smaller ? random.integer(1, rows) : rows,
                       is_smaller ? random.integer(1, columns) : columns);
    has_added = random.chance(24) ? random.chance(2) : addition != 0;
  }

  ~Use() {
    for (const int64_t key : keys_) retinasdk_take_back(key);
  }

  Use(const Use&) = delete;
  Use& operator=(const Use&) = delete;

  KernelInfo info;
  Value image, added;
  bool has_added;

 private:
  struct Names {
    const char *before, *after, *stride;
  };

  int channels() { return random_.chance(4) ? 16 * random_.integer(1, 3) : random_.integer(1, 40); }

  // Mostly sets the value itself.
  void integer(const std::string& name, int64_t value) {
    if (random_.chance(96))
      value = random_.chance(2) ? random_.integer(-1, 40) : int64_t{random_.outside(0, 9)} * 1048576;
    if (!random_.chance(256)) info.integers[name] = value;
  }

  bool flag(const char* name) {
    const bool value = random_.chance(3);
    integer(name, value ? 1 : 0);
    return value;
  }

  void limit(const std::string& prefix, bool planar) {
    const bool is_hostile = random_.chance(48);
    info.numbers[prefix + "low"] = is_hostile ? random_.hostile() : random_.real(-2.0f, planar ? 1.0f : 0.0f);
    info.numbers[prefix + "high"] = is_hostile ? random_.hostile() : random_.real(planar ? 1.0f : 0.0f, 6.0f);
  }

  static int size_of(const Value& value, size_t axis) {
    return static_cast<int>(value.shape.size() > axis ? std::max<int64_t>(value.shape[axis], 1) : 1);
  }

  // Sets the strides and the padding of a side, and returns how long that of the output is.
  int side(int size, int kernel, const Names& names, bool keeps) {
    const int before = random_.integer(std::max(0, kernel - size), kernel - 1), after = random_.integer(0, kernel - 1);
    const int stride = random_.integer(1, 3);
    integer(names.before, before);
    integer(names.after, after);
    integer(names.stride, stride);
    return keeps ? size : (size + before + after - kernel) / stride + 1;
  }

  // Seldom returns another shape.
  std::vector<int64_t> changed(std::vector<int64_t> shape, int least) {
    if (random_.chance(24)) {
      shape[static_cast<size_t>(random_.integer(0, static_cast<int>(shape.size()) - 1))] = random_.integer(least, 5);
    }
    if (random_.chance(64)) shape.pop_back();
    if (random_.chance(64)) shape.push_back(random_.integer(least, 3));
    return shape;
  }

  Value make_value(bool planar, int channels, int height, int width) {
    std::vector<int64_t> shape{random_.integer(1, 2), planar ? channels : retinasdk::blocks_of(channels), height,
                               width};
    if (!planar) shape.push_back(retinasdk::kBlock);
    if (batch_ != 0) shape[0] = batch_;
    batch_ = shape[0];
    shape = changed(shape, 0);
    size_t count = 1;
    for (const int64_t size : shape) count *= static_cast<size_t>(size);
    Value value{shape, std::vector<float>(count)};
    for (float& number : value.data) number = random_.real(-1.0f, 1.0f);
    return value;
  }

  // The memory is exactly as large as the tensor, and of any alignment.
  int64_t lend(const std::vector<int64_t>& exact) {
    const std::vector<int64_t> shape = changed(exact, 1);
    size_t count = 1;
    for (const int64_t size : shape) count *= static_cast<size_t>(size);
    const size_t offset = static_cast<size_t>(random_.integer(0, 3));
    std::vector<unsigned char>& memory = memory_.emplace_back(offset + count * sizeof(float));
    for (size_t i = 0; i < count; ++i) {
      const float number = random_.real(-1.0f, 1.0f);
      std::memcpy(memory.data() + offset + i * sizeof number, &number, sizeof number);
    }
    keys_.push_back(retinasdk_lend(memory.data() + offset, shape.data(), shape.size()));
    check((keys_.back() != 0) == !shape.empty(), "tensors with values can be lent");
    return keys_.back();
  }

  void lend(const std::string& prefix, int out, int in, int height, int width) {
    integer(prefix + "weights", lend({out, in, height, width}));
    integer(prefix + "bias", random_.chance(2) ? 0 : lend({out}));
  }

  Random& random_;
  int64_t batch_ = 0;
  std::vector<std::vector<unsigned char>> memory_;
  std::vector<int64_t> keys_;
};

// A piece that throws ends the work with its exception, whichever of the pieces it is.
void check_exceptions(Random& random) {
  const Api api{table(kApiVersion)};
  const ScratchMemory memory(api);
  KernelContext context{};
  const Call call(api, memory, &context);
  const int count = random.integer(1, 20), bad = random.integer(0, count);
  int done = 0;
  bool has_thrown = false;
  try {
    call.threads()(static_cast<size_t>(count), [&](size_t index) {
      if (static_cast<int>(index) == bad) throw std::bad_alloc();
      ++done;
    });
  } catch (const std::bad_alloc&) {
    has_thrown = true;
  }
  check(has_thrown == (bad < count) && done == (has_thrown ? count - bad - 1 : count), "exceptions of pieces arrive");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t count) {
  static const bool is_ready = [] {
    SessionOptions options;
    const ApiBase base{table, [] { return "1.17.0"; }};
    return succeeded(RegisterCustomOps(&options, &base));
  }();
  check(is_ready && registered.ops.size() >= 8, "the operators are registered");
  Random random(bytes, count);
  if (random.chance(32)) check_exceptions(random);
  const CustomOp& op = *registered.ops[static_cast<size_t>(random.integer(0, 7))];  // Those of float32.
  const Use use(random, op.get_name(&op));
  void* kernel = nullptr;
  if (!succeeded(op.create_kernel_v2(&op, table(kApiVersion), &use.info, &kernel))) return 0;
  KernelContext context{{&use.image, use.has_added ? &use.added : nullptr}, {}};
  if (succeeded(op.compute_v2(kernel, &context))) {
    for (const Value& output : context.outputs) {
      for (const float value : output.data) check(value == value, "every output is written");
    }
  }
  op.destroy_kernel(kernel);
  return 0;
}
