#include "runtime/tensorrt/engine.h"

#include <algorithm>

#include "runtime/errors.h"
#include "runtime/tensorrt/library.h"
#include "runtime/tensorrt/logger.h"

namespace retinasdk::runtime::trt {
namespace {

using nvinfer1::DataType;

const char* const kBuild = "retinasdk build model.onnx -o model.engine";

std::string dotted(const int (&numbers)[2]) { return std::to_string(numbers[0]) + "." + std::to_string(numbers[1]); }

std::string dotted(const std::array<int, 2>& numbers) {
  return std::to_string(numbers[0]) + "." + std::to_string(numbers[1]);
}

// The first three numbers of a version. The Python package's version may have a fifth one.
std::string three_numbers(const std::string& version) {
  size_t end = 0;
  for (int dots = 0; end < version.size(); ++end) {
    if (version[end] == '.' && ++dots == 3) break;
  }
  return version.substr(0, end);
}

std::string joined(const std::vector<std::string>& words) {
  std::string text;
  for (const std::string& word : words) text += (text.empty() ? "" : ", ") + word;
  return text;
}

[[noreturn]] void throw_built_by_other(const std::string& path, const Fingerprint& built) {
  throw ModelError(path + " was built by " + built.tensorrt.value_or("None") + " " +
                   built.tensorrt_version.value_or("None") + ", but tensorrt " + library_version() +
                   " is installed here. Build the engine again on this machine with: " + kBuild);
}

// What the JSON says decides whether a plan may fit this machine, and TensorRT whether it does.
void check_fits(const std::string& path, const Fingerprint& built, const cuda::DeviceProperties& gpu) {
  if (built.tensorrt_version && three_numbers(*built.tensorrt_version) != library_version()) {
    throw_built_by_other(path, built);
  }
  const auto& wanted = built.compute_capability;
  if (wanted && *wanted != std::array<int, 2>{gpu.compute_capability[0], gpu.compute_capability[1]}) {
    throw ModelError(path + " does not fit this machine: it was built for compute capability " + dotted(*wanted) +
                     ", but this is " + dotted(gpu.compute_capability) +
                     ". Use the ONNX file, or build the engine again with: " + kBuild);
  }
}

}  // namespace

Engine::Engine(const std::string& path, const ModelSpec* spec, std::string& warning) : path_(path) {
  EngineInfo info = load_engine_info(path);
  const cuda::DeviceProperties gpu =
      checked("asking for the properties of the GPU", [] { return cuda::device_properties(kOrdinal); });
  is_integrated_ = gpu.integrated;
  // TensorRT for RTX is another product, which cannot load the engines of TensorRT, nor the other way round.
  if (info.fingerprint.tensorrt.value_or("tensorrt") != "tensorrt") throw_built_by_other(path, info.fingerprint);
  const std::string plan = read_plan(path, info);
  check_fits(path, info.fingerprint, gpu);
  if (const auto& built_for = info.fingerprint.gpu; built_for && *built_for != gpu.name) {
    warning = path + ": it was built for the GPU " + *built_for + ", but this is " + gpu.name +
              ". It works, but it is optimized for the other GPU.";
  }
  spec_ = spec != nullptr ? *spec : std::move(info.spec);
  profile_ = info.profile;
  const CollectedErrors errors;
  runtime_.reset(new_runtime(process_logger()));
  if (runtime_ == nullptr) {
    throw DeviceError("tensorrt " + library_version() + " cannot start: " + errors.reason() +
                      ". To check the machine, run: retinasdk doctor");
  }
  engine_.reset(runtime_->deserializeCudaEngine(plan.data(), plan.size()));
  if (engine_ == nullptr) {
    throw ModelError(path + ": tensorrt " + library_version() + " cannot load this engine: " + errors.reason() +
                     ". By its header, " + plan_header(plan) + ". Build it again on this machine with: " + kBuild);
  }
  check_tensors();
  upload_anchors();
}

// Throws ModelError if the input and the outputs do not fit the spec.
void Engine::check_tensors() {
  std::vector<std::string> inputs;
  for (int index = 0; index < engine_->getNbIOTensors(); ++index) {
    const std::string name = engine_->getIOTensorName(index);
    const bool is_input = engine_->getTensorIOMode(name.c_str()) == nvinfer1::TensorIOMode::kINPUT;
    (is_input ? inputs : outputs_).push_back(name);
    const DataType type = engine_->getTensorDataType(name.c_str());
    if (type > DataType::kBOOL) {
      throw ModelError("A tensor of the engine has the type " + name_of(type) +
                       ", but retinasdk supports FLOAT, HALF, INT8, INT32, BOOL. Export the network with float32 "
                       "inputs and outputs, and build the engine again.");
    }
  }
  if (inputs != std::vector<std::string>{spec_.input}) {
    throw ModelError(path_ + " must have one input, named '" + spec_.input +
                     "' as in the spec, but its inputs are: " + (inputs.empty() ? "none" : joined(inputs)) +
                     ". Check that it is a RetinaNet with raw heads and that the spec belongs to it.");
  }
  input_type_ = engine_->getTensorDataType(spec_.input.c_str());
  std::vector<std::string> kinds;
  for (const Level& level : spec_.levels) {
    for (const std::string& name : {level.logits, level.deltas}) {
      if (std::find(outputs_.begin(), outputs_.end(), name) == outputs_.end()) {
        throw ModelError(path_ + " has no output named '" + name + "', which the spec lists. Its outputs are: " +
                         joined(outputs_) + ". Check that the spec belongs to it.");
      }
      const std::string kind = numpy_name(engine_->getTensorDataType(name.c_str()));
      if (std::find(kinds.begin(), kinds.end(), kind) == kinds.end()) kinds.push_back(kind);
    }
  }
  std::sort(kinds.begin(), kinds.end());
  const auto is_supported = [](const std::string& kind) { return kind == "float32" || kind == "float16"; };
  if (kinds.size() > 1 || !is_supported(kinds.front()) || !is_supported(numpy_name(input_type_))) {
    throw ModelError(path_ + " has an input of type " + numpy_name(input_type_) + " and heads of type " +
                     joined(kinds) +
                     ". The input must be float32 or float16, and all heads must be one of the two. Export the "
                     "network in float32 and build the engine again.");
  }
}

void Engine::upload_anchors() {
  Layout layout;
  std::vector<Field> fields;
  for (const Level& level : spec_.levels) fields.push_back(layout.add<float>(level.base_anchors.size()));
  anchors_.reserve(layout.size_bytes());
  const Stream stream;
  const std::string doing = "copying anchors to the GPU";
  for (size_t i = 0; i < fields.size(); ++i) {
    const std::vector<float>& anchors = spec_.levels[i].base_anchors;
    check(cudaMemcpyAsync(anchors_.data() + fields[i].offset, anchors.data(), fields[i].size_bytes,
                          cudaMemcpyHostToDevice, stream.handle()),
          doing);
    base_anchors_.push_back(fields[i].in<const float>(anchors_.data()));
  }
  stream.wait();
}

std::unique_ptr<nvinfer1::IExecutionContext> Engine::new_context() const {
  const CollectedErrors errors;
  std::unique_ptr<nvinfer1::IExecutionContext> context(engine_->createExecutionContext());
  if (context == nullptr) {
    throw DeviceError(path_ + ": TensorRT cannot create an execution context: " + errors.reason() +
                      ". The usual cause is too little GPU memory: end other programs on the GPU, or build the engine "
                      "for smaller sizes.");
  }
  return context;
}

std::vector<OutputMemory> Engine::output_memory(const nvinfer1::IExecutionContext& context) const {
  std::vector<OutputMemory> memory;
  std::vector<std::string> unknown;
  for (const std::string& name : outputs_) {
    const StoredOutput stored = ask_how_stored(*engine_, context, name);
    if (std::any_of(stored.shape.begin(), stored.shape.end(), [](int64_t side) { return side < 0; })) {
      unknown.push_back(name);
      continue;
    }
    const bool is_head = std::any_of(spec_.levels.begin(), spec_.levels.end(), [&name](const Level& level) {
      return level.logits == name || level.deltas == name;
    });
    memory.push_back(is_head ? head_memory(stored, path_) : other_memory(stored));
  }
  if (!unknown.empty()) {
    throw ModelError(path_ + ": the size of the output " + joined(unknown) +
                     " depends on the content of the image. Export the network with raw heads, without NMS.");
  }
  return memory;
}

}  // namespace retinasdk::runtime::trt
