#include "runtime/tensorrt/engine_info.h"

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstring>
#include <fstream>
#include <initializer_list>
#include <iterator>

#include "runtime/errors.h"
#include "runtime/sha256.h"
#include "runtime/spec_fields.h"
#include "runtime/tensorrt/python_json.h"

namespace retinasdk::runtime::trt {
namespace {

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

void check(bool condition, const std::string& rule, const std::string& given) {
  if (!condition) throw ModelError("engine info: " + rule + ", but got " + given);
}

// The entry of a field that is read into a member of the same name.
#define FIELD(type, name, is_required) \
  {#name, is_required,                 \
   [](type& target, const JsonValue& value, const std::string& where) { read_value(target.name, value, where); }}
// Of a field that only Python needs. Its type is checked.
#define UNUSED(type, name, field_type)                                         \
  {#name, false, [](type&, const JsonValue& value, const std::string& where) { \
     field_type ignored;                                                       \
     read_value(ignored, value, where);                                        \
   }}

struct FingerprintFields {
  std::optional<std::string> tensorrt, tensorrt_version, gpu;
  std::optional<std::array<Integer, 2>> compute_capability;
};

const std::vector<runtime::Field<FingerprintFields>> kFingerprintFields = {
    UNUSED(FingerprintFields, onnx_sha256, std::optional<std::string>),
    FIELD(FingerprintFields, tensorrt, false),
    FIELD(FingerprintFields, tensorrt_version, false),
    FIELD(FingerprintFields, gpu, false),
    FIELD(FingerprintFields, compute_capability, false),
    UNUSED(FingerprintFields, cuda, std::optional<std::string>),
    {"options", false, [](FingerprintFields&, const JsonValue& value, const std::string& where) {
       std::map<std::string, std::string> ignored;
       read_value(ignored, value, where);
     }}};

struct ProfileFields {
  std::array<Integer, 4> min, opt, max;
};

const std::vector<runtime::Field<ProfileFields>> kProfileFields = {
    FIELD(ProfileFields, min, true), FIELD(ProfileFields, opt, true), FIELD(ProfileFields, max, true)};

struct InfoFields {
  FingerprintFields fingerprint;
  ProfileFields profile;
  std::string precision, engine_sha256;
  double build_seconds = 0.0;
  Integer size_bytes{0, "0"};
  std::string input_dtype = "float32", head_dtype = "float32";
  std::vector<std::string> head_formats;
};

void read_value(FingerprintFields& target, const JsonValue& value, const std::string& where) {
  target = read_object(object_of(value, where), kFingerprintFields, where + ".");
}

std::string shown(const std::array<Integer, 4>& shape) {
  return "(" + shape[0].shown + ", " + shape[1].shown + ", " + shape[2].shown + ", " + shape[3].shown + ")";
}

void read_value(ProfileFields& target, const JsonValue& value, const std::string& where) {
  target = read_object(object_of(value, where), kProfileFields, where + ".");
  bool is_ordered = true;
  for (const auto* shape : {&target.min, &target.opt, &target.max}) {
    bool is_valid = (*shape)[1].value == 3;
    for (const Integer& side : *shape) is_valid = is_valid && side.value >= 1 && side.value <= INT_MAX;
    check(is_valid, "a shape must be (images, 3, height, width)", shown(*shape));
  }
  for (size_t i = 0; i < 4; ++i) {
    is_ordered = is_ordered && target.min[i].value <= target.opt[i].value && target.opt[i].value <= target.max[i].value;
  }
  check(is_ordered, "a profile must have min <= opt <= max on every axis",
        "(" + shown(target.min) + ", " + shown(target.opt) + ", " + shown(target.max) + ")");
}

const std::vector<runtime::Field<InfoFields>> kInfoFields = {
    {"spec", true, [](InfoFields&, const JsonValue&, const std::string&) {}},
    FIELD(InfoFields, fingerprint, true),
    FIELD(InfoFields, profile, true),
    FIELD(InfoFields, precision, true),
    FIELD(InfoFields, build_seconds, true),
    FIELD(InfoFields, size_bytes, true),
    FIELD(InfoFields, engine_sha256, true),
    FIELD(InfoFields, input_dtype, false),
    FIELD(InfoFields, head_dtype, false),
    FIELD(InfoFields, head_formats, false)};

#undef FIELD
#undef UNUSED

void check_info(const InfoFields& info) {
  const auto is_one_of = [](const std::string& value, std::initializer_list<const char*> known) {
    return std::find(known.begin(), known.end(), value) != known.end();
  };
  check(is_one_of(info.precision, {"fp32", "fp16", "int8"}), "precision must be one of fp32, fp16, int8",
        python_repr(info.precision));
  for (const std::string& dtype : {info.input_dtype, info.head_dtype}) {
    check(is_one_of(dtype, {"float32", "float16"}), "input_dtype and head_dtype must be one of float32, float16",
          python_repr(dtype));
  }
  check(info.build_seconds >= 0.0, "build_seconds must be at least 0", python_repr(info.build_seconds));
  check(info.size_bytes.value > 0, "size_bytes must be above 0", info.size_bytes.shown);
}

InputShape shape_of(const std::array<Integer, 4>& sides) {
  InputShape shape{};
  for (size_t i = 0; i < shape.size(); ++i) shape[i] = static_cast<int>(sides[i].value);
  return shape;
}

EngineInfo info_of(const JsonObject& content, const std::string& origin, const JsonValue& spec) {
  EngineInfo info{ModelSpec::from_json(as_python_writes(spec), origin + ", spec"), {}, {}, 0, {}};
  try {
    const InfoFields fields = read_object(content, kInfoFields, "");
    check_info(fields);
    const FingerprintFields& built = fields.fingerprint;
    info.fingerprint = {built.tensorrt, built.tensorrt_version, built.gpu, {}};
    if (const auto& capability = built.compute_capability) {
      info.fingerprint.compute_capability = {static_cast<int>((*capability)[0].value),
                                             static_cast<int>((*capability)[1].value)};
    }
    info.profile = {shape_of(fields.profile.min), shape_of(fields.profile.opt), shape_of(fields.profile.max)};
    info.size_bytes = static_cast<size_t>(fields.size_bytes.value);
    info.engine_sha256 = fields.engine_sha256;
    return info;
  } catch (const ModelError& error) {
    throw ModelError(origin + ": " + error.what() + ". To fix it, " + kRebuild);
  }
}

// Removes a member and returns its value.
std::optional<JsonValue> taken(JsonObject& object, const char* name) {
  const auto member =
      std::find_if(object.begin(), object.end(), [name](const auto& each) { return each.first == name; });
  if (member == object.end()) return {};
  JsonValue value = std::move(member->second);
  object.erase(member);
  return value;
}

// Whether a number equals the format, as 1 and 1.0 do.
bool is_format(const JsonValue& value) {
  const auto* integer = value.get<JsonInteger>();
  const auto* number = value.get<double>();
  return (integer != nullptr && integer->value == kFormat) || (number != nullptr && *number == kFormat);
}

EngineInfo parse(const std::string& text, const std::string& origin) {
  JsonValue root;
  try {
    root = parse_json(text);
  } catch (const JsonError& error) {
    throw ModelError(origin + " is not valid JSON: " + error.what() + ". Copy the file again, or " + kRebuild);
  }
  JsonObject nothing;
  auto* const object = std::get_if<JsonObject>(&root.content);
  JsonObject& content = object != nullptr ? *object : nothing;
  const std::optional<JsonValue> written = taken(content, "checksum");
  const std::string sum = sha256(as_python_writes(root));
  const JsonValue version = taken(content, "format").value_or(JsonValue{nullptr});
  if (!is_format(version)) {
    throw ModelError(origin + " has the format " + python_repr(version) +
                     ", but this version of retinasdk reads format " + std::to_string(kFormat) + ". To fix it, " +
                     kRebuild);
  }
  // Files of versions before the checksum are not checked for changes.
  const auto* const expected = written ? written->get<std::string>() : nullptr;
  const bool has_none = !written || written->get<std::nullptr_t>() != nullptr;
  if (!has_none && (expected == nullptr || *expected != sum)) {
    throw ModelError(origin +
                     " was changed after it was written, or is damaged: its content does not have its checksum any "
                     "more. An engine's JSON cannot be edited. Change the spec of the ONNX file, or pass Detector(..., "
                     "spec=...). To repair this file, copy it again, or " +
                     kRebuild);
  }
  for (const auto& [name, value] : content) {
    if (name == "spec") return info_of(content, origin, value);
  }
  throw ModelError(origin + " has no field 'spec'. To fix it, " + kRebuild);
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
