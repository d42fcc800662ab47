// A model file: its spec, beside it or inside, and whether both fit each other. The counterpart of
// retinasdk/onnx_graph/model_pair.py and model_file.py, which explain the rules.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "runtime/spec.h"

namespace retinasdk::runtime {

// A spec and what Python logs as a warning when it finds it.
struct FoundSpec {
  ModelSpec spec;
  std::string warning;
};

// The size of an axis: a number, or a dynamic one with a name that can be empty.
struct Dimension {
  int64_t size;  // -1: dynamic.
  std::string name;
};

// An input or an output of a network.
struct TensorInfo {
  std::string name;
  std::vector<Dimension> shape;
  std::string type;  // As ONNX Runtime writes it in Python, for example "tensor(float)".
};

// Checks that a model file exists and is no checkpoint. Throws ModelError.
void check_model_path(const std::filesystem::path& path);

// Calls a function that reads an ONNX file and its spec, and calls it again if the file is replaced meanwhile. Throws
// ModelError if the file changes each time.
void read_unchanged(const std::filesystem::path& path, const std::function<void()>& read);

// Reads the spec beside an ONNX file, else the one in its metadata.
//
// inside: the spec in the metadata, if there is one. Throws ModelError if there is neither, or the one that is found is
// not valid or belongs to another ONNX file.
FoundSpec find_spec(const std::filesystem::path& path, const std::optional<std::string>& inside);

// Checks that the inputs, outputs and channels of a network fit the spec, and returns the only batch size that it
// accepts, if there is one. Throws ModelError.
std::optional<int> check_fits(const std::vector<TensorInfo>& inputs, const std::vector<TensorInfo>& outputs,
                              const ModelSpec& spec, const std::filesystem::path& path);

}  // namespace retinasdk::runtime
