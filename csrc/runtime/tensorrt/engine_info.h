// The JSON beside an engine file, which `retinasdk build` writes. The counterpart of retinasdk/tensorrt/engine_info.py:
// what that refuses is refused here, with the same words.
#pragma once

#include <array>
#include <optional>
#include <string>
#include <string_view>

#include "runtime/spec.h"
#include "runtime/tensorrt/graph_runner.h"

namespace retinasdk::runtime::trt {

// What an engine was built with and for. A field without a value is unknown or does not matter for the engine.
struct Fingerprint {
  std::optional<std::string> tensorrt;          // The product: "tensorrt" or "tensorrt_rtx".
  std::optional<std::string> tensorrt_version;  // Such as "10.3.0".
  std::optional<std::string> gpu;               // The name.
  std::optional<std::array<int, 2>> compute_capability;
};

// The range of input shapes that an engine accepts.
struct Profile {
  InputShape min, opt, max;

  bool holds(const InputShape& shape) const;
};

struct EngineInfo {
  ModelSpec spec;
  Fingerprint fingerprint;
  Profile profile;
  size_t size_bytes;  // Of the engine file.
  std::string engine_sha256;
};

// Reads the JSON file beside an engine. Throws ModelError.
EngineInfo load_engine_info(const std::string& engine);

// Reads an engine file. Throws ModelError if it cannot be read, or is not the one that the info describes.
std::string read_plan(const std::string& engine, const EngineInfo& info);

// Describes in words what the first bytes of a plan say, for error messages. It never decides whether a plan can be
// used: TensorRT documents no header.
std::string plan_header(std::string_view plan);

// Returns "(1, 3, 384, 512)".
std::string in_words(const InputShape& shape);

}  // namespace retinasdk::runtime::trt
