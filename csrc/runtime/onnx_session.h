// A network that ONNX Runtime has loaded.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "runtime/model_file.h"
#include "runtime/ort_library.h"
#include "runtime/rules.h"

namespace retinasdk::runtime {

// An output of a call, in memory of ONNX Runtime.
class OutputTensor {
 public:
  using Value = std::unique_ptr<ort::Value, void (*)(ort::Value*)>;

  OutputTensor(const OrtLibrary& library, Value value);

  const float* data() const { return data_; }
  const std::vector<int64_t>& shape() const { return shape_; }

 private:
  Value value_;
  std::vector<int64_t> shape_;
  const float* data_ = nullptr;
};

// Several threads may call run() at once.
class OnnxSession {
 public:
  // threads: of a call. None: one for each core. Throws ModelError if the file cannot be loaded.
  OnnxSession(const OrtLibrary& library, const std::filesystem::path& path, std::optional<int> threads);

  std::vector<TensorInfo> inputs() const;
  std::vector<TensorInfo> outputs() const;
  // The value of a key of the file's metadata.
  std::optional<std::string> metadata(const char* key) const;

  // Runs the network. tensor: the input, float32 of a shape. Throws std::runtime_error with the reason.
  std::vector<OutputTensor> run(const std::string& input, const float* tensor, const Shape& shape,
                                const std::vector<std::string>& outputs) const;

 private:
  const OrtLibrary& library_;
  std::unique_ptr<ort::Session, void (*)(ort::Session*)> session_;
};

}  // namespace retinasdk::runtime
