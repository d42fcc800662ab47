"""Builds mmcv's own NMS for the CPU, so that mmdetection runs without mmcv's other operators.

Building all operators of mmcv takes most of an hour, and PyPI has no wheel with them. mmdetection's RetinaNet needs NMS
alone. `install()` compiles mmcv's source of it and offers it as the extension module `mmcv._ext`. Every other operator
raises an error if it is called.

Needs the sources of mmcv, which its sdist installs beside the Python files:

    MMCV_WITH_OPS=0 pip install --no-build-isolation mmcv==2.1.0
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

_BINDING = """
#include "nms.cpp"
#include "cpu/nms.cpp"
PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  m.def("nms", &nms, py::arg("boxes"), py::arg("scores"), py::arg("iou_threshold"), py::arg("offset"));
}
"""


class _Extension(types.ModuleType):
    """The operators of mmcv: NMS, and an error for each other one."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def missing(*_: Any, **__: Any) -> None:
            raise NotImplementedError(f"the operator {name} of mmcv was not built; only nms was")

        return missing


def install() -> None:
    """Compiles mmcv's nms, unless mmcv has all its operators. Call it before the first import of `mmcv.ops`."""
    if importlib.util.find_spec("mmcv._ext") is not None:
        return
    from torch.utils.cpp_extension import load_inline

    spec = importlib.util.find_spec("mmcv")
    assert spec is not None
    assert spec.origin is not None
    source = Path(spec.origin).parent / "ops" / "csrc"
    built = load_inline(
        "mmcv_nms",
        _BINDING,
        extra_include_paths=[str(source / "common"), str(source / "pytorch")],
    )
    extension = _Extension("mmcv._ext")
    extension.__spec__ = importlib.machinery.ModuleSpec("mmcv._ext", None)
    extension.nms = built.nms  # type: ignore[attr-defined]
    sys.modules["mmcv._ext"] = extension
