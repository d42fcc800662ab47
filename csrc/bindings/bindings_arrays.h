// Checks of NumPy arrays: dtype, shape and memory order.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <string>
#include <vector>

namespace py = pybind11;

namespace retinasdk {
// A C-contiguous array of type T. Arrays of another dtype or order are not converted: checked() rejects them.
template <typename T>
using Array = py::array_t<T, py::array::c_style>;

// Returns the shape and dtype of an array, for error messages.
inline std::string describe(const py::array& array) {
  return py::str(py::tuple(array.attr("shape"))).cast<std::string>() + " " + py::str(array.dtype()).cast<std::string>();
}

// Returns the object as an array of type T and the given shape, where -1 allows any size.
//
// Throws TypeError if it is no array, and ValueError if it has another dtype, shape or order. `wanted` begins the
// message, for example "boxes must be (N, C, 4) float32".
template <typename T>
Array<T> checked(const py::handle& object, const std::vector<py::ssize_t>& shape, const std::string& wanted) {
  if (!py::isinstance<py::array>(object)) {
    throw py::type_error(wanted + ", got " + std::string(py::str(py::type::of(object))));
  }
  const auto array = py::reinterpret_borrow<py::array>(object);
  bool fits = py::isinstance<Array<T>>(object) && array.ndim() == static_cast<py::ssize_t>(shape.size());
  for (size_t i = 0; fits && i < shape.size(); ++i) fits = shape[i] < 0 || array.shape(static_cast<int>(i)) == shape[i];
  if (!fits) throw py::value_error(wanted + ", C-contiguous; got " + describe(array));
  return py::reinterpret_borrow<Array<T>>(object);
}

}  // namespace retinasdk
