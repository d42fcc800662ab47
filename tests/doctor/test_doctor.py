"""`retinasdk doctor`: what it says of machines that are well, ill, or made up; and that it never falls ill itself."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from paths import ROOT

import retinasdk
from retinasdk.doctor import probe as _probe
from retinasdk.doctor.diagnose import Diagnosis, Finding, diagnose, main
from retinasdk.doctor.jetson import read_jetson
from retinasdk.doctor.packages import EXTRAS, PACKAGES
from retinasdk.doctor.probe import QUESTIONS, Answer, ask
from retinasdk.doctor.tensorrt import is_known_tensorrt

MISSING = Answer(is_missing=True, problem="not installed")
ORIN = {"name": "Orin", "compute_capability": [8, 7], "integrated": True, "memory_bytes": 32 << 30}
THOR = {"name": "NVIDIA Thor", "compute_capability": [11, 0], "integrated": True, "memory_bytes": 128 << 30}
ADA = {"name": "NVIDIA L4", "compute_capability": [8, 9], "integrated": False, "memory_bytes": 24 << 30}
H100 = {"name": "NVIDIA H100", "compute_capability": [9, 0], "integrated": False, "memory_bytes": 80 << 30}


def driver(version: int = 13000, *, gpus: tuple[Any, ...] = (H100,), status: int = 0, problem: str = "") -> Answer:
    return Answer({"version": version, "gpus": list(gpus), "status": status, "problem": problem})


def kernels(runtime: int = 13000, count: int = 1, reason: str = "") -> Answer:
    return Answer({"file": "x.so", "runtime": runtime, "count": count, "reason": reason})


def tensorrt(version: str = "10.13.3", *, rtx: bool = False, **installed: str) -> Answer:
    name = "tensorrt_rtx" if rtx else "tensorrt"
    distributions = {key: {"version": version, "installer": value} for key, value in installed.items()}
    facts = {"package": name, "version": version, "product": name, "file": "x", "installed": distributions}
    return Answer(facts)


def auto(product: str | None, why: str) -> Answer:
    return Answer({"product": product, "why": why})


def package(version: str | None) -> Answer:
    return Answer({"version": version, "file": "x"})


def convolutions(**changes: Any) -> Answer:
    facts = {"isa": "avx2", "is_built": True, "processor": "x", "threads": 8, "is_measured": True}
    return Answer({**facts, **changes})


def answers(**changes: Answer) -> dict[str, Answer]:
    """Of a machine with everything; changes: other answers."""
    healthy = {
        "native": Answer({"file": "x.so", "simd": "avx2"}),
        "convolutions": convolutions(),
        "native_cuda": kernels(),
        "driver": driver(),
        "tensorrt": tensorrt(),
        "tensorrt_rtx": MISSING,
        "auto": auto("tensorrt", "NVIDIA H100 with TensorRT 10.13.3"),
        "cache": Answer({"folder": os.sep, "note": ""}),
        **{item.name: package(item.minimum) for item in PACKAGES},
    }
    assert set(healthy) == set(QUESTIONS)
    assert set(changes) <= set(healthy)
    merged = {**healthy, **changes}
    if "auto" not in changes and merged["tensorrt"].is_missing and not merged["tensorrt_rtx"].is_missing:
        merged["auto"] = auto("tensorrt_rtx", "a GPU with TensorRT for RTX")
    return merged


@pytest.fixture
def look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Diagnosis]:
    """look(question=Answer, ...) diagnoses a made-up machine, whose files lie in tmp_path."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("retinasdk.doctor.jetson.shutil.which", lambda name: None)

    def call(**changes: Answer) -> Diagnosis:
        return diagnose(root=tmp_path, ask=answers(**changes).__getitem__)

    return call


def finding(diagnosis: Diagnosis, name: str) -> Finding:
    (found,) = (item for item in diagnosis.findings if item.name == name)
    return found


# -- this machine ------------------------------------------------------------------------------------------------------


def test_the_command_here(run_python: Any) -> None:
    result = run_python(["-m", "retinasdk.cli.main", "doctor"])
    assert (result.returncode, result.stderr) == (0, "")
    assert re.search(rf"version +{re.escape(retinasdk.__version__)} in ", result.stdout)
    for name in ("Python", "native core", "onnxruntime", "driver", "engine cache", "bundled models"):
        assert re.search(rf"^  (ok|note|missing) +{re.escape(name)} ", result.stdout, re.MULTILINE), name
    first, second, empty, *_ = result.stdout.splitlines()
    assert first == "retinasdk can detect objects on this machine."
    assert second.startswith('device="auto" will use ')
    assert second.endswith(".")
    assert empty == ""


@pytest.mark.heavy
def test_json_says_the_same(run_python: Any) -> None:
    result = run_python(["-m", "retinasdk.cli.main", "doctor", "--json"])
    content = json.loads(result.stdout)
    assert (result.returncode, result.stderr) == (0, "")
    assert list(content) == ["is_broken", "findings", "conclusion", "can_detect"]
    assert content["can_detect"]
    by_name = {item["name"]: item for item in content["findings"]}
    assert set(by_name["native core"]) == {"section", "name", "state", "text", "facts", "advice"}
    assert by_name["native core"]["facts"]["simd"] == __import__("retinasdk._native")._native.simd_name()
    assert by_name["numpy"]["facts"]["version"] == __import__("numpy").__version__
    for model in retinasdk.list_models():
        wanted = hashlib.sha256(model.path.read_bytes()).hexdigest()
        assert by_name["bundled models"]["facts"][model.name]["sha256"] == wanted


def test_json_round_trip(look: Callable[..., Diagnosis]) -> None:
    for diagnosis in (look(), look(tensorrt=MISSING, native=Answer(problem="ends the process: Illegal instruction"))):
        content = diagnosis.to_dict()
        assert json.loads(json.dumps(content, allow_nan=False)) == content
        again = Diagnosis(
            tuple(Finding(**{**item, "advice": tuple(item["advice"])}) for item in content["findings"]),
            content["conclusion"],
            content["can_detect"],
        )
        assert again.to_dict() == content
        assert again.to_text() == diagnosis.to_text()


def test_auto_is_told_as_it_is(run_python: Any) -> None:
    program = "from retinasdk.tensorrt.installed import why_no_gpu; print(why_no_gpu())"
    reason = run_python(["-c", program]).stdout.strip()
    conclusion = diagnose().conclusion
    assert reason in conclusion or reason == "None"
    assert ("the CPU" in conclusion) == (reason != "None")


# -- packages that are missing, or break when they are imported --------------------------------------------------------


@pytest.fixture
def doctor_with(tmp_path: Path) -> Callable[..., tuple[int, dict[str, Any]]]:
    """doctor_with(modules) runs the doctor with these modules before all others: name of a file, and its content."""

    def run(modules: dict[str, str], **environment: str) -> tuple[int, dict[str, Any]]:
        folder = tmp_path / "modules"
        write_modules(folder, modules)
        path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
        result = subprocess.run(
            [sys.executable, "-m", "retinasdk.doctor.diagnose", "--json"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": path, **environment},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert result.stderr == ""
        return result.returncode, json.loads(result.stdout)

    return run


def write_modules(folder: Path, modules: dict[str, str]) -> None:
    for name, content in modules.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


def named(content: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = (item for item in content["findings"] if item["name"] == name)
    return dict(found)


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


@pytest.mark.heavy
def test_escape_sequences_do_not_reach_the_terminal(
    look: Callable[..., Diagnosis], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def strange(*arguments: Any) -> Any:
        raise RuntimeError("in the folder \x1b[31m")

    monkeypatch.setattr("retinasdk.doctor.diagnose.check_driver", strange)
    main(as_json=False)
    out = capsys.readouterr().out
    assert "in the folder \\x1b[31m" in out
    assert "\x1b" not in out


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


# -- the text ----------------------------------------------------------------------------------------------------------


def test_a_cpu_machine_is_not_told_what_it_lacks_line_by_line(look: Callable[..., Diagnosis]) -> None:
    absent = [item.name for item in PACKAGES if item.extra is not None]
    diagnosis = look(
        driver=NO_DRIVER,
        native_cuda=kernels(count=0),
        tensorrt=MISSING,
        auto=auto(None, "no usable GPU"),
        **dict.fromkeys(absent, MISSING),
    )
    text = diagnosis.to_text()
    assert text.startswith(
        'retinasdk can detect objects on this machine.\ndevice="auto" will use the CPU: no usable GPU.'
    )
    assert text.count("missing ") == 1  # the driver
    for extra in EXTRAS:
        (line,) = (line for line in text.splitlines() if f" [{extra}] " in line)
        assert line.startswith("  - ")
        assert line.endswith(f"pip install 'retinasdk[{extra}]'")
    (line,) = (line for line in text.splitlines() if " OpenCV " in line)
    assert line.endswith("pip install 'opencv-python-headless>=4.5'")
    # Programs get every package.
    assert set(absent) <= {item["name"] for item in diagnosis.to_dict()["findings"] if item["state"] == "missing"}


def test_a_broken_optional_package_keeps_its_line(look: Callable[..., Diagnosis]) -> None:
    text = look(rasterio=Answer(problem="libgdal.so: cannot open"), pandas=MISSING).to_text()
    assert re.search(r"^  broken +rasterio +libgdal.so: cannot open\n +-> pip install", text, re.MULTILINE)
    assert re.search(r"^  - +\[pandas\] +pandas not installed", text, re.MULTILINE)


def test_without_a_gpu_package_a_gpu_machine_is_told(look: Callable[..., Diagnosis]) -> None:
    text = look(tensorrt=MISSING, auto=auto(None, "TensorRT is not installed")).to_text()
    assert re.search(r"^  missing +TensorRT +not installed", text, re.MULTILINE)


# -- GPU and driver ----------------------------------------------------------------------------------------------------


def test_a_machine_with_everything(look: Callable[..., Diagnosis]) -> None:
    diagnosis = look()
    assert {item.state for item in diagnosis.findings} == {"ok"}
    assert diagnosis.conclusion == 'device="auto" will use NVIDIA H100 with TensorRT 10.13.3.'
    assert diagnosis.can_detect
    assert finding(diagnosis, "GPU").text == "NVIDIA H100, compute capability 9.0, 80.0 GiB"
    assert finding(diagnosis, "CUDA kernels").text == "built with CUDA 13.0"
    assert finding(diagnosis, "[gpu]").text == "complete: pycuda, TensorRT"
    assert [item.section for item in diagnosis.findings if item.section != "Jetson"] == [
        item.section for item in diagnosis.findings
    ]


NO_DRIVER = Answer(is_missing=True, problem="no NVIDIA driver (libcuda.so.1 not found)")


@pytest.mark.parametrize(
    ("changes", "name", "state", "text", "advice"),
    [
        ({"driver": NO_DRIVER}, "driver", "missing", "no NVIDIA driver", "install NVIDIA's driver"),
        ({"driver": Answer(problem="libcuda.so.1: invalid ELF header")}, "driver", "broken", "invalid ELF", "driver"),
        (
            {"driver": driver(gpus=(), status=803, problem="CUDA_ERROR_SYSTEM_DRIVER_MISMATCH")},
            "driver",
            "broken",
            "supports CUDA up to 13.0, but fails: CUDA_ERROR_SYSTEM_DRIVER_MISMATCH",
            "restart the machine",
        ),
        ({"driver": driver(gpus=(), status=100)}, "GPU", "missing", "the driver sees no GPU", ""),
        ({"native_cuda": MISSING}, "CUDA kernels", "missing", "built without CUDA", "nvcc"),
        ({"native_cuda": Answer(problem="undefined symbol: x")}, "CUDA kernels", "broken", "undefined symbol", "build"),
        ({"driver": driver(13020)}, "CUDA kernels", "ok", "built with CUDA 13.0", ""),
        ({"native_cuda": kernels(13020)}, "CUDA kernels", "ok", "built with CUDA 13.2", ""),  # within a major version
        (
            {"driver": driver(12060)},
            "CUDA kernels",
            "broken",
            "built with CUDA 13.0, but the driver only supports CUDA up to 12.6",
            "install a driver for CUDA 13 (580 or newer)",
        ),
        (
            {"native_cuda": kernels(count=0, reason="cudaErrorUnknown")},
            "CUDA kernels",
            "broken",
            "but they find no usable GPU: cudaErrorUnknown",
            "",
        ),
        ({"driver": NO_DRIVER, "native_cuda": kernels(count=0)}, "CUDA kernels", "ok", "no GPU to run them on", ""),
        ({"tensorrt": MISSING}, "TensorRT", "missing", "not installed", ""),
        ({"tensorrt": MISSING}, "[gpu]", "missing", "TensorRT not installed", "pip install 'retinasdk[gpu]'"),
        ({"pycuda": MISSING}, "pycuda", "missing", "not installed", ""),
        ({"pycuda": MISSING}, "[gpu]", "missing", "pycuda not installed", "pip install 'retinasdk[gpu]'"),
        (
            {"pycuda": Answer(problem="libcurand.so.10: cannot open")},
            "pycuda",
            "broken",
            "libcurand",
            "--force-reinstall",
        ),
        (
            {"pycuda": Answer(problem="libcuda.so.1: cannot open"), "driver": NO_DRIVER},
            "pycuda",
            "note",
            "cannot be loaded without the driver",
            "",
        ),
        ({"pycuda": Answer(problem="libcuda.so.1: cannot open")}, "pycuda", "broken", "libcuda.so.1", ""),
        ({"native": Answer(is_missing=True)}, "native core", "broken", "not built for this Python", "pip install"),
        ({"cache": Answer(problem="[Errno 30] Read-only")}, "engine cache", "broken", "Read-only", "RETINASDK_CACHE"),
        ({"cache": Answer({"folder": "/", "note": "caches go to /tmp"})}, "engine cache", "note", "caches go to", ""),
    ],
)
def test_findings(
    look: Callable[..., Diagnosis], changes: dict[str, Answer], name: str, state: str, text: str, advice: str
) -> None:
    diagnosis = look(**changes)
    found = finding(diagnosis, name)
    assert (found.state, diagnosis.is_broken) == (state, state == "broken")
    assert text in found.text
    assert advice in " ".join(found.advice)
    assert bool(found.advice) or not advice


def test_two_gpus_and_a_hidden_one(look: Callable[..., Diagnosis], monkeypatch: pytest.MonkeyPatch) -> None:
    diagnosis = look(driver=driver(gpus=(H100, ORIN)))
    assert finding(diagnosis, "GPU 1").text == "Orin, compute capability 8.7, 32.0 GiB, shared with the CPU"
    assert "NVIDIA H100" in diagnosis.conclusion
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    hidden = look(driver=driver(gpus=(), status=100))
    assert finding(hidden, "GPU").text == "no GPU; CUDA_VISIBLE_DEVICES is ''"


def test_nvidias_own_version(look: Callable[..., Diagnosis], tmp_path: Path) -> None:
    path = tmp_path / "proc/driver/nvidia/version"
    path.parent.mkdir(parents=True)
    path.write_text(
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build\nGCC version: 12.3.0\n"
    )
    assert finding(look(), "driver").text == "580.65.06, supports CUDA up to 13.0"
    assert finding(look(), "driver").facts["nvidia_version"] == "580.65.06"


@pytest.mark.parametrize(
    ("changes", "conclusion"),
    [
        ({"auto": auto(None, "pycuda is not installed")}, "will use the CPU: pycuda is not installed."),
        (
            {"auto": auto(None, "no usable GPU"), "onnxruntime": MISSING},
            "will use the CPU, which will fail (onnxruntime: not installed; needed for networks on the CPU): no usable",
        ),
        (
            {"tensorrt": Answer(problem="libnvinfer.so.10: cannot open")},
            "will use the GPU and fail (TensorRT: cannot be imported: libnvinfer.so.10: cannot open); "
            'until this is repaired, use device="cpu".',
        ),
        ({"pycuda": Answer(problem="broken")}, "will use the GPU and fail (pycuda: broken); until"),
        (
            {"native": Answer(problem="ends the process: Illegal instruction")},
            "cannot be used: retinasdk itself does not work (native core: ends the process: Illegal instruction).",
        ),
        ({"auto": Answer(problem="SyntaxError")}, "cannot be used: retinasdk itself does not work (SyntaxError)."),
    ],
)
def test_conclusions(look: Callable[..., Diagnosis], changes: dict[str, Answer], conclusion: str) -> None:
    diagnosis = look(**changes)
    assert diagnosis.conclusion.startswith(f'device="auto" {conclusion}')
    first, second, empty, *_ = diagnosis.to_text().splitlines()
    assert (second, empty) == (diagnosis.conclusion, "")
    assert (
        ("can detect" in first) == diagnosis.can_detect == (conclusion == "will use the CPU: pycuda is not installed.")
    )


@pytest.fixture
def libcuda(tmp_path: Path) -> Callable[[str], dict[str, str]]:
    """libcuda(code of cuInit) builds a driver with one GPU, and gives the environment in which it is found."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs a C compiler")

    def build(status: str) -> dict[str, str]:
        source = tmp_path / "cuda.c"
        source.write_text(
            "#include <string.h>\n#include <stddef.h>\n"
            "int cuDriverGetVersion(int *v) { *v = 12060; return 0; }\n"
            f"int cuInit(unsigned f) {{ return {status}; }}\n"
            'int cuGetErrorName(int e, const char **n) { *n = e == 100 ? "CUDA_ERROR_NO_DEVICE" : NULL; return 0; }\n'
            "int cuDeviceGetCount(int *n) { *n = 1; return 0; }\n"
            "int cuDeviceGet(int *d, int i) { *d = i + 7; return 0; }\n"
            'int cuDeviceGetName(char *s, int n, int d) { if (d == 7) strncpy(s, "Orin", n); return 0; }\n'
            "int cuDeviceTotalMem_v2(size_t *s, int d) { *s = 34359738368ull; return 0; }\n"
            "int cuDeviceGetAttribute(int *v, int a, int d) { *v = a == 75 ? 8 : a == 76 ? 7 : a == 18; return 0; }\n"
        )
        library = tmp_path / "libcuda.so.1"
        subprocess.run([compiler, "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
        return {"LD_LIBRARY_PATH": str(tmp_path)}

    return build


@pytest.mark.heavy
@pytest.mark.skipif(sys.platform != "linux", reason="the loader's paths are Linux's")
def test_the_driver_is_asked_directly(libcuda: Any, doctor_with: Any) -> None:
    status, content = doctor_with({}, **libcuda("0"))
    assert named(content, "driver")["facts"]["version"] == 12060
    assert named(content, "GPU")["facts"] == ORIN
    assert named(content, "GPU")["text"] == "Orin, compute capability 8.7, 32.0 GiB, shared with the CPU"
    assert status == content["is_broken"]


@pytest.mark.skipif(sys.platform != "linux", reason="the loader's paths are Linux's")
@pytest.mark.parametrize(
    ("code", "state", "problem"),
    [
        ("100", "ok", "CUDA_ERROR_NO_DEVICE"),
        ("999", "broken", "unknown error"),
        ("*(volatile int *)0", "broken", None),
    ],
)
def test_a_driver_that_fails(
    libcuda: Any,
    look: Callable[..., Diagnosis],
    monkeypatch: pytest.MonkeyPatch,
    code: str,
    state: str,
    problem: str | None,
) -> None:
    for name, value in libcuda(code).items():
        monkeypatch.setenv(name, value)
    found = finding(look(driver=ask("driver")), "driver")
    assert found.state == state
    if problem is None:
        assert found.text == "ends the process: Segmentation fault"
    else:
        assert found.facts["problem"] == problem


@pytest.mark.skipif(sys.platform != "linux", reason="the loader's paths are Linux's")
def test_a_driver_that_cannot_be_loaded(
    tmp_path: Path, look: Callable[..., Diagnosis], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "libcuda.so.1").write_bytes(b"no library")
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    diagnosis = look(driver=ask("driver"))
    assert (finding(diagnosis, "driver").state, diagnosis.is_broken) == ("broken", True)


# -- TensorRT ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("product", "version", "known"),
    [
        ("tensorrt", "8.4.3", False),
        ("tensorrt", "8.5.2.2", True),
        ("tensorrt", "8.6.1", True),
        ("tensorrt", "9.3.0", False),
        ("tensorrt", "10.2.0", False),
        ("tensorrt", "10.3.0", True),
        ("tensorrt", "10.16.2", True),
        ("tensorrt", "11.5.0", True),
        ("tensorrt", "12.0.1", False),
        ("tensorrt_rtx", "1.7.1", True),
        ("tensorrt_rtx", "2.0.0", False),
        ("tensorrt", "unknown", False),
    ],
)
def test_known_versions(product: str, version: str, known: bool, look: Callable[..., Diagnosis]) -> None:
    assert is_known_tensorrt(product, version) == known
    answers = {"tensorrt": MISSING, product: tensorrt(version, rtx=product == "tensorrt_rtx")}
    found = finding(look(driver=driver(gpus=(ADA,)), **answers), "TensorRT")
    assert ("retinasdk supports" in found.text) == (not known)
    assert not known or found.state == ("note" if version.startswith(("8.5", "11.5")) else "ok")


@pytest.mark.parametrize(
    ("answer", "numpy", "cuda", "state", "text"),
    [
        (tensorrt("8.5.2"), "1.23.5", 11040, "ok", "8.5.2 (package tensorrt)"),
        (tensorrt("8.5.2"), "1.24.0", 11040, "note", "its trt.nptype() fails with NumPy 1.24.0"),
        (tensorrt("8.6.1"), "2.4.6", 12020, "ok", "8.6.1"),
        (tensorrt("10.16.1", tensorrt_cu13="pip"), "2.0.0", 12080, "broken", "its wheel is for CUDA 13, the driver"),
        (tensorrt("10.16.1", tensorrt_cu13_libs="pip"), "2.0.0", 13000, "ok", "10.16.1"),
        (tensorrt("10.16.1", tensorrt_cu12="pip", tensorrt_cu13="pip"), "2.0.0", 12080, "ok", "10.16.1"),
        (tensorrt("10.16.1", tensorrt_rtx_cu13="pip"), "2.0.0", 12080, "ok", "10.16.1"),  # another package
        (tensorrt("1.7.1", rtx=True, tensorrt_rtx_cu13_libs="pip"), "2.0.0", 12080, "broken", "CUDA 13"),
        (tensorrt("1.7.1", rtx=True), "2.0.0", 12080, "ok", "1.7.1 for RTX (package tensorrt_rtx)"),
    ],
)
def test_tensorrt_and_what_it_meets(
    look: Callable[..., Diagnosis], answer: Answer, numpy: str, cuda: int, state: str, text: str
) -> None:
    assert answer.facts is not None
    diagnosis = look(
        **{"tensorrt": MISSING, answer.facts["product"]: answer},
        numpy=package(numpy),
        driver=driver(cuda, gpus=(ADA,)),
        native_cuda=kernels(cuda // 1000 * 1000),
    )
    found = finding(diagnosis, "TensorRT")
    assert found.state == state
    assert text in found.text
    assert bool(found.advice) == (state != "ok")


def gpu_of(chip: tuple[int, int]) -> dict[str, Any]:
    return {"name": "A GPU", "compute_capability": list(chip), "integrated": False, "memory_bytes": 8 << 30}


@pytest.mark.parametrize(
    ("chip", "of_tensorrt", "of_rtx"),
    [
        ((7, 2), "broken", "broken"),
        ((7, 5), "ok", "ok"),
        ((8, 0), "ok", "note"),
        ((8, 6), "ok", "ok"),
        ((8, 7), "note", "broken"),
        ((8, 9), "ok", "ok"),
        ((9, 0), "ok", "broken"),
        ((10, 0), "ok", "broken"),
        ((10, 1), "note", "broken"),
        ((10, 3), "ok", "broken"),
        ((11, 0), "ok", "broken"),
        ((12, 0), "ok", "ok"),
        ((12, 1), "note", "ok"),
    ],
)
def test_every_chip(look: Callable[..., Diagnosis], chip: tuple[int, int], of_tensorrt: str, of_rtx: str) -> None:
    """Of TensorRT 10.13.3 and TensorRT for RTX 1.7.1, each alone and both."""
    gpu, rtx = driver(gpus=(gpu_of(chip),)), tensorrt("1.7.1", rtx=True)
    words = {"ok": "(package ", "note": "it is unknown whether this version supports", "broken": "does not support"}
    chosen = "tensorrt" if of_tensorrt == "ok" or of_rtx != "ok" else "tensorrt_rtx"
    for state, wanted in (
        (finding(look(driver=gpu), "TensorRT"), of_tensorrt),
        (finding(look(driver=gpu, tensorrt=MISSING, tensorrt_rtx=rtx), "TensorRT"), of_rtx),
        (
            finding(look(driver=gpu, tensorrt_rtx=rtx, auto=auto(chosen, "...")), "TensorRT"),
            of_rtx if chosen == "tensorrt_rtx" else of_tensorrt,
        ),
    ):
        assert state.state == wanted
        assert words[wanted] in state.text
        assert bool(state.advice) == (wanted != "ok")
    other = finding(look(driver=gpu, tensorrt_rtx=rtx, auto=auto(chosen, "...")), "other TensorRT")
    of_other = of_tensorrt if chosen == "tensorrt_rtx" else of_rtx
    assert other.state == ("ok" if of_other == "ok" else "note")
    assert "; not used: " in other.text
    assert words[of_other] in other.text


def test_which_product_and_why(look: Callable[..., Diagnosis]) -> None:
    why = "NVIDIA H100 with TensorRT 10.13.3; TensorRT for RTX 1.7.1 does not support compute capability 9.0"
    diagnosis = look(tensorrt_rtx=tensorrt("1.7.1", rtx=True), auto=auto("tensorrt", why))
    assert diagnosis.conclusion == f'device="auto" will use {why}.'
    assert not diagnosis.is_broken
    assert (
        finding(diagnosis, "other TensorRT").text == "1.7.1 for RTX (package tensorrt_rtx); not used: does not "
        "support compute capability 9.0 (NVIDIA H100)"
    )
    broken = look(tensorrt_rtx=Answer(problem="libtensorrt_rtx.so.1: cannot open"))
    assert finding(broken, "other TensorRT").text == (
        "not used, and cannot be imported: libtensorrt_rtx.so.1: cannot open"
    )
    assert "other TensorRT" not in {item.name for item in look().findings}


def test_the_wrong_product_alone(look: Callable[..., Diagnosis]) -> None:
    """As on the H200, where the doctor said that all was well."""
    why = "TensorRT for RTX 1.7.1 does not support compute capability 9.0 (NVIDIA H100). To use it, install TensorRT"
    diagnosis = look(tensorrt=MISSING, tensorrt_rtx=tensorrt("1.7.1", rtx=True), auto=auto(None, why))
    assert diagnosis.conclusion == f'device="auto" will use the CPU: {why}.'
    assert (diagnosis.can_detect, diagnosis.is_broken) == (True, True)
    assert finding(diagnosis, "TensorRT").advice == ("install TensorRT with: pip install 'tensorrt-cu13'",)


# -- Jetson ------------------------------------------------------------------------------------------------------------


def make_jetson(
    root: Path, release: str | None = "R36 (release), REVISION: 4.3", chip: str = "tegra234", clocks: str = "vary"
) -> None:
    (root / "etc").mkdir()
    if release is not None:
        (root / "etc/nv_tegra_release").write_text(f"# {release}, GCID: 38968081, BOARD: generic, EABI: aarch64\n")
    tree = root / "proc/device-tree"
    tree.mkdir(parents=True)
    (tree / "model").write_bytes(b"NVIDIA Jetson AGX Orin Developer Kit\0")
    (tree / "compatible").write_bytes(f"nvidia,p3737-0000+p3701-0000\0nvidia,{chip}\0".encode())
    if clocks:
        gpu = root / "sys/class/devfreq/17000000.gpu"
        gpu.mkdir(parents=True)
        (gpu / "min_freq").write_text("306000000\n" if clocks == "vary" else "1300500000\n")
        (gpu / "max_freq").write_text("1300500000\n")


def on_orin(**changes: Answer) -> dict[str, Answer]:
    return {
        "driver": driver(12060, gpus=(ORIN,)),
        "native_cuda": kernels(12060),
        "tensorrt": tensorrt("10.3.0"),
        **changes,
    }


@pytest.mark.parametrize(
    ("release", "jetpack"),
    [
        ("R32 (release), REVISION: 7.1", None),
        ("R35 (release), REVISION: 1.0", None),
        ("R35 (release), REVISION: 2.1", "5.1"),
        ("R35 (release), REVISION: 6.1", "5.1"),
        ("R36 (release), REVISION: 3.0", "6.0"),
        ("R36 (release), REVISION: 4.0", "6.1"),
        ("R36 (release), REVISION: 4.3", "6.2"),
        ("R36 (release), REVISION: 5.0", "6.2"),
        ("R38 (release), REVISION: 2.1", "7.0"),
        ("R38 (release), REVISION: 4.0", "7.1"),
        ("R39 (release), REVISION: 2.0", "7.2"),
        ("R50 (release), REVISION: 1.0", None),
        ("something else", None),
    ],
)
def test_jetpacks(tmp_path: Path, look: Callable[..., Diagnosis], release: str, jetpack: str | None) -> None:
    make_jetson(tmp_path, release)
    found = finding(look(), "JetPack")
    assert found.facts["jetpack"] == jetpack
    assert found.state == ("ok" if jetpack else "note")
    assert found.text.endswith(" on NVIDIA Jetson AGX Orin Developer Kit")
    assert jetpack is None or found.text.startswith(f"JetPack {jetpack} (L4T ")


def test_a_healthy_jetson(tmp_path: Path, look: Callable[..., Diagnosis]) -> None:
    make_jetson(tmp_path, clocks="fixed")
    diagnosis = look(**on_orin())
    assert not [item for item in diagnosis.findings if item.state not in ("ok", "missing")]
    assert finding(diagnosis, "clocks").text == "held at one frequency"
    assert finding(diagnosis, "power mode").state == "missing"  # no nvpmodel here
    assert finding(diagnosis, "[gpu]").text == "complete: pycuda"


def test_a_jetson_in_a_container(tmp_path: Path, look: Callable[..., Diagnosis]) -> None:
    make_jetson(tmp_path, release=None, clocks="")
    diagnosis = look(**on_orin())
    assert "the release is not visible" in finding(diagnosis, "JetPack").text
    assert "/etc/nv_tegra_release" in finding(diagnosis, "JetPack").advice[0]
    assert "clocks" not in [item.name for item in diagnosis.findings]


def test_clocks_and_power_mode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_jetson(tmp_path)
    tool = tmp_path / "bin" / "nvpmodel"
    tool.parent.mkdir()
    tool.write_text('#!/bin/sh\n[ "$1" = -q ] && printf "NV Fan Mode:quiet\\nNV Power Mode: MODE_30W\\n2\\n"\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}{os.pathsep}{os.environ['PATH']}")
    diagnosis = diagnose(root=tmp_path, ask=answers(**on_orin()).__getitem__)
    assert finding(diagnosis, "power mode").text == "MODE_30W"
    assert finding(diagnosis, "clocks").state == "note"
    assert finding(diagnosis, "clocks").advice == ("before measuring: sudo jetson_clocks",)
    tool.write_text("#!/bin/sh\nexit 1\n")
    jetson = read_jetson(tmp_path)
    assert jetson is not None
    assert jetson.power_mode is None


@pytest.mark.parametrize(
    ("release", "answer", "state", "text", "advice"),
    [
        ("R36 (release), REVISION: 4.3", tensorrt("10.3.0"), "ok", "10.3.0", ""),
        (
            "R36 (release), REVISION: 4.3",
            tensorrt("10.9.0", tensorrt="pip", tensorrt_cu12="pip"),
            "note",
            "JetPack 6.2 comes with 10.3.0, and this one hides it",
            "pip uninstall tensorrt tensorrt_cu12",
        ),
        (
            "R36 (release), REVISION: 4.3",
            tensorrt("10.16.1", tensorrt_cu13="pip"),
            "broken",
            "its wheel is for CUDA 13, the driver supports CUDA up to 12.6",
            "pip uninstall tensorrt_cu13",
        ),
        (
            "R35 (release), REVISION: 4.1",
            tensorrt("8.5.2"),
            "note",
            "its trt.nptype() fails with NumPy 1.24",
            "numpy<1.24",
        ),
        ("R35 (release), REVISION: 4.1", MISSING, "missing", "not installed", "sudo apt install python3-libnvinfer"),
    ],
)
def test_tensorrt_on_a_jetson(
    tmp_path: Path, look: Callable[..., Diagnosis], release: str, answer: Answer, state: str, text: str, advice: str
) -> None:
    make_jetson(tmp_path, release)
    # Without the driver's word, as in a container: JetPack's own version stands for it.
    found = finding(look(**on_orin(tensorrt=answer, driver=NO_DRIVER)), "TensorRT")
    assert found.state == state
    assert text in found.text
    assert advice in " ".join(found.advice)


def test_a_closed_environment_hides_jetpacks_tensorrt(
    tmp_path: Path, look: Callable[..., Diagnosis], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_jetson(tmp_path)
    environment = tmp_path / "venv"
    environment.mkdir()
    monkeypatch.setattr(sys, "prefix", str(environment))
    for content, closed in (
        ("home = /usr/bin\ninclude-system-site-packages = false\n", True),
        ("home = /usr/bin\ninclude-system-site-packages = true\n", False),
    ):
        (environment / "pyvenv.cfg").write_text(content)
        advice = " ".join(finding(look(**on_orin(tensorrt=MISSING)), "TensorRT").advice)
        assert ("--system-site-packages" in advice) == closed


def test_thor(tmp_path: Path, look: Callable[..., Diagnosis]) -> None:
    make_jetson(tmp_path, "R38 (release), REVISION: 2.0", chip="tegra264")
    found = finding(look(**on_orin(tensorrt=tensorrt("10.13.3"), driver=driver(gpus=(THOR,)))), "TensorRT")
    assert found.state == "note"
    assert "wrong boxes" in found.text
    assert found.advice == ("compare with the CPU: retinasdk verify people",)


def test_kernels_of_another_jetpack(tmp_path: Path, look: Callable[..., Diagnosis]) -> None:
    make_jetson(tmp_path)
    found = finding(look(**on_orin(native_cuda=kernels(13000))), "CUDA kernels")
    assert found.state == "broken"
    assert "nvcc of its JetPack" in found.advice[0]


# -- convolutions on the CPU -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "state", "text"),
    [
        (
            convolutions(),
            "ok",
            f"avx2 instructions, 8 threads; how fast each model runs with them is measured once and kept in {os.sep}",
        ),
        (
            convolutions(is_measured=False, threads=1),
            "ok",
            "avx2 instructions, 1 thread; models are not measured (RETINASDK_TUNE=0)",
        ),
        (
            convolutions(is_built=False),
            "note",
            "retinasdk was built without its operators for ONNX Runtime, so those of ONNX Runtime are used",
        ),
        (Answer(problem="ValueError: RETINASDK_ISA is mmx"), "broken", "ValueError: RETINASDK_ISA is mmx"),
    ],
)
def test_convolutions(look: Callable[..., Diagnosis], answer: Answer, state: str, text: str) -> None:
    found = finding(look(convolutions=answer), "convolutions")
    assert (found.state, found.text) == (state, text)


def test_convolutions_without_a_cache(look: Callable[..., Diagnosis]) -> None:
    found = finding(look(cache=Answer(problem="[Errno 30] Read-only")), "convolutions")
    assert (found.state, found.text) == (
        "note",
        "avx2 instructions, 8 threads; models are not measured without a cache",
    )


def test_a_model(tmp_path: Path) -> None:
    asked = []

    def about(model: str) -> Answer:
        asked.append(model)
        return Answer({"text": "blocked (measured)", "name": "blocked"})

    diagnosis = diagnose(model="a/b.onnx", root=tmp_path, ask=answers().__getitem__, ask_about_model=about)
    found = finding(diagnosis, "model b.onnx")
    assert (found.section, found.state, found.text) == ("CPU", "ok", "blocked (measured)")
    assert asked == ["a/b.onnx"]
    broken = diagnose(
        model="b.onnx", root=tmp_path, ask=answers().__getitem__, ask_about_model=lambda model: Answer(problem="broken")
    )
    assert broken.is_broken
    assert _probe.ask_about_model(str(tmp_path / "none.onnx")).problem.startswith("ModelError: ")


# -- files -------------------------------------------------------------------------------------------------------------


def test_the_cache(tmp_path: Path, look: Callable[..., Diagnosis], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETINASDK_CACHE", str(tmp_path / "cache"))
    found = finding(look(cache=ask("cache")), "engine cache")
    assert (found.state, found.facts["folder"]) == ("ok", str(tmp_path / "cache"))
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RETINASDK_CACHE", str(tmp_path / "file"))
    found = finding(look(cache=ask("cache")), "engine cache")
    assert found.state == "note"
    assert f"{tmp_path / 'file'} cannot be used (File exists)" in found.text
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o755)
    monkeypatch.setenv("RETINASDK_CACHE", str(tmp_path / "open"))
    found = finding(look(cache=ask("cache")), "engine cache")
    assert found.state == "note"
    assert f"others can use it, its mode is 755; if all files in it are yours, run: chmod 700 {tmp_path}" in found.text


def test_models_that_are_not_what_was_installed(
    tmp_path: Path, look: Callable[..., Diagnosis], monkeypatch: pytest.MonkeyPatch
) -> None:
    def record(content: bytes) -> str:
        return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()

    info = tmp_path / f"retinasdk-{retinasdk.__version__}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: retinasdk\nVersion: {retinasdk.__version__}\n")
    monkeypatch.syspath_prepend(tmp_path)
    models = retinasdk.list_models()
    for spoilt in ((), ("people",), ("people", "tree-crowns")):
        lines = [
            f"{model.path},sha256={record(b'other' if model.name in spoilt else model.path.read_bytes())},1\n"
            for model in models
        ]
        (info / "RECORD").write_text("".join(lines))
        found = finding(look(), "bundled models")
        assert found.state == ("broken" if spoilt else "ok")
        assert not spoilt or found.text.startswith(", ".join(spoilt))


def test_broken_models(look: Callable[..., Diagnosis], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("retinasdk.models._FOLDER", tmp_path)
    assert finding(look(), "bundled models").state == "missing"
    (tmp_path / "people.onnx").write_bytes(b"")
    (tmp_path / "people.md").write_text("card")
    (tmp_path / "people.json").write_text("{}")
    found = finding(look(), "bundled models")
    assert found.state == "broken"
    assert "people.json" in found.text


def test_it_needs_the_standard_library_alone(run_python: Any) -> None:
    program = (
        "import sys; before = set(sys.modules); import retinasdk.doctor.diagnose; "
        "print(*sorted({name.partition('.')[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names)))"
    )
    result = run_python(["-c", program])
    assert (result.stdout.split(), result.stderr) == (["retinasdk"], "")


def test_every_question_has_an_answer_here() -> None:
    for question in QUESTIONS:
        answer = ask(question)
        assert (answer.facts is None) == bool(answer.problem)
    assert _probe.ask("no such question").problem == "KeyError: 'no such question'"
