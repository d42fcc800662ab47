#include "runtime/onnx_session.h"

#include <array>
#include <utility>

#include "runtime/errors.h"
#include "runtime/onnx_wire.h"

namespace retinasdk::runtime {
namespace {

// Owns an object of ONNX Runtime.
template <typename T>
using Owned = std::unique_ptr<T, void (*)(T*)>;

// The names of ONNXTensorElementDataType, as ONNX Runtime writes them in Python.
constexpr std::array<const char*, 17> kTypes = {"undefined", "float",  "uint8",     "int8",       "uint16",  "int16",
                                                "int32",     "int64",  "string",    "bool",       "float16", "double",
                                                "uint32",    "uint64", "complex64", "complex128", "bfloat16"};

std::vector<int64_t> dimensions(const OrtLibrary& library, const ort::ShapeInfo* info) {
  size_t rank = 0;
  library.check(library.api.get_dimensions_count(info, &rank));
  std::vector<int64_t> sizes(rank);
  library.check(library.api.get_dimensions(info, sizes.data(), rank));
  return sizes;
}

// Describes an input or an output from its name, which ONNX Runtime has allocated, and its type.
TensorInfo describe(const OrtLibrary& library, ort::Allocator* allocator, char* name, ort::TypeInfo* type) {
  const Owned<ort::TypeInfo> released(type, library.api.release_type_info);
  TensorInfo tensor{name, {}, "unknown"};
  library.check(library.api.allocator_free(allocator, name));
  const ort::ShapeInfo* info = nullptr;
  library.check(library.api.tensor_info(type, &info));
  if (info == nullptr) return tensor;  // A sequence or a map.
  int element = 0;
  library.check(library.api.get_element_type(info, &element));
  const auto number = static_cast<size_t>(element);
  tensor.type = "tensor(" + (number < kTypes.size() ? kTypes[number] : "type " + std::to_string(element)) + ")";
  const std::vector<int64_t> sizes = dimensions(library, info);
  std::vector<const char*> names(sizes.size());
  library.check(library.api.get_symbolic_dimensions(info, names.data(), names.size()));
  for (size_t i = 0; i < sizes.size(); ++i) tensor.shape.push_back({sizes[i], names[i] == nullptr ? "" : names[i]});
  return tensor;
}

// Returns all inputs, or all outputs, which the functions of ONNX Runtime count and describe.
template <typename Count, typename Type, typename Name>
std::vector<TensorInfo> tensors(const OrtLibrary& library, ort::Session* session, Count count_of, Type type_of,
                                Name name_of) {
  ort::Allocator* allocator = nullptr;
  library.check(library.api.default_allocator(&allocator));
  size_t count = 0;
  library.check(count_of(session, &count));
  std::vector<TensorInfo> found;
  for (size_t i = 0; i < count; ++i) {
    ort::TypeInfo* type = nullptr;
    char* name = nullptr;
    library.check(type_of(session, i, &type));
    library.check(name_of(session, i, allocator, &name));
    found.push_back(describe(library, allocator, name, type));
  }
  return found;
}

Owned<ort::SessionOptions> session_options(const OrtLibrary& library, std::optional<int> threads) {
  ort::SessionOptions* made = nullptr;
  library.check(library.api.create_session_options(&made));
  Owned<ort::SessionOptions> options(made, library.api.release_session_options);
  library.check(library.api.set_log_severity(made, ort::kErrorSeverity));
  // Otherwise the threads spin after a call while they wait for the next one (backends/onnx_cpu.py has the figure).
  library.check(library.api.add_config_entry(made, "session.force_spinning_stop", "1"));
  if (threads) library.check(library.api.set_threads(made, *threads));
  return options;
}

Owned<ort::Session> open(const OrtLibrary& library, const std::filesystem::path& path, std::optional<int> threads) {
  try {
    check_functions(read_file(path));
  } catch (const FunctionsError& error) {
    throw ModelError(path.string() + " cannot be loaded: " + error.what() + ". Export the network again");
  } catch (const std::runtime_error&) {  // Opening it reports that better.
  }
  try {
    const Owned<ort::SessionOptions> options = session_options(library, threads);
    ort::Session* session = nullptr;
    library.check(library.api.create_session(library.env, path.c_str(), options.get(), &session));
    return {session, library.api.release_session};
  } catch (const std::runtime_error& error) {
    throw ModelError(path.string() + ": ONNX Runtime cannot load it: " + error.what() +
                     "; check that it is a complete ONNX file, and that this version of ONNX Runtime supports its "
                     "opset");
  }
}

}  // namespace

OutputTensor::OutputTensor(const OrtLibrary& library, Value value) : value_(std::move(value)) {
  ort::ShapeInfo* info = nullptr;
  library.check(library.api.get_shape_info(value_.get(), &info));
  const Owned<ort::ShapeInfo> released(info, library.api.release_shape_info);
  shape_ = dimensions(library, info);
  void* data = nullptr;
  library.check(library.api.get_tensor_data(value_.get(), &data));
  data_ = static_cast<const float*>(data);
}

OnnxSession::OnnxSession(const OrtLibrary& library, const std::filesystem::path& path, std::optional<int> threads)
    : library_(library), session_(open(library, path, threads)) {}

std::vector<TensorInfo> OnnxSession::inputs() const {
  const ort::SessionApi& api = library_.api;
  return tensors(library_, session_.get(), api.input_count, api.input_type, api.input_name);
}

std::vector<TensorInfo> OnnxSession::outputs() const {
  const ort::SessionApi& api = library_.api;
  return tensors(library_, session_.get(), api.output_count, api.output_type, api.output_name);
}

std::optional<std::string> OnnxSession::metadata(const char* key) const {
  const ort::SessionApi& api = library_.api;
  ort::Allocator* allocator = nullptr;
  library_.check(api.default_allocator(&allocator));
  ort::ModelMetadata* metadata = nullptr;
  library_.check(api.model_metadata(session_.get(), &metadata));
  const Owned<ort::ModelMetadata> released(metadata, api.release_metadata);
  char* value = nullptr;
  library_.check(api.lookup_metadata(metadata, allocator, key, &value));
  if (value == nullptr) return std::nullopt;
  std::string text = value;
  library_.check(api.allocator_free(allocator, value));
  return text;
}

std::vector<OutputTensor> OnnxSession::run(const std::string& input, const float* tensor, const Shape& shape,
                                           const std::vector<std::string>& outputs) const {
  const ort::SessionApi& api = library_.api;
  ort::MemoryInfo* memory = nullptr;
  library_.check(api.create_cpu_memory_info(ort::kArenaAllocator, ort::kDefaultMemory, &memory));
  const Owned<ort::MemoryInfo> released(memory, api.release_memory_info);
  const auto bytes = static_cast<size_t>(shape[0] * shape[1] * shape[2] * shape[3]) * sizeof(float);
  ort::Value* made = nullptr;
  // ONNX Runtime only reads inputs.
  library_.check(
      api.create_tensor(memory, const_cast<float*>(tensor), bytes, shape.data(), shape.size(), ort::kFloat, &made));
  const Owned<ort::Value> value(made, api.release_value);
  const char* input_name = input.c_str();
  std::vector<const char*> names;
  for (const std::string& name : outputs) names.push_back(name.c_str());
  std::vector<ort::Value*> values(names.size(), nullptr);
  const ort::Value* const given = made;
  library_.check(api.run(session_.get(), nullptr, &input_name, &given, 1, names.data(), names.size(), values.data()));
  std::vector<OutputTensor::Value> owned;
  for (ort::Value* output : values) owned.emplace_back(output, api.release_value);
  std::vector<OutputTensor> tensors;
  for (OutputTensor::Value& output : owned) tensors.emplace_back(library_, std::move(output));
  return tensors;
}

}  // namespace retinasdk::runtime
