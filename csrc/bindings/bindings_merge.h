// The part of _native's bindings that merges tiles.
#pragma once

#include <pybind11/pybind11.h>

namespace retinasdk {

void bind_merge(pybind11::module_& module);

}  // namespace retinasdk
