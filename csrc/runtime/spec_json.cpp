// Reads a spec from JSON text, and checks it with the rules, the order and the words of retinasdk/spec.py.
//
// JSON has no NaN and no infinity, so all numbers are finite here.
#include <algorithm>
#include <array>
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "runtime/errors.h"
#include "runtime/spec.h"
#include "runtime/spec_fields.h"

namespace retinasdk::runtime {
namespace {

constexpr int64_t kMaxSide = 1 << 16;
constexpr int64_t kMaxPerImage = 1 << 20;

using Names = std::vector<std::string>;
using Numbers = std::vector<double>;

// What Python's repr() gives for values of the dataclasses.
std::string shown(const std::string& text) { return python_repr(text); }
std::string shown(double number) { return python_repr(number); }
std::string shown(bool value) { return value ? "True" : "False"; }
std::string shown(const Integer& integer) { return integer.shown; }

template <typename T>
std::string shown(const std::vector<T>& items);
template <size_t kSize>
std::string shown(const std::array<double, kSize>& items);

template <typename T>
std::string shown(const std::optional<T>& value) {
  return value ? shown(*value) : "None";
}

template <typename Items>
std::string joined(const Items& items) {
  std::string text;
  for (const auto& item : items) text += (text.empty() ? "" : ", ") + shown(item);
  return text;
}

template <typename T>
std::string shown(const std::vector<T>& items) {  // A tuple in Python.
  return "(" + joined(items) + (items.size() == 1 ? ",)" : ")");
}

template <size_t kSize>
std::string shown(const std::array<double, kSize>& items) {
  return "(" + joined(items) + ")";
}

std::string shown_list(const std::vector<std::string>& items) { return "[" + joined(items) + "]"; }

template <typename T>
void check(bool is_valid, const std::string& expected, const T& given) {
  if (!is_valid) refuse("model spec: " + expected + ", got " + shown(given));
}

// Of values that are shown in another way.
void check_shown(bool is_valid, const std::string& expected, const std::string& given) {
  if (!is_valid) refuse("model spec: " + expected + ", got " + given);
}

void check_one_of(const std::string& name, const std::string& value, const Names& known) {
  check(std::find(known.begin(), known.end(), value) != known.end(), name + " must be one of " + shown(known), value);
}

float as_float(double value) { return static_cast<float>(value); }

// What is read of each object. Integers and numbers are converted once they are checked.
struct LevelFields {
  std::string logits, deltas;
  std::vector<Numbers> base_anchors;
  std::optional<std::array<double, 2>> stride;
};

struct ResizeFields {
  std::string rule;
  std::vector<Integer> size;
  std::string rounding = "floor";
  bool antialias = false;
  std::string source_step = "sides";
  bool eight_bit = false;
};

struct SpecFields {
  ModelSpec spec;
  std::vector<LevelFields> levels;
  Integer pad_multiple{1, "1"}, top_k{1000, "1000"}, max_detections{300, "300"}, pad_at_least{0, "0"};
  std::optional<Integer> max_per_class;
};

// The entry of a field that is read into a member of the same name.
#define FIELD(type, name, is_required) \
  {#name, is_required,                 \
   [](type& target, const JsonValue& value, const std::string& where) { read_value(target.name, value, where); }}
// Of a member of SpecFields::spec.
#define SPEC_FIELD(name, is_required)                                                             \
  {#name, is_required, [](SpecFields& target, const JsonValue& value, const std::string& where) { \
     read_value(target.spec.name, value, where);                                                  \
   }}

// -- levels ----------------------------------------------------------------------------------------------------------

const std::vector<Field<LevelFields>> kLevelFields = {
    FIELD(LevelFields, logits, true), FIELD(LevelFields, deltas, true), FIELD(LevelFields, base_anchors, true),
    FIELD(LevelFields, stride, true)};

void check_level(const LevelFields& level) {
  check_shown(!level.logits.empty() && !level.deltas.empty(), "logits and deltas of a level must be names of outputs",
              "Level(logits=" + shown(level.logits) + ", deltas=" + shown(level.deltas) +
                  ", base_anchors=" + shown(level.base_anchors) + ", stride=" + shown(level.stride) + ")");
  check(!level.base_anchors.empty(), "a level must have at least one base anchor", level.base_anchors);
  for (const Numbers& anchor : level.base_anchors) {
    if (anchor.size() == 5) {
      check(anchor[2] > 0 && anchor[3] > 0,
            "a rotated base anchor must be (x, y, width, height, angle), finite, with area", anchor);
      continue;
    }
    check(anchor.size() == 4 && anchor[0] < anchor[2] && anchor[1] < anchor[3],
          "a base anchor must be (x1, y1, x2, y2), finite, with x1 < x2 and y1 < y2", anchor);
  }
  if (level.stride)
    check((*level.stride)[0] > 0 && (*level.stride)[1] > 0, "a stride must be (y, x), both above 0, or null",
          *level.stride);
}

void read_value(LevelFields& target, const JsonValue& value, const std::string& where) {
  target = read_object(object_of(value, where), kLevelFields, where + ".");
  check_level(target);
}

Level level_of(const LevelFields& fields) {
  Level level{fields.logits, fields.deltas, {}, fields.stride};
  for (const Numbers& anchor : fields.base_anchors) {
    std::transform(anchor.begin(), anchor.end(), std::back_inserter(level.base_anchors), as_float);
  }
  return level;
}

// -- box coder -------------------------------------------------------------------------------------------------------

const std::vector<Field<CoderSpec>> kCoderFields = {
    FIELD(CoderSpec, weights, false),     FIELD(CoderSpec, clamp_max, false), FIELD(CoderSpec, clamp_min, false),
    FIELD(CoderSpec, means, false),       FIELD(CoderSpec, kind, false),      FIELD(CoderSpec, angle_version, false),
    FIELD(CoderSpec, norm_factor, false), FIELD(CoderSpec, edge_swap, false), FIELD(CoderSpec, proj_xy, false)};

void check_coder(const CoderSpec& coder) {
  check_one_of("box_coder.kind", coder.kind, {"center", "corner", "center_angle", "center_sin_cos"});
  const bool may_have_five = coder.kind == "center_angle";
  const std::string many = may_have_five ? "four or five" : "four";
  const auto fits = [&](const Numbers& numbers) {
    return numbers.size() == 4 || (may_have_five && numbers.size() == 5);
  };
  check(fits(coder.weights) && *std::min_element(coder.weights.begin(), coder.weights.end()) > 0,
        "box_coder.weights must be " + many + " numbers above 0", coder.weights);
  check(fits(coder.means), "box_coder.means must be " + many + " finite numbers", coder.means);
  check_one_of("box_coder.angle_version", coder.angle_version, {"oc", "le90", "le135"});
  check(!coder.norm_factor || *coder.norm_factor > 0, "box_coder.norm_factor must be a number above 0 or null",
        coder.norm_factor);
  const std::string bounds =
      "{'clamp_max': " + shown(coder.clamp_max) + ", 'clamp_min': " + shown(coder.clamp_min) + "}";
  check_shown(!coder.clamp_max || !coder.clamp_min || *coder.clamp_min <= *coder.clamp_max,
              "box_coder.clamp_min must be at most clamp_max", bounds);
  check_shown(coder.kind != "corner" || (!coder.clamp_max && !coder.clamp_min),
              "box_coder.clamp_max and clamp_min must be null if kind is 'corner'", bounds);
}

void read_value(CoderSpec& target, const JsonValue& value, const std::string& where) {
  target = read_object(object_of(value, where), kCoderFields, where + ".");
  check_coder(target);
}

// -- resize and normalise --------------------------------------------------------------------------------------------

const std::vector<Field<ResizeFields>> kResizeFields = {
    FIELD(ResizeFields, rule, true),         FIELD(ResizeFields, size, true),
    FIELD(ResizeFields, rounding, false),    FIELD(ResizeFields, antialias, false),
    FIELD(ResizeFields, source_step, false), FIELD(ResizeFields, eight_bit, false)};

void check_resize(const ResizeFields& resize) {
  const Names rules = {"fit", "longest", "native", "shortest", "squash"};
  check(std::find(rules.begin(), rules.end(), resize.rule) != rules.end(),
        "resize.rule must be one of " + shown_list(rules), resize.rule);
  const size_t count = resize.rule == "longest" || resize.rule == "native" ? 1 : 2;
  const bool fits = resize.size.size() == count &&
                    std::all_of(resize.size.begin(), resize.size.end(),
                                [](const Integer& side) { return side.value > 0 && side.value <= kMaxSide; });
  check(fits,
        "resize.size must have " + std::string(count == 1 ? "1 side" : "2 sides") + " from 1 to 65536 for the rule " +
            shown(resize.rule),
        resize.size);
  check_one_of("resize.rounding", resize.rounding, {"floor", "half_up", "half_even"});
  check_one_of("resize.source_step", resize.source_step, {"sides", "scale"});
  check(resize.source_step == "sides" || !(resize.antialias || resize.rule == "squash"),
        "resize.source_step must be 'sides' if antialias is true or the rule is 'squash'", resize.source_step);
}

void read_value(Resize& target, const JsonValue& value, const std::string& where) {
  const ResizeFields fields = read_object(object_of(value, where), kResizeFields, where + ".");
  check_resize(fields);
  target = {fields.rule, {}, fields.rounding, fields.antialias, fields.source_step, fields.eight_bit};
  for (const Integer& side : fields.size) target.size.push_back(static_cast<int>(side.value));
}

const std::vector<Field<Normalise>> kNormaliseFields = {FIELD(Normalise, mean, true), FIELD(Normalise, std, true),
                                                        FIELD(Normalise, channels, false)};

void read_value(Normalise& target, const JsonValue& value, const std::string& where) {
  target = read_object(object_of(value, where), kNormaliseFields, where + ".");
  check(*std::min_element(target.std.begin(), target.std.end()) > 0, "normalise.std must be three numbers above 0",
        target.std);
  check_one_of("normalise.channels", target.channels, {"RGB", "BGR"});
}

// -- the spec --------------------------------------------------------------------------------------------------------

const std::vector<Field<SpecFields>> kSpecFields = {SPEC_FIELD(name, true),
                                                    SPEC_FIELD(flavour, true),
                                                    SPEC_FIELD(labels, true),
                                                    FIELD(SpecFields, levels, true),
                                                    SPEC_FIELD(resize, true),
                                                    SPEC_FIELD(normalise, true),
                                                    FIELD(SpecFields, pad_multiple, true),
                                                    SPEC_FIELD(input, false),
                                                    SPEC_FIELD(box_coder, false),
                                                    SPEC_FIELD(ignore_labels, false),
                                                    SPEC_FIELD(score_threshold, false),
                                                    FIELD(SpecFields, top_k, false),
                                                    SPEC_FIELD(clip, false),
                                                    SPEC_FIELD(nms_iou_threshold, false),
                                                    FIELD(SpecFields, max_detections, false),
                                                    SPEC_FIELD(score_comparison, false),
                                                    SPEC_FIELD(nms_comparison, false),
                                                    SPEC_FIELD(clip_limit, false),
                                                    SPEC_FIELD(drop_empty, false),
                                                    SPEC_FIELD(inclusive_pixels, false),
                                                    SPEC_FIELD(rescale, false),
                                                    SPEC_FIELD(nms_angle, false),
                                                    SPEC_FIELD(top_k_unit, false),
                                                    FIELD(SpecFields, max_per_class, false),
                                                    SPEC_FIELD(nms_across_classes, false),
                                                    FIELD(SpecFields, pad_at_least, false),
                                                    SPEC_FIELD(source, false)};

#undef FIELD
#undef SPEC_FIELD

bool is_from(const Integer& integer, int64_t low, int64_t high) {
  return integer.value >= low && integer.value <= high;
}

void check_names(const SpecFields& fields) {
  const ModelSpec& spec = fields.spec;
  check(!spec.labels.empty(), "labels must have at least one entry", spec.labels);
  const std::set<std::string> labels(spec.labels.begin(), spec.labels.end());
  std::set<std::string> unknown;
  for (const std::string& label : spec.ignore_labels) {
    if (labels.count(label) == 0) unknown.insert(label);
  }
  check_shown(unknown.empty(), "ignore_labels must be entries of labels", shown_list({unknown.begin(), unknown.end()}));
  check_shown(!fields.levels.empty(), "levels must have at least one entry", "()");
  const size_t anchors = fields.levels[0].base_anchors.size();
  std::string counts;
  Names outputs;
  bool is_equal = true;
  for (const LevelFields& level : fields.levels) {
    is_equal = is_equal && level.base_anchors.size() == anchors;
    counts += (counts.empty() ? "" : ", ") + std::to_string(level.base_anchors.size());
    outputs.insert(outputs.end(), {level.logits, level.deltas});
  }
  check_shown(is_equal, "all levels must have the same number of base anchors", "[" + counts + "]");
  check_shown(std::set<std::string>(outputs.begin(), outputs.end()).size() == outputs.size(),
              "every output of the network must be named once", shown_list(outputs));
}

void check_rotation(const SpecFields& fields) {
  const ModelSpec& spec = fields.spec;
  bool has_four = false, has_five = false;
  for (const LevelFields& level : fields.levels) {
    for (const Numbers& anchor : level.base_anchors) (anchor.size() == 5 ? has_five : has_four) = true;
  }
  const bool fits = spec.is_rotated() ? !has_four : !has_five;
  check_shown(fits,
              "base anchors must have " + std::string(spec.is_rotated() ? "5" : "4") +
                  " numbers for boxes of the kind " + shown(spec.box_coder.kind),
              has_four && has_five ? "{4, 5}"
              : has_five           ? "{5}"
                                   : "{4}");
  check_one_of("nms_angle", spec.nms_angle, {"own", "lower_score"});
  if (spec.is_rotated()) {
    check(spec.clip != "original", "clip must not be 'original' for rotated boxes", spec.clip);
    check(spec.drop_empty != "after_nms", "drop_empty must not be 'after_nms' for rotated boxes", spec.drop_empty);
  }
  if (spec.box_coder.kind == "center_angle") {
    check(!spec.inclusive_pixels, "inclusive_pixels must be false for the kind 'center_angle'", true);
  }
}

void check_rules(const SpecFields& fields) {
  const ModelSpec& spec = fields.spec;
  check_names(fields);
  check(spec.score_threshold >= 0 && spec.score_threshold <= 1, "score_threshold must be from 0 to 1",
        spec.score_threshold);
  check(spec.nms_iou_threshold >= 0 && spec.nms_iou_threshold <= 1, "nms_iou_threshold must be from 0 to 1",
        spec.nms_iou_threshold);
  check(is_from(fields.top_k, 1, kMaxPerImage), "top_k must be from 1 to 1048576", fields.top_k);
  check(is_from(fields.max_detections, 1, kMaxPerImage), "max_detections must be from 1 to 1048576",
        fields.max_detections);
  check(!fields.max_per_class || is_from(*fields.max_per_class, 1, kMaxPerImage),
        "max_per_class must be an integer from 1 to 1048576, or null", fields.max_per_class);
  check(is_from(fields.pad_multiple, 1, 4096), "pad_multiple must be from 1 to 4096", fields.pad_multiple);
  check_one_of("top_k_unit", spec.top_k_unit, {"pair", "anchor"});
  if (spec.top_k_unit == "anchor") {
    // The text of a spec is too short for an overflow.
    const int64_t most =
        static_cast<int64_t>(fields.levels.size()) * fields.top_k.value * static_cast<int64_t>(spec.labels.size());
    check_shown(most <= 1 << 24, "levels x top_k x labels must be at most 16777216 if top_k counts anchors",
                std::to_string(most));
  }
  check(is_from(fields.pad_at_least, 0, 4096), "pad_at_least must be from 0 to 4096", fields.pad_at_least);
  check_one_of("clip", spec.clip, {"resized", "padded", "level", "original", "none"});
  check_one_of("clip_limit", spec.clip_limit, {"edge", "last_pixel"});
  check_one_of("drop_empty", spec.drop_empty, {"never", "before_nms", "after_nms"});
  check_one_of("rescale", spec.rescale, {"per_axis", "uniform"});
  check(spec.rescale == "per_axis" || spec.resize.rule != "squash",
        "rescale must be 'per_axis' if the resize rule is 'squash', which scales each axis on its own", spec.rescale);
  check_one_of("score_comparison", spec.score_comparison, {">", ">="});
  check_one_of("nms_comparison", spec.nms_comparison, {">", ">="});
  check_rotation(fields);
}

ModelSpec spec_of(const JsonObject& content) {
  SpecFields fields = read_object(content, kSpecFields, "");
  check_rules(fields);
  ModelSpec spec = std::move(fields.spec);
  for (const LevelFields& level : fields.levels) spec.levels.push_back(level_of(level));
  spec.pad_multiple = static_cast<int>(fields.pad_multiple.value);
  spec.top_k = static_cast<int>(fields.top_k.value);
  spec.max_detections = static_cast<int>(fields.max_detections.value);
  spec.pad_at_least = static_cast<int>(fields.pad_at_least.value);
  if (fields.max_per_class) spec.max_per_class = static_cast<int>(fields.max_per_class->value);
  return spec;
}

// Removes a member and returns its value.
std::optional<JsonValue> taken(JsonObject& object, const char* name) {
  for (auto member = object.begin(); member != object.end(); ++member) {
    if (member->first != name) continue;
    JsonValue value = std::move(member->second);
    object.erase(member);
    return value;
  }
  return std::nullopt;
}

}  // namespace

BoundSpec read_spec(const std::string& text, const std::string& origin) {
  JsonValue root;
  try {
    root = parse_json(text);
  } catch (const JsonError& error) {
    refuse(origin + ": this is not a model spec, because it is not valid JSON: " + error.what());
  }
  auto* content = std::get_if<JsonObject>(&root.content);
  if (content == nullptr) refuse(origin + ": a model spec must be a JSON object, got " + python_type(root));
  const JsonValue version = taken(*content, "format").value_or(JsonValue{nullptr});
  const auto* number = version.get<JsonInteger>();
  if (number == nullptr || number->value != 1) {
    refuse(origin + ": a model spec must have \"format\": 1, got " + python_repr(version) +
           ". If a newer retinasdk wrote it, update this one: pip install --upgrade retinasdk");
  }
  BoundSpec bound;
  if (const auto hash = taken(*content, "onnx_sha256")) {
    const auto* hash_text = hash->get<std::string>();
    if (hash_text == nullptr) refuse(origin + ": onnx_sha256 must be a text, got " + python_repr(*hash));
    bound.onnx_sha256 = *hash_text;
  }
  // The name of inclusive_pixels in specs that were written before 0.1.0.
  if (auto plus_one = taken(*content, "plus_one")) {
    const auto known = std::find_if(content->begin(), content->end(),
                                    [](const auto& member) { return member.first == "inclusive_pixels"; });
    if (known == content->end()) {
      content->emplace_back("inclusive_pixels", std::move(*plus_one));
    } else {
      known->second = std::move(*plus_one);
    }
  }
  try {
    bound.spec = spec_of(*content);
  } catch (const ModelError& error) {
    refuse(origin + ": " + error.what());
  }
  return bound;
}

ModelSpec ModelSpec::from_json(const std::string& text, const std::string& origin) {
  return read_spec(text, origin).spec;
}

ModelSpec ModelSpec::from_json(const nlohmann::json& content, const std::string& origin) {
  return from_json(content.dump(), origin);
}

}  // namespace retinasdk::runtime
