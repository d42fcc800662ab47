// The Python binding of yuv_to_rgb().
#include "bindings/bindings_color.h"

#include "bindings/bindings_arrays.h"
#include "retinasdk/ops.h"

namespace retinasdk {
namespace {

// Whether the array has this shape behind its first axis, without gaps inside a row. Rows may be any distance apart.
bool has_whole_rows(const py::array& plane, const std::vector<py::ssize_t>& shape) {
  if (plane.ndim() != static_cast<py::ssize_t>(shape.size())) return false;
  py::ssize_t stride = plane.itemsize();
  for (int axis = static_cast<int>(shape.size()) - 1; axis >= 0; --axis) {
    if (plane.shape(axis) != shape[static_cast<size_t>(axis)]) return false;
    if (axis > 0 && plane.strides(axis) != stride && plane.shape(axis) > 1) return false;
    stride *= plane.shape(axis);
  }
  return true;
}

Array<uint8_t> convert(const py::array& luma, const py::array& chroma, const std::string& matrix, bool full_range) {
  const bool is_nv12 = py::isinstance<py::array_t<uint8_t>>(luma) && py::isinstance<py::array_t<uint8_t>>(chroma);
  const bool is_p010 = py::isinstance<py::array_t<uint16_t>>(luma) && py::isinstance<py::array_t<uint16_t>>(chroma);
  const py::ssize_t height = luma.ndim() == 2 ? luma.shape(0) : 0;
  const py::ssize_t width = luma.ndim() == 2 ? luma.shape(1) : 0;
  if (!(is_nv12 || is_p010) || !has_whole_rows(luma, {height, width}) ||
      !has_whole_rows(chroma, {height / 2, width / 2, 2})) {
    throw py::value_error(
        "luma must be (H, W) and chroma (H / 2, W / 2, 2), both uint8 or both uint16, with contiguous "
        "rows, got " +
        describe(luma) + " and " + describe(chroma));
  }
  const YuvView frame{is_nv12 ? PixelFormat::kNv12 : PixelFormat::kP010,
                      static_cast<const uint8_t*>(luma.data()),
                      luma.strides(0),
                      static_cast<const uint8_t*>(chroma.data()),
                      chroma.strides(0),
                      static_cast<int>(height),
                      static_cast<int>(width),
                      matrix_named(matrix),
                      full_range};
  Array<uint8_t> rgb({height, width, py::ssize_t{3}});
  auto* target = rgb.mutable_data();
  const py::gil_scoped_release unlocked;
  yuv_to_rgb(frame, target);
  return rgb;
}

}  // namespace

void bind_color(py::module_& module) {
  module.def("yuv_to_rgb", &convert, py::arg("luma"), py::arg("chroma"), py::kw_only(), py::arg("matrix"),
             py::arg("full_range"), "Converts an NV12 (uint8) or P010 (uint16) frame to RGB, (H, W, 3) uint8.");
}

}  // namespace retinasdk
