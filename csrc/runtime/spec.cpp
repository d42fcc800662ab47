// The sizes that follow from a spec.
#include "runtime/spec.h"

#include <algorithm>
#include <cmath>

namespace retinasdk::runtime {

CoderSpec::CoderSpec() : clamp_max(std::log(1000.0 / 16)) {}

int CoderSpec::deltas() const { return kind == "center_angle" ? 5 : kind == "center_sin_cos" ? 6 : 4; }

std::optional<Size> Resize::fixed_size() const {
  if (rule != "squash" && rule != "fit") return std::nullopt;
  return Size{size[0], size[1]};
}

double Resize::scale(Size image) const {
  const double height = image.height;
  const double width = image.width;
  const double longer = std::max(height, width);
  if (rule == "fit") return std::min(size[0] / height, size[1] / width);
  if (rule == "longest") return size[0] / longer;
  if (rule == "native") return std::min(1.0, size[0] / longer);
  return std::min(size[0] / std::min(height, width), size[1] / longer);
}

Size Resize::target(Size image) const {
  if (rule == "squash") return {size[0], size[1]};
  const double factor = scale(image);
  const auto rounded = [&](double side) {
    if (rounding == "half_even") return std::max(1, static_cast<int>(std::nearbyint(side)));
    return std::max(1, static_cast<int>(std::floor(side + (rounding == "half_up" ? 0.5 : 0.0))));
  };
  return {rounded(image.height * factor), rounded(image.width * factor)};
}

Size ModelSpec::padded(Size resized) const {
  if (resize.rule == "fit") resized = {resize.size[0], resize.size[1]};
  const auto padded_side = [this](int side) {
    return (side + pad_at_least + pad_multiple - 1) / pad_multiple * pad_multiple;
  };
  return {padded_side(resized.height), padded_side(resized.width)};
}

}  // namespace retinasdk::runtime
