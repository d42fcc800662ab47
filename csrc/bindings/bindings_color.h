// The names of the color matrices in both Python modules, and the Python binding of yuv_to_rgb().
#pragma once

#include <pybind11/pybind11.h>

#include <string>

#include "retinasdk/pixel_format.h"

namespace retinasdk {

inline ColorMatrix matrix_named(const std::string& name) {
  if (name == "bt601") return ColorMatrix::kBt601;
  if (name == "bt709") return ColorMatrix::kBt709;
  if (name == "bt2020") return ColorMatrix::kBt2020;
  throw pybind11::value_error("matrix must be 'bt601', 'bt709' or 'bt2020', got '" + name + "'");
}

// Adds yuv_to_rgb() to the module _native.
void bind_color(pybind11::module_& module);

}  // namespace retinasdk
