// Checks that a network and a spec fit each other, with the words of check_fits() in
// retinasdk/onnx_graph/model_file.py.
#include <algorithm>

#include "runtime/errors.h"
#include "runtime/json_text.h"
#include "runtime/model_file.h"

namespace retinasdk::runtime {
namespace {

constexpr const char* kFloat = "tensor(float)";

std::string in_words(const std::vector<Dimension>& shape) {
  std::string text;
  for (const Dimension& axis : shape) {
    const std::string dynamic = axis.name.empty() ? "None" : python_repr(axis.name);
    text += (text.empty() ? "" : ", ") + (axis.size >= 0 ? std::to_string(axis.size) : dynamic);
  }
  return "[" + text + "]";
}

std::string names_of(const std::vector<TensorInfo>& tensors) {
  std::string text;
  for (const TensorInfo& tensor : tensors) text += (text.empty() ? "" : ", ") + tensor.name;
  return text;
}

std::string convert_command(const std::filesystem::path& path) {
  return "retinasdk import " + path.filename().string() + " -o model.onnx";
}

void check_input(const TensorInfo& tensor, const ModelSpec& spec, const std::string& path) {
  const bool channels_first = tensor.shape.size() == 4 && (tensor.shape[1].size == 3 || tensor.shape[1].size < 0);
  if (tensor.type != kFloat || !channels_first) {
    throw ModelError(path + ": input " + python_repr(spec.input) + " must be (N, 3, H, W) float32, got " +
                     in_words(tensor.shape) + " " + tensor.type +
                     "; export the network without its preprocessing, channels first");
  }
  const std::optional<Size> fixed = spec.resize.fixed_size();
  const Size padded = fixed ? spec.padded(*fixed) : Size{-1, -1};
  for (const size_t axis : {size_t{2}, size_t{3}}) {
    const int64_t side = tensor.shape[axis].size;
    if (side < 0 || side == (axis == 2 ? padded.height : padded.width)) continue;
    throw ModelError(path + ": input " + (axis == 2 ? "height" : "width") + " is fixed to " + std::to_string(side) +
                     ", but the spec's resize rule " + python_repr(spec.resize.rule) +
                     " gives other sizes; export with dynamic height and width, or use the rule 'squash' or 'fit' with "
                     "that size");
  }
}

}  // namespace

std::optional<int> check_fits(const std::vector<TensorInfo>& inputs, const std::vector<TensorInfo>& outputs,
                              const ModelSpec& spec, const std::filesystem::path& path) {
  if (inputs.size() != 1 || inputs[0].name != spec.input) {
    throw ModelError(path.string() + " must have one input named " + python_repr(spec.input) + ", got " +
                     (inputs.empty() ? "none" : names_of(inputs)) +
                     "; check that it is a RetinaNet with raw head outputs and that the spec belongs to it, or convert "
                     "it again: " +
                     convert_command(path));
  }
  check_input(inputs[0], spec, path.string());
  const int64_t anchors = spec.anchors_per_cell();
  const auto classes = static_cast<int64_t>(spec.labels.size());
  const auto check_output = [&](const std::string& name, int64_t channels) {
    const auto output =
        std::find_if(outputs.begin(), outputs.end(), [&](const TensorInfo& item) { return item.name == name; });
    if (output == outputs.end()) {
      throw ModelError(path.string() + " must have an output named " + python_repr(name) + ", got " +
                       names_of(outputs) +
                       "; check that the spec belongs to it, or convert it again: " + convert_command(path));
    }
    const bool fits = output->shape.size() == 4 && (output->shape[1].size < 0 || output->shape[1].size == channels);
    if (output->type == kFloat && fits) return;
    throw ModelError(path.string() + ": output " + python_repr(name) + " must be (N, " + std::to_string(channels) +
                     ", h, w) float32 for " + std::to_string(anchors) + " anchors and " + std::to_string(classes) +
                     " classes, got " + in_words(output->shape) + " " + output->type +
                     "; check that the spec belongs to it, or convert it again: " + convert_command(path));
  };
  for (const Level& level : spec.levels) {
    check_output(level.logits, anchors * classes);
    check_output(level.deltas, anchors * spec.box_coder.deltas());
  }
  const int64_t batch = inputs[0].shape[0].size;
  return batch >= 0 ? std::optional<int>(static_cast<int>(batch)) : std::nullopt;
}

}  // namespace retinasdk::runtime
