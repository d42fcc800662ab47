"""`retinasdk doctor` on a Jetson."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from doctor_machines import (
    MISSING,
    NO_DRIVER,
    ORIN,
    THOR,
    answers,
    driver,
    finding,
    kernels,
    tensorrt,
)

from retinasdk.doctor.diagnose import Diagnosis, diagnose
from retinasdk.doctor.jetson import read_jetson
from retinasdk.doctor.probe import Answer


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
