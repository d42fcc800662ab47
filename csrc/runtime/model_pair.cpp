// An ONNX file and its spec as one thing: read together or refused.
#include <sys/stat.h>

#include <array>
#include <system_error>
#include <tuple>

#include "runtime/errors.h"
#include "runtime/json_text.h"
#include "runtime/model_file.h"
#include "runtime/onnx_wire.h"

namespace retinasdk::runtime {
namespace {

namespace fs = std::filesystem;

constexpr int kAttempts = 5;
constexpr const char* kTorch =
    "this is a PyTorch checkpoint, not an ONNX file; export it first, see: retinasdk export --help";
constexpr const char* kKeras =
    "this is a Keras model, not an ONNX file; convert it with tf2onnx (python -m tf2onnx.convert --help), then: "
    "retinasdk import converted.onnx -o model.onnx";

// What changes if a file is replaced.
std::array<int64_t, 4> identity(const fs::path& path) {
  std::error_code error;
  const auto changed = fs::last_write_time(path, error).time_since_epoch().count();
  const auto bytes = static_cast<int64_t>(fs::file_size(path, error));
  struct stat status{};
  if (error || stat(path.string().c_str(), &status) != 0) throw ModelError(path.string() + " cannot be read");
  return {static_cast<int64_t>(status.st_dev), static_cast<int64_t>(status.st_ino), bytes, changed};
}

fs::path spec_path(fs::path path) { return path.replace_extension(".json"); }

BoundSpec read_beside(const fs::path& path) {
  std::string text;
  try {
    text = read_file(path);
  } catch (const std::runtime_error& error) {
    throw ModelError(path.string() + ": the model spec cannot be read: " + error.what());
  }
  return read_spec(text, path.string());
}

ModelSpec read_inside(const fs::path& path, const std::string& text) {
  return ModelSpec::from_json(text, path.string() + ", metadata " + kMetadataKey);
}

// A word of a command for a POSIX shell.
std::string quoted(const std::string& word) {
  constexpr const char* kPlain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789@%+=:,./-_";
  if (!word.empty() && word.find_first_not_of(kPlain) == std::string::npos) return word;
  std::string text = "'";
  for (const char character : word) text += character == '\'' ? "'\"'\"'" : std::string(1, character);
  return text + "'";
}

// The command that records which ONNX file a spec belongs to.
std::string bind_command(const fs::path& path) {
  const std::string spec = python_repr(spec_path(path).string());
  return "python -c " + quoted("from retinasdk import ModelSpec; ModelSpec.load(" + spec + ").save(" + spec +
                               ", onnx=" + python_repr(path.string()) + ")");
}

std::string cure(const fs::path& path, bool has_spec_inside) {
  const std::string record =
      "If " + spec_path(path).filename().string() + " is right for this ONNX file, record that: " + bind_command(path);
  if (!has_spec_inside) return record;
  return "To use the spec inside " + path.filename().string() + ": rm " + quoted(spec_path(path).string()) + ". " +
         record;
}

auto values(const Level& level) { return std::tie(level.logits, level.deltas, level.base_anchors, level.stride); }
auto values(const CoderSpec& coder) {
  return std::tie(coder.kind, coder.weights, coder.means, coder.clamp_max, coder.clamp_min, coder.angle_version,
                  coder.norm_factor, coder.edge_swap, coder.proj_xy);
}
auto values(const Resize& resize) {
  return std::tie(resize.rule, resize.size, resize.rounding, resize.antialias, resize.source_step, resize.eight_bit);
}
auto values(const Normalise& rule) { return std::tie(rule.mean, rule.std, rule.channels); }

bool same_levels(const ModelSpec& a, const ModelSpec& b) {
  if (a.levels.size() != b.levels.size()) return false;
  for (size_t i = 0; i < a.levels.size(); ++i) {
    if (values(a.levels[i]) != values(b.levels[i])) return false;
  }
  return true;
}

// Compares a spec that does not say which ONNX file it belongs to with the one in the ONNX file. Returns a warning.
std::string compare(const fs::path& path, const ModelSpec& a, const ModelSpec& b) {
  // These follow from the network and its training, so nobody edits them to get other detections.
  const bool is_other_network = a.input != b.input || !same_levels(a, b) ||
                                values(a.box_coder) != values(b.box_coder) ||
                                values(a.normalise) != values(b.normalise) || a.inclusive_pixels != b.inclusive_pixels;
  const std::pair<const char*, bool> rules[] = {{"labels", a.labels != b.labels},
                                                {"levels", !same_levels(a, b)},
                                                {"resize", values(a.resize) != values(b.resize)},
                                                {"normalise", values(a.normalise) != values(b.normalise)},
                                                {"pad_multiple", a.pad_multiple != b.pad_multiple},
                                                {"input", a.input != b.input},
                                                {"box_coder", values(a.box_coder) != values(b.box_coder)},
                                                {"ignore_labels", a.ignore_labels != b.ignore_labels},
                                                {"score_threshold", a.score_threshold != b.score_threshold},
                                                {"top_k", a.top_k != b.top_k},
                                                {"clip", a.clip != b.clip},
                                                {"nms_iou_threshold", a.nms_iou_threshold != b.nms_iou_threshold},
                                                {"max_detections", a.max_detections != b.max_detections},
                                                {"score_comparison", a.score_comparison != b.score_comparison},
                                                {"nms_comparison", a.nms_comparison != b.nms_comparison},
                                                {"clip_limit", a.clip_limit != b.clip_limit},
                                                {"drop_empty", a.drop_empty != b.drop_empty},
                                                {"inclusive_pixels", a.inclusive_pixels != b.inclusive_pixels},
                                                {"rescale", a.rescale != b.rescale},
                                                {"nms_angle", a.nms_angle != b.nms_angle},
                                                {"top_k_unit", a.top_k_unit != b.top_k_unit},
                                                {"max_per_class", a.max_per_class != b.max_per_class},
                                                {"nms_across_classes", a.nms_across_classes != b.nms_across_classes},
                                                {"pad_at_least", a.pad_at_least != b.pad_at_least}};
  std::string names;
  for (const auto& [name, differs] : rules) {
    if (differs) names += (names.empty() ? "" : ", ") + std::string(name);
  }
  if (names.empty()) return "";
  const std::string text =
      spec_path(path).string() + " differs from the spec in " + path.filename().string() + " in " + names;
  if (is_other_network || a.labels.size() != b.labels.size()) {
    throw ModelError(text + ", so it seems to belong to another ONNX file. " + cure(path, true));
  }
  return text + ", and is used. If you edited it, say so, and this line goes away: " + bind_command(path);
}

// The spec beside an ONNX file, checked that it belongs to it.
FoundSpec spec_beside(const fs::path& path, const std::optional<std::string>& inside) {
  const fs::path beside = spec_path(path);
  const BoundSpec bound = read_beside(beside);
  if (!bound.onnx_sha256) {
    return {bound.spec, inside ? compare(path, bound.spec, read_inside(path, *inside)) : std::string()};
  }
  const std::string found = model_sha256(path);
  if (*bound.onnx_sha256 == found) return {bound.spec, ""};
  // Its writer was killed, or was not ready and may be by now.
  const fs::path unfinished = beside.parent_path() / ("." + beside.filename().string() + ".new");
  for (const fs::path& other : {unfinished, beside}) {
    try {
      const BoundSpec there = read_beside(other);
      if (there.onnx_sha256 == found) return {there.spec, ""};
    } catch (const ModelError&) {  // The error below says more.
    }
  }
  throw ModelError(beside.string() + " belongs to another ONNX file than " + path.filename().string() +
                   ": it was written for the one with SHA-256 " + bound.onnx_sha256->substr(0, 12) +
                   "..., this one has " + found.substr(0, 12) + ".... Copy both files of the model together. " +
                   cure(path, inside.has_value()));
}

}  // namespace

void check_model_path(const fs::path& path) {
  std::error_code error;
  if (!fs::is_regular_file(path, error)) throw ModelError(path.string() + " is not the path of a file");
  std::string suffix = path.extension().string();
  for (char& letter : suffix) letter = static_cast<char>(letter >= 'A' && letter <= 'Z' ? letter + 32 : letter);
  for (const char* known : {".pth", ".pt", ".ckpt", ".safetensors"}) {
    if (suffix == known) throw ModelError(path.string() + ": " + kTorch);
  }
  if (suffix == ".h5" || suffix == ".keras") throw ModelError(path.string() + ": " + kKeras);
}

void read_unchanged(const fs::path& path, const std::function<void()>& read) {
  for (int i = 0; i < kAttempts; ++i) {
    const auto before = identity(path);
    read();
    if (identity(path) == before) return;
  }
  throw ModelError(path.string() + " changes while it is read, 5 times in a row. Wait until it is written, try again");
}

FoundSpec find_spec(const fs::path& path, const std::optional<std::string>& inside) {
  std::error_code error;
  if (fs::is_regular_file(spec_path(path), error)) return spec_beside(path, inside);
  if (inside) return {read_inside(path, *inside), ""};
  throw ModelError(path.string() + " has no model spec: there is no " + spec_path(path).filename().string() +
                   " beside it, and none in the file's metadata '" + kMetadataKey +
                   "'. If it comes straight from a training framework, convert it first: retinasdk import " +
                   path.filename().string() + " -o model.onnx. If it already ends at its raw heads, pass a spec");
}

}  // namespace retinasdk::runtime
