// Arrays at the door: dtype, shape and order are checked.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <string>
#include <vector>

namespace py = pybind11;

namespace retinasdk {
// No conversion and no copy: an array of another dtype or order is an error that says so.
template <typename T>
using Array = py::array_t<T, py::array::c_style>;

inline std::string describe(const py::array& array) {
  return py::str(py::tuple(array.attr("shape"))).cast<std::string>() + " " + py::str(array.dtype()).cast<std::string>();
}

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
