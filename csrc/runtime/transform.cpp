#include "runtime/transform.h"

namespace retinasdk::runtime {
namespace {

// Multiplies x and y of boxes by their ratio.
void multiply(float* boxes, size_t count, Size from, Size to) {
  const float ratio_y = static_cast<float>(to.height) / static_cast<float>(from.height);
  const float ratio_x = static_cast<float>(to.width) / static_cast<float>(from.width);
  for (size_t i = 0; i < count * 4; ++i) boxes[i] *= i % 2 == 0 ? ratio_x : ratio_y;
}

}  // namespace

Transform Transform::plan(Size original, const ModelSpec& spec) {
  Transform transform{original, spec.resize.target(original), {}, {}, 0.0};
  transform.padded = spec.padded(transform.resized);
  if (spec.rescale == "uniform") transform.scale = spec.resize.scale(original);
  if (spec.resize.source_step == "scale") transform.source_step = 1.0 / spec.resize.scale(original);
  return transform;
}

void Transform::to_original(float* boxes, size_t count) const {
  if (!scale) return multiply(boxes, count, resized, original);
  const auto divisor = static_cast<float>(*scale);
  for (size_t i = 0; i < count * 4; ++i) boxes[i] /= divisor;
}

void Transform::to_network(float* boxes, size_t count) const {
  if (!scale) return multiply(boxes, count, original, resized);
  const auto factor = static_cast<float>(*scale);
  for (size_t i = 0; i < count * 4; ++i) boxes[i] *= factor;
}

}  // namespace retinasdk::runtime
