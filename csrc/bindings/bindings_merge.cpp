// The Python binding of merge_tiles(): checks dtypes and shapes, and releases the GIL.
#include "bindings/bindings_merge.h"

#include <pybind11/stl.h>

#include <array>

#include "bindings/bindings_arrays.h"
#include "retinasdk/ops.h"

namespace retinasdk {
namespace {

TileAxis axis_of(const Array<int32_t>& starts, int length, int extent, const std::string& name) {
  if (starts.size() < 1) throw py::value_error(name + " must have at least one entry, got none");
  return {starts.data(), static_cast<int>(starts.size()), length, extent};
}

py::tuple merge(const py::object& boxes, const py::object& logits, const py::object& class_ids, const py::object& tiles,
                const py::object& tops, const py::object& lefts, std::array<int, 2> tile_size,
                std::array<int, 2> image_size, float iou_threshold, bool or_equal, bool inclusive_pixels,
                std::array<float, 2> cut_slack, float cover_limit) {
  const auto box_array = checked<float>(boxes, {-1, 4}, "boxes must be (n, 4) float32");
  const py::ssize_t count = box_array.shape(0);
  if (count > kMaxMerged) {
    throw py::value_error("merge_tiles takes at most " + std::to_string(kMaxMerged) + " boxes, got " +
                          std::to_string(count));
  }
  const auto logit_array = checked<float>(logits, {count}, "logits must be (n,) float32");
  const auto class_array = checked<int32_t>(class_ids, {count}, "class_ids must be (n,) int32");
  const auto tile_array = checked<int32_t>(tiles, {count}, "tiles must be (n,) int32");
  const auto top_array = checked<int32_t>(tops, {-1}, "tops must be (rows,) int32");
  const auto left_array = checked<int32_t>(lefts, {-1}, "lefts must be (columns,) int32");
  const TileGrid grid{axis_of(top_array, tile_size[0], image_size[0], "tops"),
                      axis_of(left_array, tile_size[1], image_size[1], "lefts")};
  const TileBoxes given{box_array.data(), logit_array.data(), class_array.data(), tile_array.data(),
                        static_cast<int>(count)};
  Array<int32_t> kept(count), joined(count);
  int kept_count = 0;
  {
    const py::gil_scoped_release unlocked;
    kept_count =
        merge_tiles(given, grid, {iou_threshold, or_equal, inclusive_pixels, cut_slack[0], cut_slack[1], cover_limit},
                    kept.mutable_data(), joined.mutable_data());
  }
  kept.resize({static_cast<py::ssize_t>(kept_count)});
  return py::make_tuple(kept, joined);
}

}  // namespace

void bind_merge(py::module_& module) {
  module.def(
      "merge_tiles", &merge, py::arg("boxes"), py::arg("logits"), py::arg("class_ids"), py::arg("tiles"), py::kw_only(),
      py::arg("tops"), py::arg("lefts"), py::arg("tile_size"), py::arg("image_size"), py::arg("iou_threshold"),
      py::arg("or_equal"), py::arg("inclusive_pixels"), py::arg("cut_slack"), py::arg("cover_limit"),
      "Merges the boxes of overlapping tiles, (n, 4) in pixels of the image. Returns the kept indices (m,) int32, "
      "best first, and (n,) int32: for each box the kept box that it is or was merged into, or -1.");
}

}  // namespace retinasdk
