// Rotated boxes in both Python modules.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <string>

#include "retinasdk/rotated_box_coder.h"

namespace retinasdk {

// Builds a RotatedCoder from a dict with the names of its fields, and `coding`: "delta" or "sin_cos".
inline RotatedCoder rotated_coder_of(const pybind11::dict& given) {
  RotatedCoder coder;
  const auto coding = given["coding"].cast<std::string>();
  if (coding != "delta" && coding != "sin_cos") {
    throw pybind11::value_error("coding of rotated boxes must be 'delta' or 'sin_cos', got '" + coding + "'");
  }
  coder.coding = coding == "delta" ? AngleCoding::kDelta : AngleCoding::kSinCos;
  const auto weights = given["weights"].cast<std::array<float, 5>>();
  const auto means = given["means"].cast<std::array<float, 5>>();
  for (size_t i = 0; i < 5; ++i) {
    coder.weights[i] = weights[i];
    coder.means[i] = means[i];
  }
  coder.clamp_max = given["clamp_max"].cast<float>();
  coder.clamp_min = given["clamp_min"].cast<float>();
  coder.angle_unit = given["angle_unit"].cast<float>();
  coder.limits_angle = given["limits_angle"].cast<bool>();
  coder.first_angle = given["first_angle"].cast<float>();
  coder.swaps_edges = given["swaps_edges"].cast<bool>();
  coder.turns_offsets = given["turns_offsets"].cast<bool>();
  coder.inclusive_pixels = given["inclusive_pixels"].cast<bool>();
  return coder;
}

}  // namespace retinasdk
