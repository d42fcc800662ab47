"""Ctrl-C and SIGTERM at any moment of any command: it ends soon, in one line, and what it wrote is whole.

The signals begin when the process handles them. Before that, Python itself is starting.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from emulated_cuda import emulated_folder
from paths import SUPPORT
from pictures import LABELS, blocks
from PIL import Image

from retinasdk import ModelSpec
from retinasdk.tensorrt.engine_info import EngineInfo

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc to see when to begin")
LINE = {signal.SIGINT: "retinasdk: stopped by Ctrl-C\n", signal.SIGTERM: "retinasdk: stopped by SIGTERM\n"}
LIMIT_S = 60  # for a busy machine; the command itself allows two seconds

PATHS = {"PYTHONPATH": os.pathsep.join([str(SUPPORT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)])}
OVER_STAND_INS = """
import os
os.environ["RETINASDK_GPU_TESTS"] = "fake"
from fakes import fake_gpu
from retinasdk.cli.process import run
with fake_gpu():
    run()
"""


@dataclass(frozen=True)
class World:
    """What the commands work on.

    Attributes:
        model: The tiny network.
        foreign: The same without a spec.
        photos: A folder of images.
        large: One large image.
        annotations: A COCO file of the images.
    """

    model: Path
    foreign: Path
    photos: Path
    large: Path
    annotations: Path


@pytest.fixture(scope="module")
def world(model_path: Path, network: onnx.ModelProto, tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    photos = folder / "photos"
    photos.mkdir()
    images, boxes = [], []
    for number in range(60):
        Image.fromarray(blocks(90, 120, seed=number % 9)).save(photos / f"{number:03d}.png")
        images.append({"id": number + 1, "file_name": f"{number:03d}.png", "width": 120, "height": 90})
        box = {"id": number + 1, "image_id": number + 1, "category_id": number % 3 + 1, "iscrowd": 0}
        boxes.append({**box, "bbox": [10, 10, 40, 30], "area": 1200})
    categories = [{"id": number, "name": label} for number, label in enumerate(LABELS, 1)]
    annotations = folder / "truth.json"
    annotations.write_text(json.dumps({"images": images, "annotations": boxes, "categories": categories}))
    large = folder / "large.png"
    Image.fromarray(np.tile(blocks(500, 500, seed=3), (4, 4, 1))).save(large)
    foreign = onnx.ModelProto()
    foreign.CopyFrom(network)
    del foreign.metadata_props[:]
    onnx.save(foreign, folder / "foreign.onnx")
    return World(model_path, folder / "foreign.onnx", photos, large, annotations)


def detect(world: World) -> list[Any]:
    return ["detect", world.photos, "--model", world.model, "--device", "cpu", "--out", "drawn", "--json", "found.json"]


def tiles(world: World) -> list[Any]:
    return ["detect", world.large, "--model", world.model, "--device", "cpu", "--tiles", "160", "--json", "found.json"]


def live(world: World) -> list[Any]:
    outputs = ["--save", "marked.mp4", "--jsonl", "found.jsonl", "--csv", "found.csv", "--web", "0"]
    return ["live", world.photos, "--model", world.model, "--device", "cpu", *outputs]


def evaluate(world: World) -> list[Any]:
    truth = ["--images", world.photos, "--annotations", world.annotations]
    return ["eval", "--model", world.model, "--device", "cpu", *truth, "--json", "ap.json", "--report", "report"]


def bench(world: World) -> list[Any]:
    return ["bench", world.model, "--device", "cpu", "--json", "bench.json"]


def quantize(world: World) -> list[Any]:
    return ["quantize", world.model, "-o", "small.onnx", "--images", world.photos, "--min-agreement", "0"]


def convert(world: World) -> list[Any]:
    rules = ["--flavour", "torchvision", "--labels", ",".join(LABELS)]
    return ["import", world.foreign, "-o", "mine.onnx", *rules]


def verify(world: World) -> list[Any]:
    return ["verify", world.model, "--against", world.model, "--device", "cpu", "--json", "verified.json"]


def build(world: World) -> list[Any]:
    return ["build", world.model, "-o", "tiny.engine", "--precision", "fp32"]


COMMANDS: list[Callable[[World], list[Any]]] = [
    *(detect, tiles, live, evaluate, bench),
    *(quantize, convert, verify, build),
]


def start(world: World, command: Callable[[World], list[Any]], folder: Path) -> subprocess.Popen[str]:
    """Starts a command, and returns when it handles signals."""
    program = ["-m", "retinasdk"]
    if command is build:
        emulated_folder()  # What is interrupted is not the compiler, which would leave files behind.
        (folder / "run.py").write_text(OVER_STAND_INS)
        program = ["run.py"]
    process = subprocess.Popen(
        [sys.executable, *program, *map(str, command(world))],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "RETINASDK_CACHE": str(folder / "cache"), "TMPDIR": str(folder / "tmp"), **PATHS},
    )
    until = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < until and not handles(process.pid, signal.SIGTERM):
        time.sleep(0.001)
    return process


def handles(pid: int, number: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    caught = next((line for line in status.splitlines() if line.startswith("SigCgt:")), "SigCgt: 0")
    return bool(int(caught.split()[1], 16) >> (number - 1) & 1)


def check_whole(folder: Path) -> None:
    """Checks that each file that is there is complete, and that nothing temporary is."""
    assert list((folder / "tmp").iterdir()) == []
    for path in folder.rglob("*"):
        if path.is_dir() or path.name == "run.py" or "cache" in path.parts:
            continue
        assert not path.name.startswith("."), path
        content = path.read_bytes()
        if path.suffix == ".json":
            json.loads(content)
        elif path.suffix in (".jsonl", ".csv"):
            assert content.endswith(b"\n")
            assert path.suffix == ".csv" or all(json.loads(line) for line in content.splitlines())
        elif path.suffix in (".png", ".jpg"):
            with Image.open(path) as image:
                image.load()
        elif path.suffix == ".mp4":
            decode(path)
        elif path.suffix == ".onnx":
            onnx.checker.check_model(onnx.load(path))
            ModelSpec.load(path.with_suffix(".json"))
        elif path.suffix == ".engine":
            EngineInfo.load(path)
        else:
            assert path.suffix == ".html", path
            assert content.rstrip().endswith(b"</html>")


def decode(path: Path) -> None:
    """A film of which no fragment is complete yet has no frame."""
    av = pytest.importorskip("av", reason="needs PyAV (retinasdk[video])")
    with av.open(str(path)) as container:
        for _ in container.decode(video=0):
            pass


def interrupt(world: World, command: Callable[[World], list[Any]], folder: Path, number: int, delay_s: float) -> bool:
    """Runs a command, sends it a signal, and checks how it ended. Returns whether it was still running."""
    (folder / "tmp").mkdir(parents=True)
    with start(world, command, folder) as process:
        time.sleep(delay_s)
        process.send_signal(number)
        try:
            _, err = process.communicate(timeout=LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            pytest.fail(f"{command.__name__} still runs {LIMIT_S} s after signal {number} at {delay_s:.3f} s")
    told = [line for line in err.splitlines(keepends=True) if not line.startswith("open http://")]
    place = f"{command.__name__}, signal {number} at {delay_s:.3f} s: {err}"
    check_whole(folder)
    # Python gives the signals back to the system when it has done everything and takes itself apart.
    if process.returncode in (0, -number):
        assert told in ([], [LINE[signal.Signals(number)]]), place
        return False
    assert (process.returncode, told) == (128 + number, [LINE[signal.Signals(number)]]), place
    return True


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("command", [detect, live])
def test_in_the_first_second(
    world: World, tmp_path: Path, command: Callable[[World], list[Any]], number: signal.Signals
) -> None:
    for turn, delay_s in enumerate((0.0, 0.1, 0.5)):
        assert interrupt(world, command, tmp_path / str(turn), number, delay_s)


@pytest.mark.heavy
@pytest.mark.parametrize("command", COMMANDS)
def test_at_any_moment(world: World, tmp_path: Path, command: Callable[[World], list[Any]]) -> None:
    generator = random.Random(command.__name__)
    longest_s, stopped, turns = 3.0, 0, 20 if os.environ.get("RETINASDK_ALL_FAULTS") else 6
    for turn in range(turns):
        number = (signal.SIGINT, signal.SIGTERM)[turn % 2]
        delay_s = generator.uniform(0, longest_s)
        if interrupt(world, command, tmp_path / str(turn), number, delay_s):
            stopped += 1
        else:
            longest_s = min(longest_s, delay_s)
    assert stopped >= turns // 4
