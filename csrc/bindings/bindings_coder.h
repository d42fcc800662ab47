// Builds a BoxCoder from the arguments of both Python modules.
#pragma once

#include <pybind11/pybind11.h>

#include <array>
#include <string>

#include "retinasdk/box_coder.h"

namespace retinasdk {

// Throws ValueError if `kind` is neither "center" nor "corner".
inline BoxCoder coder_of(const std::string& kind, const std::array<float, 4>& weights,
                         const std::array<float, 4>& means, float clamp_max, float clamp_min, bool inclusive_pixels) {
  if (kind != "center" && kind != "corner") {
    throw pybind11::value_error("coder_kind must be 'center' or 'corner', got '" + kind + "'");
  }
  return {{weights[0], weights[1], weights[2], weights[3]},
          clamp_max,
          clamp_min,
          {means[0], means[1], means[2], means[3]},
          kind == "corner" ? BoxCoding::kCorner : BoxCoding::kCenter,
          inclusive_pixels};
}

}  // namespace retinasdk
