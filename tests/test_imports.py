"""`import retinasdk` needs the standard library and NumPy alone; the rest is asked for where it is used."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import retinasdk
from retinasdk import MissingDependencyError
from retinasdk._util.lazy import require

RunPython = Callable[..., subprocess.CompletedProcess[str]]

# Put before a program: these packages are as good as not installed.
BLOCK = """
import sys
class _Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names!r}:
            raise ImportError(f"{{name}} is blocked")
sys.meta_path.insert(0, _Blocked())
"""
OPTIONAL = (
    "onnxruntime",
    "onnx",
    "PIL",
    "torch",
    "torchvision",
    "cv2",
    "matplotlib",
    "pycocotools",
    "prometheus_client",
    "rasterio",
    "scipy",
    "supervision",
    "tensorrt",
)


def blocked(*names: str) -> str:
    return BLOCK.format(names=names)


@pytest.mark.parametrize(
    "uses", ["", "for name in retinasdk.__all__: getattr(retinasdk, name)"], ids=["import", "names"]
)
def test_import_needs_only_numpy(run_python: RunPython, uses: str) -> None:
    program = f"""
import sys
before = set(sys.modules)
{blocked(*OPTIONAL)}
import retinasdk
{uses}
import json
json.dump(sorted({{name.partition(".")[0] for name in set(sys.modules) - before}}), sys.stdout)
"""
    result = run_python(["-c", program])
    assert (result.returncode, result.stderr) == (0, "")
    loaded = set(json.loads(result.stdout)) - set(sys.stdlib_module_names)  # fails if anything else was printed
    # Extensions leave marks of their tools in sys.modules, which are no packages: NumPy's of Cython, ours of pybind11.
    tools = ("pybind11", "cython_runtime", "_cython_")
    others = {name for name in loaded if not name.startswith(tools)} - {"numpy", "retinasdk"}
    assert "retinasdk" in loaded
    assert others == set()


def test_import_says_nothing_and_changes_nothing(run_python: RunPython) -> None:
    program = """
import logging, os, signal, sys, warnings
state = lambda: (list(warnings.filters), logging.getLogger().handlers[:], logging.getLogger("retinasdk").handlers[:],
                 dict(os.environ), signal.getsignal(signal.SIGINT), sys.getrecursionlimit())
import numpy
before = state()
import retinasdk
for name in retinasdk.__all__: getattr(retinasdk, name)
sys.exit(before != state())
"""
    result = run_python(["-c", program])
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_all_is_sorted_and_complete() -> None:
    assert list(retinasdk.__all__) == sorted(set(retinasdk.__all__))
    assert set(retinasdk.__all__) <= set(dir(retinasdk))
    for name in retinasdk.__all__:
        item = getattr(retinasdk, name)
        assert item.__name__ == name
        assert item.__module__.startswith("retinasdk.")
        assert item.__doc__, f"{name} has no docstring"


def test_all_is_what_users_need() -> None:
    wanted = {"Detector", "Detections", "Detection", "ModelSpec", "Level", "BoxCoder", "Resize", "Normalise"}
    wanted |= {"RetinaSdkError", "DeviceError", "ImageError", "MissingDependencyError", "ModelError"}
    wanted |= {"BundledModel", "list_models", "list_images"}
    assert wanted <= set(retinasdk.__all__)


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="Detektor"):
        _ = retinasdk.Detektor  # type: ignore[attr-defined]
    assert not hasattr(retinasdk, "numpy_")


def test_version_is_the_metadata_one() -> None:
    assert retinasdk.__version__ == importlib.metadata.version("retinasdk")


def test_typing_marker_is_installed() -> None:
    package = Path(retinasdk.__file__).parent
    assert (package / "py.typed").is_file()
    assert (package / "_native.pyi").is_file()


@pytest.mark.parametrize(
    ("missing", "program", "command"),
    [
        ("onnxruntime", "retinasdk.Detector(model)", "pip install 'onnxruntime'"),
        ("PIL", "retinasdk.Detector(model)(photo)", "pip install 'pillow'"),
        (
            "PIL",
            "retinasdk.Detections.empty(['a']).draw(numpy.zeros((4, 4, 3), 'uint8'))",
            "pip install 'pillow'",
        ),
        (
            "pycocotools",
            "from retinasdk.evaluation.evaluate import evaluate; evaluate(retinasdk.Detector(model), '.', 'none.json')",
            "pip install 'retinasdk[eval]'",
        ),
    ],
    ids=["onnxruntime", "pillow-read", "pillow-draw", "pycocotools"],
)
def test_a_missing_package_is_named_with_its_command(
    run_python: RunPython, model_path: Path, tmp_path: Path, missing: str, program: str, command: str
) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"not read")
    source = f"""
{blocked(missing)}
import numpy, retinasdk
model, photo = {str(model_path)!r}, "photo.jpg"
try:
    {program}
except retinasdk.MissingDependencyError as error:
    print(error)
"""
    result = run_python(["-c", source])
    assert result.returncode == 0, result.stderr
    assert command in result.stdout
    assert missing in result.stdout


def test_arrays_are_enough_without_pillow(run_python: RunPython, model_path: Path) -> None:
    source = f"""
{blocked("PIL", "onnx", "pycocotools", "torch", "cv2")}
import numpy, retinasdk
detector = retinasdk.Detector({str(model_path)!r})
print(type(detector(numpy.zeros((40, 50, 3), "uint8"))).__name__)
"""
    result = run_python(["-c", source])
    assert (result.stdout.strip(), result.returncode) == ("Detections", 0), result.stderr


def test_require_keeps_the_cause() -> None:
    with pytest.raises(
        MissingDependencyError, match=r"testing needs the package no_such_package.*pip install"
    ) as caught:
        require("no_such_package.part", "testing")
    assert isinstance(caught.value, ImportError)
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)
