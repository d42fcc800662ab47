#include "runtime/tensorrt/engine_info.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "runtime/errors.h"
#include "runtime/tensorrt/python_json.h"
#include "runtime/tensorrt/sha256.h"

namespace retinasdk::runtime::trt {
namespace {

using nlohmann::json;

const char* const kRebuild = "build the engine again on this machine with: retinasdk build model.onnx -o model.engine";
constexpr int kFormat = 1;

// Where a file lies, and its name.
std::string folder_of(const std::string& path) { return path.substr(0, path.find_last_of('/') + 1); }
std::string name_of_file(const std::string& path) { return path.substr(path.find_last_of('/') + 1); }

// Reads a file, or returns nothing; `errno` has the cause.
std::optional<std::string> read_file(const std::string& path) {
  errno = 0;
  std::ifstream file(path, std::ios::binary);
  if (!file) return {};
  std::string content{std::istreambuf_iterator<char>(file), {}};
  return file.bad() ? std::nullopt : std::optional<std::string>(std::move(content));
}

bool belongs(const std::string& plan, const EngineInfo& info) {
  return plan.size() == info.size_bytes && sha256(plan) == info.engine_sha256;
}

// The rules of EngineInfo and its parts: a field that is missing, unknown or of another type is an error that names it.
class Fields {
 public:
  Fields(const json& object, std::string where) : object_(object), where_(std::move(where)) {}

  void check_known(const std::vector<std::string>& known) const {
    for (const auto& [key, value] : object_.items()) {
      if (std::find(known.begin(), known.end(), key) != known.end()) continue;
      std::string names;
      for (const std::string& name : known) names += (names.empty() ? "" : ", ") + name;
      throw ModelError("unknown field " + where_ + key + "; known are " + names);
    }
  }
  const json& at(const std::string& name) const {
    const auto found = object_.find(name);
    if (found == object_.end()) throw ModelError("field " + where_ + name + " is missing");
    return *found;
  }
  template <typename T>
  T get(const std::string& name, bool (json::*is_type)() const noexcept, const char* type) const {
    return typed<T>(at(name), where_ + name, is_type, type);
  }
  std::optional<std::string> text_or_none(const std::string& name) const {
    const auto found = object_.find(name);
    if (found == object_.end() || found->is_null()) return {};
    return typed<std::string>(*found, where_ + name, &json::is_string, "str");
  }
  template <typename Numbers>
  Numbers integers(const std::string& name) const {
    const json& given = at(name);
    Numbers numbers{};
    if (!given.is_array()) throw ModelError(where_ + name + " must be a list, got " + as_python_writes(given));
    if (given.size() != numbers.size()) {
      throw ModelError(where_ + name + " must have " + std::to_string(numbers.size()) + " entries, got " +
                       as_python_writes(given));
    }
    for (size_t i = 0; i < numbers.size(); ++i) {
      numbers[i] = typed<int>(given[i], where_ + name + "[" + std::to_string(i) + "]", &json::is_number_integer, "int");
    }
    return numbers;
  }

 private:
  template <typename T>
  static T typed(const json& value, const std::string& where, bool (json::*is_type)() const noexcept,
                 const char* type) {
    if ((value.*is_type)()) return value.get<T>();
    throw ModelError(where + " must be of type " + type + ", got " + as_python_writes(value));
  }

  const json& object_;
  std::string where_;
};

void check(bool condition, const std::string& rule, const std::string& given) {
  if (!condition) throw ModelError("engine info: " + rule + ", but got " + given);
}

const json& object_at(const Fields& fields, const std::string& name) {
  const json& value = fields.at(name);
  if (!value.is_object()) throw ModelError(name + " must be an object, got " + as_python_writes(value));
  return value;
}

Fingerprint fingerprint_of(const json& object) {
  const Fields fields(object, "fingerprint.");
  fields.check_known({"onnx_sha256", "tensorrt", "tensorrt_version", "gpu", "compute_capability", "cuda", "options"});
  Fingerprint built{
      fields.text_or_none("tensorrt"), fields.text_or_none("tensorrt_version"), fields.text_or_none("gpu"), {}};
  const auto capability = object.find("compute_capability");
  if (capability != object.end() && !capability->is_null()) {
    built.compute_capability = fields.integers<std::array<int, 2>>("compute_capability");
  }
  return built;
}

Profile profile_of(const json& object) {
  const Fields fields(object, "profile.");
  fields.check_known({"min", "opt", "max"});
  const Profile profile{fields.integers<InputShape>("min"), fields.integers<InputShape>("opt"),
                        fields.integers<InputShape>("max")};
  for (const InputShape& shape : {profile.min, profile.opt, profile.max}) {
    check(*std::min_element(shape.begin(), shape.end()) >= 1 && shape[1] == 3,
          "a shape must be (images, 3, height, width)", in_words(shape));
  }
  for (size_t axis = 0; axis < profile.min.size(); ++axis) {
    check(profile.min[axis] <= profile.opt[axis] && profile.opt[axis] <= profile.max[axis],
          "a profile must have min <= opt <= max on every axis",
          "(" + in_words(profile.min) + ", " + in_words(profile.opt) + ", " + in_words(profile.max) + ")");
  }
  return profile;
}

EngineInfo info_of(const json& content, const std::string& origin) {
  ModelSpec spec = ModelSpec::from_json(content.at("spec"), origin + ", spec");
  const Fields fields(content, "");
  try {
    fields.check_known({"format", "spec", "fingerprint", "profile", "precision", "build_seconds", "size_bytes",
                        "engine_sha256", "input_dtype", "head_dtype", "head_formats"});
    EngineInfo info{std::move(spec), fingerprint_of(object_at(fields, "fingerprint")),
                    profile_of(object_at(fields, "profile")),
                    fields.get<size_t>("size_bytes", &json::is_number_integer, "int"),
                    fields.get<std::string>("engine_sha256", &json::is_string, "str")};
    const auto precision = fields.get<std::string>("precision", &json::is_string, "str");
    check(precision == "fp32" || precision == "fp16" || precision == "int8",
          "precision must be one of fp32, fp16, int8", "'" + precision + "'");
    check(fields.get<double>("build_seconds", &json::is_number, "float") >= 0.0, "build_seconds must be at least 0",
          as_python_writes(fields.at("build_seconds")));
    check(fields.at("size_bytes") > 0, "size_bytes must be above 0", as_python_writes(fields.at("size_bytes")));
    return info;
  } catch (const ModelError& error) {
    throw ModelError(origin + ": " + error.what() + ". To fix it, " + kRebuild);
  }
}

EngineInfo parse(const std::string& text, const std::string& origin) {
  json content;
  try {
    content = json::parse(text);
  } catch (const json::exception& error) {
    throw ModelError(origin + " is not valid JSON: " + error.what() + ". Copy the file again, or " + kRebuild);
  }
  const json version = content.is_object() ? content.value("format", json()) : json();
  if (version != kFormat || !version.is_number()) {
    throw ModelError(origin + " has the format " + (version.is_null() ? "None" : as_python_writes(version)) +
                     ", but this version of retinasdk reads format " + std::to_string(kFormat) + ". To fix it, " +
                     kRebuild);
  }
  const json written = content.value("checksum", json());
  content.erase("checksum");
  // Files of versions before the checksum are not checked for changes.
  if (!written.is_null() && written != sha256(as_python_writes(content))) {
    throw ModelError(origin +
                     " was changed after it was written, or is damaged: its content does not have its checksum any "
                     "more. An engine's JSON cannot be edited. Change the spec of the ONNX file, or pass another spec "
                     "to the Detector. To repair this file, copy it again, or " +
                     kRebuild);
  }
  if (content.find("spec") == content.end()) {
    throw ModelError(origin + " has no field 'spec'. To fix it, " + kRebuild);
  }
  return info_of(content, origin);
}

}  // namespace

bool Profile::holds(const InputShape& shape) const {
  for (size_t axis = 0; axis < shape.size(); ++axis) {
    if (shape[axis] < min[axis] || shape[axis] > max[axis]) return false;
  }
  return true;
}

EngineInfo load_engine_info(const std::string& engine) {
  const std::string path = engine + ".json";
  // A process that was killed while it wrote the pair leaves the new JSON under a hidden name, see Note: What a killed
  // process leaves in retinasdk/_util/files.py.
  if (const auto unfinished = read_file(folder_of(path) + "." + name_of_file(path) + ".new")) {
    try {
      EngineInfo info = parse(*unfinished, path);
      const auto plan = read_file(engine);
      if (plan && belongs(*plan, info)) return info;
    } catch (const ModelError&) {
    }
  }
  const auto text = read_file(path);
  if (!text) {
    throw ModelError(engine + " needs the file " + name_of_file(path) + " beside it, which cannot be read: " +
                     std::strerror(errno) + ": '" + path + "'. Copy both files together, or " + kRebuild);
  }
  return parse(*text, path);
}

std::string read_plan(const std::string& engine, const EngineInfo& info) {
  auto plan = read_file(engine);
  if (!plan) throw ModelError(engine + " cannot be read: " + std::strerror(errno));
  if (!belongs(*plan, info)) {
    throw ModelError(engine + " is not the engine that " + name_of_file(engine) + ".json describes: that has " +
                     std::to_string(info.size_bytes) + " bytes, this is another one of " +
                     std::to_string(plan->size()) + " bytes. Copy both files together, or " + kRebuild);
  }
  return *std::move(plan);
}

std::string plan_header(std::string_view plan) {
  constexpr size_t kVersionAt = 24;
  const std::string_view magic = plan.substr(0, 4);
  if (magic == "ptrt") return "it was written by TensorRT 8.5";
  if (magic != "ftrt" && magic != "vtrt") {
    return "its " + std::to_string(plan.size()) + " bytes begin with none of the marks that known versions write";
  }
  std::string words = magic == "ftrt" ? "it was written by TensorRT" : "it was written by TensorRT for RTX";
  for (size_t i = 0; i < 4 && plan.size() >= kVersionAt + 4; ++i) {
    words += (i == 0 ? " " : ".") + std::to_string(static_cast<unsigned char>(plan[kVersionAt + i]));
  }
  return words;
}

std::string in_words(const InputShape& shape) {
  std::string words;
  for (const int side : shape) words += (words.empty() ? "" : ", ") + std::to_string(side);
  return "(" + words + ")";
}

}  // namespace retinasdk::runtime::trt
