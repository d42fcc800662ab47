// The Python binding of merge_tiles().
#pragma once

#include <pybind11/pybind11.h>

namespace retinasdk {

// Adds merge_tiles() to the module _native.
void bind_merge(pybind11::module_& module);

}  // namespace retinasdk
