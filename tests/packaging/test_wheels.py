"""The wheels of `make wheels`: what they contain, and what they answer where nothing else is installed.

Those for ARM64 run in QEMU with a Python of Debian. Skipped without wheels in dist/wheels; RETINASDK_WHEELS names
another folder.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import arm64_python
import numpy as np
import pytest
from paths import PHOTOS, ROOT, SUPPORT

WHEELS = sorted(Path(os.environ.get("RETINASDK_WHEELS", ROOT / "dist/wheels")).glob("retinasdk-*-manylinux*.whl"))
PHOTO = PHOTOS / "people" / "astronaut.jpg"
NAME = re.compile(r"-cp3(\d+)-cp3\d+-manylinux2014_\w+\.manylinux_2_17_(x86_64|aarch64)\.whl$")
# The dynamic loader and parts of glibc: on every Linux that the tag names. The C++ library is in the modules.
SYSTEM_LIBRARIES = {
    "libc.so.6",
    "libm.so.6",
    "libdl.so.2",
    "libpthread.so.0",
    "ld-linux-x86-64.so.2",
    "ld-linux-aarch64.so.1",
}
TEST_TOOLS = ("pytest", "hypothesis", "onnx")

pytestmark = pytest.mark.skipif(not WHEELS, reason="there are no wheels in dist/wheels; run: make wheels")
each_wheel = pytest.mark.parametrize("wheel", WHEELS, ids=lambda wheel: wheel.name.split("-", 2)[2])


def python_and_machine(wheel: Path) -> tuple[str, str]:
    found = NAME.search(wheel.name)
    assert found is not None, wheel.name
    return f"3.{found[1]}", found[2]


def said(*command: str | Path, cwd: Path | None = None, **environment: str) -> str:
    done = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env=environment or None,
        capture_output=True,
        text=True,
        check=False,
        timeout=1800,
    )
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}"
    return done.stdout


@each_wheel
def test_contents(wheel: Path, tmp_path: Path) -> None:
    """By readelf, and not by auditwheel, which wrote the tag."""
    version, machine = python_and_machine(wheel)
    with zipfile.ZipFile(wheel) as file:
        names = file.namelist()
        file.extractall(tmp_path)
    assert {name.split("/")[0] for name in names} == {"retinasdk", "retinasdk-0.1.0.dist-info"}
    kinds = {Path(name).suffix for name in names if re.match(r"retinasdk/.*[^/]$", name)}
    assert kinds == {".py", ".pyi", ".typed", ".so", ".json", ".onnx", ".md", ".html"}
    module = f"retinasdk/_native.cpython-{version.replace('.', '')}-{machine}-linux-gnu.so"
    assert {name for name in names if name.endswith(".so")} == {module, "retinasdk/_ort_ops.so"}
    operators = ["RegisterCustomOps", "retinasdk_lend", "retinasdk_take_back"]
    for name, entries in ((module, ["PyInit__native"]), ("retinasdk/_ort_ops.so", operators)):
        header = said("readelf", "--wide", "--file-header", "--dynamic", "--version-info", tmp_path / name)
        assert {"x86_64": "X86-64", "aarch64": "AArch64"}[machine] in header
        assert set(re.findall(r"\(NEEDED\).*\[(.*)\]", header)) <= SYSTEM_LIBRARIES
        assert "RPATH" not in header
        assert "RUNPATH" not in header
        versions = {tuple(map(int, found.split("."))) for found in re.findall(r"Name: GLIBC_([0-9.]+)", header)}
        assert max(versions) <= (2, 17)
        symbols = said("readelf", "--wide", "--dyn-syms", tmp_path / name).splitlines()
        fields = [line.split() for line in symbols if re.search(r"\b(GLOBAL|WEAK)\b", line)]
        assert sorted(field[7] for field in fields if field[6] != "UND") == entries
        content = (tmp_path / name).read_bytes()
        assert str(ROOT).encode() not in content
        assert str(Path.home()).encode() not in content


@pytest.fixture(scope="module")
def wanted() -> dict[str, Any]:
    """The answers of the package that these tests use, which the compiler of this machine built."""
    path = os.pathsep.join((str(SUPPORT), *filter(None, sys.path)))
    answer: dict[str, Any] = json.loads(
        said(sys.executable, SUPPORT / "wheel_answers.py", PHOTO, **{**os.environ, "PYTHONPATH": path})
    )
    return answer


def on_this_machine(wheel: Path, version: str, folder: Path) -> tuple[list[str | Path], dict[str, str]]:
    """Installs a wheel with pip in a new environment. Returns the command of its Python, and environment variables."""
    kept = sorted((Path.home() / ".pyenv/versions").glob(f"{version}.*/bin/python"))
    python = kept[0] if kept else shutil.which(f"python{version}")
    if python is None:
        pytest.skip(f"python{version} is not on this machine")
    said(python, "-m", "venv", folder)
    # Without a compiler, cmake or anything else: only what is in the environment.
    environment = {"PATH": str(folder / "bin"), "HOME": str(folder)}
    for compiler in ("c++", "g++", "gcc", "cc", "cmake", "ninja"):
        assert shutil.which(compiler, path=environment["PATH"]) is None
    said(folder / "bin/pip", "install", "--quiet", "--only-binary=:all:", wheel, *TEST_TOOLS, **environment)
    return [folder / "bin/python"], environment


def on_arm64(wheel: Path, version: str, folder: Path) -> tuple[list[str | Path], dict[str, str]]:
    """Puts a wheel and its requirements for ARM64 in a folder, beside a Python for it. Returns as above."""
    if version not in arm64_python.RELEASES:
        pytest.skip(f"no release of Debian with a Python {version} for ARM64 is known to this test")
    if shutil.which("qemu-aarch64") is None or shutil.which("apt-get") is None:
        pytest.skip("needs qemu-aarch64 (Debian: apt install qemu-user) and apt-get")
    arm64_python.install_python(version, folder / "python")
    platforms = [f"--platform=manylinux_{glibc}_aarch64" for glibc in ("2_28", "2_27", "2_17")]
    options = ["--only-binary=:all:", f"--python-version={version}", *platforms, "--platform=manylinux2014_aarch64"]
    packages = folder / "packages"
    said(sys.executable, "-m", "pip", "install", "--quiet", *options, f"--target={packages}", wheel, *TEST_TOOLS)
    return [*arm64_python.command(version, folder / "python", packages)], {**os.environ, "HOME": str(folder)}


@pytest.mark.heavy
@each_wheel
def test_answers(wheel: Path, wanted: dict[str, Any], tmp_path: Path) -> None:
    version, machine = python_and_machine(wheel)
    install = on_this_machine if machine == "x86_64" else on_arm64
    python, environment = install(wheel, version, tmp_path / "installed")
    path = os.pathsep.join((str(SUPPORT), str(tmp_path / "installed/packages")))
    if machine == "aarch64":
        position = next(index for index, part in enumerate(python) if str(part).startswith("PYTHONPATH="))
        python[position] = f"PYTHONPATH={path}"
    answer = json.loads(said(*python, SUPPORT / "wheel_answers.py", PHOTO, **{**environment, "PYTHONPATH": path}))
    assert answer["machine"] == machine
    assert Path(answer["package"]).is_relative_to(tmp_path)
    # The compiler of the wheels must not leave the fast code unused.
    assert answer["instructions"] == (wanted["instructions"] if machine == "x86_64" else "neon")
    assert answer["digests"] == wanted["digests"]
    for way, found in answer["detections"].items():
        assert len(found) > 0
        if machine == "x86_64" and answer["onnxruntime"] == wanted["onnxruntime"]:
            assert found == wanted["detections"][way]
        else:  # Convolutions of another machine or version add in another order.
            assert [item["label"] for item in found] == [item["label"] for item in wanted["detections"][way]]
            for key, tolerance in (("score", 1e-4), ("xyxy", 0.02)):
                np.testing.assert_allclose(
                    [item[key] for item in found],
                    [item[key] for item in wanted["detections"][way]],
                    rtol=0,
                    atol=tolerance,
                )
    golden = ROOT / "tests/pipeline/test_golden.py"
    printed = said(*python, "-m", "pytest", "-q", "-p", "no:cacheprovider", golden, cwd=tmp_path, **environment)
    assert re.search(r"^31 passed", printed, re.MULTILINE), printed
