"""What a detection does besides detecting: no look-up of a host, no file outside the cache."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from pictures import blocks
from PIL import Image as PillowImage

import retinasdk

# Waits longer than ONNX Runtime's telemetry takes for its first look-up, which is a few seconds.
_WAIT_S = 10
_DETECT = """
import sys, time
import retinasdk
detector = retinasdk.Detector(sys.argv[1], device="cpu")
assert len(detector(sys.argv[2])) > 0
time.sleep(float(sys.argv[3]))
"""
_ONNX_RUNTIME_ALONE = "import sys, time, onnxruntime; time.sleep(float(sys.argv[3]))"
# Runs in namespaces of its own. The only name server of the child is the socket here, which counts what it is asked.
_WATCH = """
import fcntl, json, os, socket, struct, subprocess, sys, threading

place = sys.argv[1]
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
    request = struct.pack("16sh14x", b"lo", 1 | 64)  # IFF_UP and IFF_RUNNING
    fcntl.ioctl(control, 0x8914, request)  # SIOCSIFFLAGS
with open(f"{place}/resolv.conf", "w") as file:
    file.write("nameserver 127.0.0.1\\n")
subprocess.run(["mount", "--bind", f"{place}/resolv.conf", "/etc/resolv.conf"], check=True)
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("127.0.0.1", 53))
questions = []


def listen():
    while True:
        questions.append(server.recv(512)[12:].decode("latin-1"))


threading.Thread(target=listen, daemon=True).start()
status = subprocess.run([sys.executable, *sys.argv[2:]], stdout=sys.stderr).returncode
print(json.dumps({"status": status, "questions": questions}))
"""


def _watched(place: Path, program: str, model: Path, photo: Path, **environment: str) -> tuple[list[str], list[str]]:
    """Runs a program, and returns what it asked the name server and the files that it left."""
    folders = {name: place / name for name in ("home", "temporary", "cache", "work")}
    for folder in folders.values():
        folder.mkdir(parents=True)
    variables = {
        **{key: value for key, value in os.environ.items() if key not in ("ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME")},
        **{"HOME": str(folders["home"]), "TMPDIR": str(folders["temporary"]), "PYTHONDONTWRITEBYTECODE": "1"},
        "PYTHONPATH": os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), *sys.path])),
        **environment,
    }
    allowed = subprocess.run(["unshare", "-rnm", "true"], capture_output=True, check=False)
    if allowed.returncode != 0:
        pytest.skip(f"no network namespace of its own: {allowed.stderr.decode().strip()}")
    arguments = ["-c", program, str(model), str(photo), str(_WAIT_S)]
    result = subprocess.run(
        ["unshare", "-rnm", sys.executable, "-c", textwrap.dedent(_WATCH), str(place), *arguments],
        cwd=folders["work"],
        env=variables,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["status"] == 0, result.stderr
    left = [str(item.relative_to(place)) for folder in folders.values() for item in folder.rglob("*")]
    return found["questions"], left


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    PillowImage.fromarray(blocks(80, 120)).save(tmp_path / "a.png")
    return tmp_path / "a.png"


needs_namespaces = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux's namespaces")


@pytest.mark.heavy  # It waits for look-ups that must not come.
@needs_namespaces
def test_a_detection_asks_no_name_server_and_leaves_no_file(tmp_path: Path, model_path: Path, photo: Path) -> None:
    assert _watched(tmp_path / "watched", _DETECT, model_path, photo) == ([], [])


@pytest.mark.heavy  # It waits for look-ups that must not come.
@needs_namespaces
def test_the_watch_sees_a_look_up(tmp_path: Path, model_path: Path, photo: Path) -> None:
    """The test above could not fail if the namespace hid what programs look up."""
    program = "import socket, sys\ntry:\n    socket.getaddrinfo('host.example', 80)\nexcept OSError:\n    pass\n"
    program += "open('left', 'w').close()"
    questions, left = _watched(tmp_path / "watched", program, model_path, photo)
    assert any("example" in question for question in questions)
    assert left == ["work/left"]


@pytest.mark.heavy  # It waits for look-ups that must not come.
@needs_namespaces
def test_onnx_runtime_by_itself_looks_up_a_host(tmp_path: Path, model_path: Path, photo: Path) -> None:
    """The reason for the variable. A version without telemetry makes the rule needless, not wrong."""
    questions, left = _watched(tmp_path / "watched", _ONNX_RUNTIME_ALONE, model_path, photo)
    if not questions and not left:
        pytest.skip("this version of ONNX Runtime does not report its use")
    assert any("microsoft" in question for question in questions)


def test_a_choice_of_the_user_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    from retinasdk._util.lazy import require

    for given, wanted in ((None, "1"), ("0", "0")):
        monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
        if given is not None:
            monkeypatch.setenv("ORT_DISABLE_TELEMETRY", given)
        require("onnxruntime", "this test")
        assert os.environ["ORT_DISABLE_TELEMETRY"] == wanted


def test_onnx_runtime_is_imported_in_one_place() -> None:
    package = Path(retinasdk.__file__).parent
    direct = re.compile(r"^\s*(import|from) onnxruntime\b|import_module\(.onnxruntime", re.MULTILINE)
    assert [path.name for path in package.rglob("*.py") if direct.search(path.read_text("utf-8"))] == []
