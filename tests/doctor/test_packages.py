"""`retinasdk doctor` on packages that are missing, or break when they are imported."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from doctor_machines import (
    finding,
    named,
    package,
    write_modules,
)
from paths import ROOT

from retinasdk.doctor.diagnose import Diagnosis, diagnose
from retinasdk.doctor.packages import PACKAGES
from retinasdk.doctor.probe import Answer, ask

# As if nothing of that name were installed.
BLOCK = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Blocked())
"""


def test_missing_packages(doctor_with: Any) -> None:
    names = {
        "pillow": "PIL",
        "onnx": "onnx",
        "pycocotools": "pycocotools",
        "matplotlib": "matplotlib",  # which needs pillow
        "supervision": "supervision",  # which needs both
        "trackers": "trackers",  # and this all of them
        "onnxruntime": "onnxruntime",
    }
    status, content = doctor_with({"sitecustomize.py": BLOCK.format(names=set(names.values()))})
    assert (status, content["is_broken"]) == (0, False)
    for name in names:
        assert named(content, name)["state"] == "missing"
        assert named(content, name)["text"].startswith("not installed; needed for ")
    assert named(content, "pillow")["advice"] == ["pip install 'pillow>=10.4'"]
    assert named(content, "[eval]")["advice"] == ["pip install 'retinasdk[eval]'"]
    assert named(content, "[onnx]")["text"].startswith("onnx not installed; for ")
    if "the CPU" in content["conclusion"]:
        assert "the CPU, which will fail (onnxruntime: not installed" in content["conclusion"]
        assert not content["can_detect"]


CRASH = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"


@pytest.mark.parametrize(
    ("modules", "name", "problem"),
    [
        (
            {"tensorrt/__init__.py": "raise ImportError('libnvinfer.so.10: cannot open shared object file')"},
            "TensorRT",
            "cannot be imported: libnvinfer.so.10: cannot open shared object file",
        ),
        ({"tensorrt/__init__.py": CRASH}, "TensorRT", "cannot be imported: ends the process: Segmentation fault"),
        (
            {"tensorrt/__init__.py": "from tensorrt_bindings import *"},
            "TensorRT",
            "cannot be imported: No module named 'tensorrt_bindings'",
        ),
        (
            {"tensorrt.py": "import sys; sys.exit('no licence')"},
            "TensorRT",
            "cannot be imported: SystemExit: no licence",
        ),
        ({"tensorrt.py": "x = 1"}, "TensorRT", "AttributeError: module 'tensorrt' has no attribute '__version__'"),
        (
            {"onnx/__init__.py": "raise TypeError('Descriptors cannot be\\ncreated')"},
            "onnx",
            "TypeError: Descriptors cannot",
        ),
        ({"onnx/__init__.py": "import os; os._exit(3)"}, "onnx", "ends the process: exit status 3"),
        ({"PIL/__init__.py": "", "PIL/Image.py": "import _imaging_of_another_python"}, "pillow", "No module named"),
        ({"PIL/__init__.py": ""}, "pillow", "No module named 'PIL.Image'"),
        ({"pycocotools/__init__.py": "", "pycocotools/mask.py": "1/0"}, "pycocotools", "ZeroDivisionError"),
        ({"onnxruntime.py": "raise SystemError"}, "onnxruntime", "SystemError"),
    ],
)
def test_broken_packages(
    look: Callable[..., Diagnosis],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    modules: dict[str, str],
    name: str,
    problem: str,
) -> None:
    write_modules(tmp_path / "modules", modules)
    monkeypatch.syspath_prepend(tmp_path / "modules")
    question = name.lower()
    diagnosis = look(**{question: ask(question)})
    found = finding(diagnosis, name)
    assert [item.name for item in diagnosis.findings if item.state == "broken"] == [name]
    assert diagnosis.is_broken
    assert problem in found.text
    assert "\n" not in found.text
    assert found.advice


@pytest.mark.heavy
def test_the_exit_status_of_a_broken_package(doctor_with: Any) -> None:
    status, content = doctor_with({"onnx/__init__.py": CRASH})
    assert (status, content["is_broken"], named(content, "onnx")["state"]) == (1, True, "broken")
    assert named(content, "onnx")["text"] == "ends the process: Segmentation fault"


@pytest.mark.parametrize("how", ["raise ImportError('numpy.core.multiarray failed to import')", CRASH])
def test_nothing_works_without_numpy(doctor_with: Any, how: str) -> None:
    status, content = doctor_with({"numpy/__init__.py": how})
    assert status == 1
    assert named(content, "numpy")["state"] == "broken"
    assert content["conclusion"].startswith('device="auto" cannot be used: retinasdk itself does not work')
    assert not content["can_detect"]
    assert named(content, "bundled models")["state"] == "ok"


@pytest.mark.heavy
def test_numpy_that_is_not_there_is_broken(doctor_with: Any) -> None:
    status, content = doctor_with({"sitecustomize.py": BLOCK.format(names={"numpy"})})
    assert (status, named(content, "numpy")["state"]) == (1, "broken")
    assert named(content, "numpy")["advice"] == ["pip install 'numpy>=1.24'"]


@pytest.mark.heavy
def test_what_modules_print_is_no_answer(doctor_with: Any) -> None:
    noise = "import os; print('hello'); os.write(1, b'from C\\n')\n"
    modules = {
        "sitecustomize.py": "print('good morning') if '-c' in __import__('sys').orig_argv else None",
        "tensorrt/__init__.py": noise + "__version__ = '10.3.0'",
    }
    status, content = doctor_with(modules)
    assert (status, named(content, "TensorRT")["facts"]["version"]) == (0, "10.3.0")


@pytest.mark.heavy
def test_a_tensorrt_that_is_there(doctor_with: Any, tmp_path: Path) -> None:
    metadata = "Metadata-Version: 2.1\nName: tensorrt_cu12\nVersion: 10.3.0\n"
    _, content = doctor_with(
        {
            "tensorrt/__init__.py": "__version__ = '10.3.0'",
            "tensorrt_cu12-10.3.0.dist-info/METADATA": metadata,
            "tensorrt_cu12-10.3.0.dist-info/INSTALLER": "pip\n",
        }
    )
    found = named(content, "TensorRT")
    assert (found["state"], found["text"]) == ("ok", "10.3.0 (package tensorrt)")
    assert found["facts"]["installed"]["tensorrt_cu12"] == {"version": "10.3.0", "installer": "pip"}
    assert found["facts"]["product"] == "tensorrt"


def test_a_module_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "onnx.py").write_text("import time; time.sleep(600)")
    monkeypatch.syspath_prepend(tmp_path)
    assert ask("onnx", timeout_s=2) == Answer(problem="does not answer within 2 s")


def test_no_python_to_ask(monkeypatch: pytest.MonkeyPatch, look: Callable[..., Diagnosis]) -> None:
    monkeypatch.setattr(sys, "executable", "")
    assert "sys.executable is empty" in ask("numpy").problem
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    assert "no process can be started" in ask("numpy").problem
    diagnosis = diagnose()
    assert diagnosis.is_broken
    assert diagnosis.to_text()


def test_a_check_that_falls_ill_is_one_line(look: Callable[..., Diagnosis], monkeypatch: pytest.MonkeyPatch) -> None:
    def ill(*arguments: Any) -> Any:
        raise RuntimeError("unforeseen")

    for name in ("check_native", "check_driver", "check_kernels", "check_extras", "_check_models", "read_jetson"):
        monkeypatch.setattr(f"retinasdk.doctor.diagnose.{name}", ill)
    diagnosis = look()
    broken = [item.name for item in diagnosis.findings if item.state == "broken"]
    assert broken == ["JetPack", "native core", "driver", "CUDA kernels", "extras", "bundled models"]
    assert finding(diagnosis, "driver").text == "cannot be checked: RuntimeError: unforeseen"


def test_old_packages(look: Callable[..., Diagnosis]) -> None:
    diagnosis = look(onnx=package("1.9.0"), pillow=package(None), filelock=package("3.12.1rc1"))
    assert not diagnosis.is_broken
    assert finding(diagnosis, "onnx").state == "note"
    assert finding(diagnosis, "onnx").text == "1.9.0; retinasdk needs 1.16 or newer"
    assert finding(diagnosis, "onnx").advice == ("pip install 'onnx>=1.16'",)
    assert finding(diagnosis, "pillow").text == "its version is unknown"
    assert finding(diagnosis, "filelock").state == "ok"


def test_packages_are_those_of_the_project() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    plain = set(re.findall(r'"([^"]+)"', re.search(r"^dependencies = \[(.*)\]", text, re.MULTILINE)[1]))  # type: ignore[index]
    assert {f"{item.name}>={item.minimum}" for item in PACKAGES if item.extra is None} == plain
    extras = text[text.index("[project.optional-dependencies]") :]
    for item in PACKAGES:
        if item.extra:
            (needs,) = re.findall(rf"^{item.extra} = (.*)$", extras, re.MULTILINE)
            assert f'"{item.name}>={item.minimum}"' in needs.replace("[data]", "")  # an extra of Ray
