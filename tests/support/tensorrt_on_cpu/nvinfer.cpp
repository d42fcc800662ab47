// The stand-in for TensorRT's library: engines that give recorded heads (network.h), at the addresses that they are
// given, in stream order. It is compiled against NVIDIA's headers, or against include/ where they are missing.
//
// The beliefs about the real TensorRT are those of tests/support/fakes/tensorrt.py. In short, and UNCONFIRMED by a GPU:
// a context's first run for a shape is not captured, a graph is not valid any more when the shape or an address of its
// context has changed, addresses are aligned to 256 bytes, objects are released in the order contexts, engine, runtime,
// and up to 8.6 a dynamic profile serves one context at a time. Whatever breaks a belief ends the process with a
// message.
//
// Environment variables:
//   TENSORRT_ON_CPU_REFUSE=context|capture|run   refuses further contexts, runs that are captured, or all runs
#include <NvInferRuntime.h>
#include <cuda_fp16.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <numeric>
#include <string>

#include "cuda_on_cpu.h"
#include "network.h"

namespace {

[[noreturn]] void unexpected(const char* what) noexcept {
  std::fprintf(stderr, "tensorrt_on_cpu: not expected: %s\n", what);
  std::abort();
}

void expect(bool condition, const char* what) {
  if (!condition) unexpected(what);
}

bool refuses(const char* what) {
  const char* refused = std::getenv("TENSORRT_ON_CPU_REFUSE");
  return refused != nullptr && std::string(refused) == what;
}

}  // namespace

#include "abstract_members.h"  // Written by abstract_members.py. Uses unexpected().

namespace tensorrt_on_cpu {
namespace {

using nvinfer1::DataType;
using nvinfer1::Dims;
using nvinfer1::TensorFormat;
using Severity = nvinfer1::ILogger::Severity;

// What an engine and its contexts share.
struct Model {
  nvinfer1::ILogger* logger;
  std::unique_ptr<Network> network;
  std::vector<std::string> names;
  std::map<std::string, DataType> types;
  std::map<std::string, TensorFormat> formats;
  std::vector<int64_t> smallest, largest;
  int64_t gap = 0;
  std::atomic<int> contexts{0};

  bool fail(const std::string& message) const {
    logger->log(Severity::kERROR, message.c_str());
    return false;
  }

  std::vector<int64_t> output_shape(const std::string& name, const std::vector<int64_t>& input) const {
    const auto& outputs = network->outputs();
    const auto index = std::find(outputs.begin(), outputs.end(), name) - outputs.begin();
    return network->output_shapes(input)[static_cast<size_t>(index)];
  }
};

Dims as_dims(const std::vector<int64_t>& shape) {
  Dims dims{};
  for (const int64_t side : shape) {
    dims.d[dims.nbDims++] = static_cast<std::remove_reference_t<decltype(dims.d[0])>>(side);
  }
  return dims;
}

int64_t vector_size(TensorFormat format) {
  return format == TensorFormat::kHWC8 ? 8 : format == TensorFormat::kCHW2 ? 2 : 1;
}

std::vector<int64_t> row_major(const std::vector<int64_t>& shape) {
  std::vector<int64_t> steps(shape.size(), 1);
  for (size_t axis = shape.size(); axis-- > 1;) steps[axis - 1] = steps[axis] * shape[axis];
  return steps;
}

// Strides in elements.
std::vector<int64_t> strides(TensorFormat format, std::vector<int64_t> shape, int64_t gap) {
  if (format == TensorFormat::kLINEAR) return row_major(shape);
  shape[1] = (shape[1] + vector_size(format) - 1) / vector_size(format);
  if (format == TensorFormat::kCHW2) return row_major(shape);
  const int64_t cell = shape[1] + (format == TensorFormat::kHWC ? gap : 0);
  return {shape[2] * shape[3] * cell, 1, shape[3] * cell, cell};
}

void store(std::byte* target, size_t at, float value, DataType type) {
  if (type == DataType::kHALF) {
    const __half half = __float2half_rn(value);
    std::memcpy(target + 2 * at, &half, sizeof half);
  } else {
    std::memcpy(target + 4 * at, &value, sizeof value);
  }
}

float load(const std::byte* source, size_t at, DataType type) {
  float value = 0.0f;
  if (type == DataType::kHALF) {
    __half half;
    std::memcpy(&half, source + 2 * at, sizeof half);
    return __half2float(half);
  }
  std::memcpy(&value, source + 4 * at, sizeof value);
  return value;
}

// Writes an output as it lies in memory. What lies behind the channels of a cell is infinity, the highest logit.
void write(std::byte* target, const Tensor& output, TensorFormat format, DataType type, int64_t gap) {
  if (format == TensorFormat::kLINEAR) {
    for (size_t i = 0; i < output.values.size(); ++i) store(target, i, output.values[i], type);
    return;
  }
  const int64_t size = vector_size(format);
  const std::vector<int64_t> steps = strides(format, output.shape, gap), of_values = row_major(output.shape);
  const int64_t channels = format == TensorFormat::kHWC ? steps[3] : (output.shape[1] + size - 1) / size * size;
  for (int64_t n = 0; n < output.shape[0]; ++n) {
    for (int64_t c = 0; c < channels; ++c) {
      for (int64_t y = 0; y < output.shape[2]; ++y) {
        for (int64_t x = 0; x < output.shape[3]; ++x) {
          const int64_t element = n * steps[0] + c / size * steps[1] + y * steps[2] + x * steps[3];
          const int64_t from = n * of_values[0] + c * of_values[1] + y * of_values[2] + x;
          const float value =
              c < output.shape[1] ? output.values[static_cast<size_t>(from)] : std::numeric_limits<float>::infinity();
          store(target, static_cast<size_t>(element * size + c % size), value, type);
        }
      }
    }
  }
}

class Context final : public nvinfer1::IExecutionContext, public nvinfer1::apiv::UnexpectedContext {
 public:
  explicit Context(Model* model) : model_(model) {
    mImpl = this;
    // Up to 8.6 a dynamic profile belongs to one context at a time.
    const bool is_shared = NV_TENSORRT_MAJOR >= 10 || model->smallest == model->largest;
    profile_ = is_shared || model->contexts == 0 ? 0 : -1;
    ++model->contexts;
  }
  ~Context() noexcept override { --model_->contexts; }

  int32_t getOptimizationProfile() const noexcept override { return profile_; }

  bool setInputShape(const char*, const Dims& dims) noexcept override {
    const std::vector<int64_t> shape(dims.d, dims.d + dims.nbDims);
    bool fits = profile_ >= 0 && shape.size() == model_->smallest.size();
    for (size_t axis = 0; fits && axis < shape.size(); ++axis) {
      fits = model_->smallest[axis] <= shape[axis] && shape[axis] <= model_->largest[axis];
    }
    if (!fits) return model_->fail("IExecutionContext::setInputShape: Error Code 3: the profile does not allow it");
    if (shape != shape_) {
      shape_ = shape;
      is_prepared_ = false;
      ++*version_;
    }
    return true;
  }

  Dims getTensorShape(const char* name) const noexcept override { return as_dims(model_->output_shape(name, shape_)); }

  Dims getTensorStrides(const char* name) const noexcept override {
    return as_dims(strides(model_->formats.at(name), model_->output_shape(name, shape_), model_->gap));
  }

  bool setTensorAddress(const char* name, void* data) noexcept override {
    if (reinterpret_cast<uintptr_t>(data) % 256 != 0) {
      return model_->fail("IExecutionContext::setTensorAddress: Error Code 3: the address is not aligned");
    }
    addresses_[name] = static_cast<std::byte*>(data);
    ++*version_;
    return true;
  }

  bool enqueueV3(cudaStream_t stream) noexcept override {
    if (shape_.empty() || addresses_.size() != model_->names.size()) {
      return model_->fail("IExecutionContext::enqueueV3: Error Code 3: no shape, or a tensor without an address");
    }
    if (refuses("run")) return model_->fail("IExecutionContext::enqueueV3: Error Code 1: refused by the test");
    if (cuda_on_cpu::is_capturing(stream)) {
      expect(is_prepared_, "the first run for a shape was captured");
      if (refuses("capture")) {
        return model_->fail("IExecutionContext::enqueueV3: Error Code 1: operation not permitted when capturing");
      }
    }
    is_prepared_ = true;
    cuda_on_cpu::enqueue(
        [model = model_, shape = shape_, addresses = addresses_, counter = version_, version = version_->load()] {
          expect(*counter == version, "a graph or a launch ran whose context has changed since");
          compute(*model, shape, addresses);
        },
        stream);
    return true;
  }

 private:
  using Addresses = std::map<std::string, std::byte*>;

  static void compute(const Model& model, const std::vector<int64_t>& shape, const Addresses& addresses) {
    Tensor pixels{shape, {}};
    const int64_t count = std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
    const std::string& input = model.network->inputs().front();
    for (size_t i = 0; i < static_cast<size_t>(count); ++i) {
      pixels.values.push_back(load(addresses.at(input), i, model.types.at(input)));
    }
    const std::vector<Tensor>& outputs = model.network->run(pixels);
    for (size_t i = 0; i < outputs.size(); ++i) {
      const std::string& name = model.network->outputs()[i];
      write(addresses.at(name), outputs[i], model.formats.at(name), model.types.at(name), model.gap);
    }
  }

  Model* model_;
  int profile_;
  std::vector<int64_t> shape_;
  Addresses addresses_;
  bool is_prepared_ = false;
  std::shared_ptr<std::atomic<int>> version_ = std::make_shared<std::atomic<int>>(0);
};

class Engine final : public nvinfer1::ICudaEngine, public nvinfer1::apiv::UnexpectedEngine {
 public:
  Engine(std::unique_ptr<Model> model, std::atomic<int>* engines) : model_(std::move(model)), engines_(engines) {
    mImpl = this;
    ++*engines_;
  }
  ~Engine() noexcept override {
    expect(model_->contexts == 0, "an engine was released before its contexts");
    --*engines_;
  }

#if NV_TENSORRT_MAJOR >= 10
  nvinfer1::IExecutionContext* createExecutionContext(nvinfer1::ExecutionContextAllocationStrategy) noexcept override {
#else
  nvinfer1::IExecutionContext* createExecutionContext() noexcept override {
#endif
    if (refuses("context") && model_->contexts > 0) {
      model_->fail("createExecutionContext: Error Code 2: out of memory");
      return nullptr;
    }
    return new Context(model_.get());
  }
  int32_t getNbIOTensors() const noexcept override { return static_cast<int32_t>(model_->names.size()); }
  const char* getIOTensorName(int32_t index) const noexcept override {
    return model_->names[static_cast<size_t>(index)].c_str();
  }
  DataType getTensorDataType(const char* name) const noexcept override { return model_->types.at(name); }
  nvinfer1::TensorIOMode getTensorIOMode(const char* name) const noexcept override {
    const auto& inputs = model_->network->inputs();
    const bool is_input = std::find(inputs.begin(), inputs.end(), name) != inputs.end();
    return is_input ? nvinfer1::TensorIOMode::kINPUT : nvinfer1::TensorIOMode::kOUTPUT;
  }
  TensorFormat getTensorFormat(const char* name) const noexcept override { return model_->formats.at(name); }
  int32_t getTensorVectorizedDim(const char* name) const noexcept override {
    return vector_size(model_->formats.at(name)) > 1 ? 1 : -1;
  }
  int32_t getTensorComponentsPerElement(const char* name) const noexcept override {
    const int64_t size = vector_size(model_->formats.at(name));
    return size > 1 ? static_cast<int32_t>(size) : -1;
  }

 private:
  std::unique_ptr<Model> model_;
  std::atomic<int>* engines_;
};

DataType type_of(const std::string& name) { return name == "float16" ? DataType::kHALF : DataType::kFLOAT; }

TensorFormat format_of(const std::string& name) {
  const std::map<std::string, TensorFormat> formats = {{"LINEAR", TensorFormat::kLINEAR},
                                                       {"CHW2", TensorFormat::kCHW2},
                                                       {"HWC8", TensorFormat::kHWC8},
                                                       {"HWC", TensorFormat::kHWC}};
  return formats.at(name);
}

std::unique_ptr<Model> model_of(const std::string& plan, nvinfer1::ILogger* logger) {
  uint32_t size = 0;
  std::memcpy(&size, plan.data() + 28, sizeof size);
  const std::string description = plan.substr(32, size);
  const auto described = nlohmann::json::parse(description);
  auto model = std::make_unique<Model>();
  model->logger = logger;
  model->network = std::make_unique<Network>(description, plan.substr(32 + size));
  model->smallest = described.at("smallest").get<std::vector<int64_t>>();
  model->largest = described.at("largest").get<std::vector<int64_t>>();
  model->gap = described.at("gap").get<int64_t>();
  const auto types = described.at("dtypes").get<std::map<std::string, std::string>>();
  const auto formats = described.at("formats").get<std::map<std::string, std::string>>();
  const auto add = [&](const std::string& name, const std::string& kind) {
    const auto given = [&](const auto& all, const std::string& otherwise) {
      return all.count(name) > 0 ? all.at(name) : all.count(kind) > 0 ? all.at(kind) : otherwise;
    };
    model->names.push_back(name);
    model->types[name] = type_of(given(types, "float32"));
    model->formats[name] = format_of(given(formats, "LINEAR"));
  };
  for (const std::string& name : model->network->inputs()) add(name, "inputs");
  for (const std::string& name : model->network->outputs()) add(name, "heads");
  return model;
}

class Runtime final : public nvinfer1::IRuntime, public nvinfer1::apiv::UnexpectedRuntime {
 public:
  explicit Runtime(nvinfer1::ILogger* logger) : logger_(logger) { mImpl = this; }
  ~Runtime() noexcept override { expect(engines_ == 0, "a runtime was released before its engines"); }

#if NV_TENSORRT_MAJOR >= 10
  nvinfer1::ICudaEngine* deserializeCudaEngine(const void* blob, std::size_t size) noexcept override {
#else
  nvinfer1::ICudaEngine* deserializeCudaEngine(const void* blob, std::size_t size,
                                               nvinfer1::IPluginFactory*) noexcept override {
#endif
    const std::string plan(static_cast<const char*>(blob), size);
    const std::string magic = NV_TENSORRT_MAJOR == 8 && NV_TENSORRT_MINOR == 5 ? "ptrt" : "ftrt";
    if (size < 32 || plan.compare(0, 4, magic) != 0) {
      return fail("deserializeCudaEngine: Error Code 1: header.magicTag == kEXPECTED_MAGIC_TAG failed");
    }
    const char version[] = {NV_TENSORRT_MAJOR, NV_TENSORRT_MINOR, NV_TENSORRT_PATCH};
    if (plan.compare(24, sizeof version, version, sizeof version) != 0) {
      return fail("deserializeCudaEngine: Error Code 6: the plan file is of another version");
    }
    try {
      return new Engine(model_of(plan, logger_), &engines_);
    } catch (const std::exception& error) {
      return fail(error.what());
    }
  }

 private:
  nvinfer1::ICudaEngine* fail(const char* message) const {
    logger_->log(Severity::kERROR, message);
    return nullptr;
  }

  nvinfer1::ILogger* logger_;
  std::atomic<int> engines_{0};
};

}  // namespace
}  // namespace tensorrt_on_cpu

extern "C" int32_t getInferLibVersion() noexcept { return NV_TENSORRT_VERSION; }

extern "C" void* createInferRuntime_INTERNAL(void* logger, int32_t version) noexcept {
  const char* const devices = std::getenv("CUDA_ON_CPU_DEVICES");
  expect(devices == nullptr || std::string(devices) != "0",
         "a runtime was made without a GPU, which crashes some versions");
  expect(version == NV_TENSORRT_VERSION, "the headers and the library differ");
  // As a pointer to the base, because the caller casts it back from there.
  return static_cast<nvinfer1::IRuntime*>(new tensorrt_on_cpu::Runtime(static_cast<nvinfer1::ILogger*>(logger)));
}
