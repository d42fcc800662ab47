// The rules of preprocessing and post-processing of one model, as data. The counterpart of retinasdk/spec.py, which
// explains each field, its values and the framework that needs it.
#pragma once

#include <array>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

namespace retinasdk::runtime {

constexpr const char* kMetadataKey = "retinasdk.spec";  // The spec inside an ONNX file.

// A size in pixels.
struct Size {
  int height, width;
};

inline bool operator==(Size a, Size b) { return a.height == b.height && a.width == b.width; }

struct Level {
  std::string logits, deltas;                   // Names of outputs of the network.
  std::vector<float> base_anchors;              // (A, ModelSpec::anchor_values()).
  std::optional<std::array<double, 2>> stride;  // (y, x). None: the padded side divided by the number of cells.
};

// How deltas become boxes: BoxCoder in Python.
struct CoderSpec {
  std::string kind = "center";
  std::vector<double> weights{1.0, 1.0, 1.0, 1.0};
  std::vector<double> means{0.0, 0.0, 0.0, 0.0};
  std::optional<double> clamp_max, clamp_min;
  std::string angle_version = "oc";
  std::optional<double> norm_factor;
  bool edge_swap = false, proj_xy = false;

  CoderSpec();
  int deltas() const;  // Of an anchor.
  bool is_rotated() const { return kind == "center_angle" || kind == "center_sin_cos"; }
};

struct Resize {
  std::string rule;
  std::vector<int> size;
  std::string rounding = "floor";
  bool antialias = false;
  std::string source_step = "sides";
  bool eight_bit = false;

  // The size that the rules "squash" and "fit" give every image.
  std::optional<Size> fixed_size() const;
  // The factor by which both sides of an image are multiplied. Not for the rule "squash".
  double scale(Size image) const;
  // The size of an image after resizing, before padding.
  Size target(Size image) const;
};

struct Normalise {
  std::array<double, 3> mean{}, std{};
  std::string channels = "RGB";
};

struct ModelSpec {
  std::string name, flavour;
  std::vector<std::string> labels;
  std::vector<Level> levels;
  Resize resize;
  Normalise normalise;
  int pad_multiple = 1;
  std::string input = "images";
  CoderSpec box_coder;
  std::vector<std::string> ignore_labels;
  double score_threshold = 0.05;
  int top_k = 1000;
  std::string clip = "resized";
  double nms_iou_threshold = 0.5;
  int max_detections = 300;
  std::string score_comparison = ">", nms_comparison = ">";
  std::string clip_limit = "edge", drop_empty = "never";
  bool inclusive_pixels = false;
  std::string rescale = "per_axis", nms_angle = "own", top_k_unit = "pair";
  std::optional<int> max_per_class;
  bool nms_across_classes = false;
  int pad_at_least = 0;
  std::map<std::string, std::string> source;

  // Reads a spec from JSON text, and checks it. `origin` is what errors call the text. Throws ModelError, with the
  // words of ModelSpec.from_json in Python.
  static ModelSpec from_json(const std::string& text, const std::string& origin);
  static ModelSpec from_json(const nlohmann::json& content, const std::string& origin);

  bool is_rotated() const { return box_coder.is_rotated(); }
  int anchor_values() const { return is_rotated() ? 5 : 4; }
  int anchors_per_cell() const { return static_cast<int>(levels[0].base_anchors.size()) / anchor_values(); }
  Size padded(Size resized) const;
};

// A spec and the SHA-256 of the ONNX file that it belongs to, if its JSON text has one.
struct BoundSpec {
  ModelSpec spec;
  std::optional<std::string> onnx_sha256;
};

BoundSpec read_spec(const std::string& text, const std::string& origin);

}  // namespace retinasdk::runtime
