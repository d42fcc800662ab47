// A loaded engine: what all lanes share. The counterpart of retinasdk/tensorrt/loaded_engine.py.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "runtime/tensorrt/engine_info.h"
#include "runtime/tensorrt/head_layout.h"

namespace retinasdk::runtime::trt {

// The GPU must be current in the calling thread.
class Engine {
 public:
  // spec: null for the one in the JSON file. warning: receives what Python logs as a warning, or nothing. Throws
  // ModelError if the file is not an engine for this machine or does not fit the spec, DeviceError if the GPU fails,
  // MissingDependencyError if TensorRT cannot be loaded.
  Engine(const std::string& path, const ModelSpec* spec, std::string& warning);
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  // Makes an execution context, with memory for activations of its own. Throws DeviceError if TensorRT cannot.
  std::unique_ptr<nvinfer1::IExecutionContext> new_context() const;

  // How each output of the network lies in memory, for a context whose input shape is set. Throws ModelError if the
  // size of an output depends on the image, or if the kernels cannot read a head output.
  std::vector<OutputMemory> output_memory(const nvinfer1::IExecutionContext& context) const;

  const std::string& path() const { return path_; }
  const ModelSpec& spec() const { return spec_; }
  const Profile& profile() const { return profile_; }
  nvinfer1::DataType input_type() const { return input_type_; }
  // The addresses of the base anchors of each level on the GPU.
  const std::vector<const float*>& base_anchors() const { return base_anchors_; }
  bool is_integrated() const { return is_integrated_; }

 private:
  void check_tensors();
  void upload_anchors();

  std::string path_;
  ModelSpec spec_;
  Profile profile_{};
  bool is_integrated_ = false;
  nvinfer1::DataType input_type_{};
  std::vector<std::string> outputs_;
  std::vector<const float*> base_anchors_;
  // Released in the opposite order: the contexts, which the lanes hold, then the engine, the runtime, the anchors.
  DeviceBuffer anchors_{"anchors"};
  std::unique_ptr<nvinfer1::IRuntime> runtime_;
  std::unique_ptr<nvinfer1::ICudaEngine> engine_;
};

}  // namespace retinasdk::runtime::trt
