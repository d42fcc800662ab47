"""The element `retinadetect` in real pipelines of the distribution's GStreamer, as processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from paths import PHOTOS, SUPPORT
from people_film import COUNT, write_people_film

import retinasdk
from retinasdk import Detector, _native
from retinasdk.cli.main import main

REQUIRED = os.environ.get("RETINASDK_REQUIRE_GSTREAMER") == "1"
SYSTEM_PYTHON = "/usr/bin/python3"
NEEDS = f"""
import sys, gi
assert sys.version_info[:2] == {sys.version_info[:2]}, "another Python"
for name in ("Gst", "GstApp", "GstVideo"):
    gi.require_version(name, "1.0")
from gi.repository import Gst
Gst.init(None)
assert Gst.Registry.get().find_plugin("python"), "no loader"
assert all(map(Gst.ElementFactory.find, ("jpegdec", "videoscale", "qtdemux", "openh264dec"))), "elements missing"
"""


def has_gstreamer() -> bool:
    if not Path(SYSTEM_PYTHON).exists():
        return False
    return subprocess.run([SYSTEM_PYTHON, "-c", NEEDS], capture_output=True, check=False).returncode == 0


if not REQUIRED and not has_gstreamer():
    pytest.skip(
        "needs GStreamer for this version of Python: apt install gstreamer1.0-tools gstreamer1.0-python3-plugin-loader "
        "python3-gst-1.0 gir1.2-gst-plugins-base-1.0 gstreamer1.0-plugins-good gstreamer1.0-plugins-bad",
        allow_module_level=True,
    )

pytestmark = pytest.mark.heavy
PHOTO = f"filesrc location={PHOTOS / 'people' / 'astronaut.jpg'} ! jpegdec ! videoconvert ! videoscale"
SMALL = "video/x-raw,width=326,height=246"  # rows of 978 bytes in RGB, which GStreamer fills up to 980
OUT = "retinadetect name=detect {} ! appsink name=out sync=false"


@pytest.fixture(scope="module")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plugins")
    assert main(["gstreamer", "install", "--folder", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def environment(plugins: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Of processes: with the element, and a home folder of their own, where GStreamer keeps what it knows."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "GST_"))}
    return {**clean, "GST_PLUGIN_PATH": str(plugins), "HOME": str(tmp_path_factory.mktemp("home"))}


def play(environment: dict[str, str], pipelines: Sequence[str], *options: str) -> list[list[dict[str, Any]]]:
    """What happened in each pipeline."""
    command = [SYSTEM_PYTHON, str(SUPPORT / "gst_pipeline.py"), *pipelines, *options]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    entries = [json.loads(line) for line in done.stdout.splitlines()]
    return [[entry for entry in entries if entry["pipeline"] == number] for number in range(len(pipelines))]


def found_in(entries: list[dict[str, Any]]) -> list[Any]:
    return [entry["found"] for entry in entries if entry.get("message") == "found"]


def frames_of(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [entry for entry in entries if "frame" in entry]


@pytest.fixture(scope="module")
def people() -> Detector:
    return Detector("people", device="cpu")


# -- pixels ------------------------------------------------------------------------------------------------------------


def pixels(data: bytes, kind: str, height: int, width: int) -> npt.NDArray[np.uint8]:
    """The RGB picture in the bytes of a frame, by the sizes that GStreamer documents: rows are multiples of 4 bytes."""

    def rows(start: int, count: int, row: int) -> tuple[npt.NDArray[np.uint8], int]:
        stride = -(-row // 4) * 4
        return np.frombuffer(data, np.uint8, count * stride, start).reshape(count, stride)[
            :, :row
        ], start + count * stride

    if kind in ("RGB", "BGR"):
        packed = rows(0, height, 3 * width)[0].reshape(height, width, 3)
        return packed if kind == "RGB" else packed[..., ::-1]
    if len(kind) == 4 and kind.upper().strip("RGBAX") == "":
        packed = rows(0, height, 4 * width)[0].reshape(height, width, 4)
        return packed[..., [kind.index(letter) for letter in "RGB"]]
    sample = 2 if kind.startswith("P010") else 1
    luma, end = rows(0, height, width * sample)
    if kind == "GRAY8":
        return np.repeat(luma[..., None], 3, axis=2)
    if kind in ("NV12", "NV21", "P010_10LE"):
        pairs = rows(end, height // 2, width * sample)[0].copy().view(f"u{sample}").reshape(height // 2, width // 2, 2)
        pairs = pairs[..., ::-1] if kind == "NV21" else pairs
    else:
        first, end = rows(end, height // 2, width // 2)
        second, _ = rows(end, height // 2, width // 2)
        pairs = np.stack([first, second] if kind == "I420" else [second, first], axis=-1)
    luma = luma.copy().view(f"u{sample}")
    return _native.yuv_to_rgb(luma, np.ascontiguousarray(pairs), matrix="bt709", full_range=False)


KINDS = ("RGB", "BGRx", "ABGR", "GRAY8", "NV12", "NV21", "I420", "YV12", "P010_10LE")


def test_boxes_are_the_detectors(environment: dict[str, str], people: Detector, tmp_path: Path) -> None:
    caps = {kind: f"{SMALL},format={kind}" + ("" if "R" in kind else ",colorimetry=bt709") for kind in KINDS}
    pipelines = [f"{PHOTO} ! {text} ! {OUT.format('score=0.4 device=cpu')}" for text in caps.values()]
    for number, entries in enumerate(play(environment, pipelines, "--keep", str(tmp_path / "frame"))):
        image = pixels((tmp_path / f"frame{number}").read_bytes(), KINDS[number], 246, 326)
        expected = people(np.ascontiguousarray(image), score_threshold=0.4)
        assert found_in(entries) == [expected.to_dicts()], KINDS[number]
        assert len(expected) > 0
        (frame,) = frames_of(entries)
        assert (frame["format"], frame["size"]) == (KINDS[number], [246, 326])
        for region, item in zip(frame["regions"], expected, strict=True):
            assert [region[name] for name in ("x1", "y1", "x2", "y2")] == list(item.xyxy)
            assert (region["type"], region["score"], region["class-id"]) == ("person", item.score, 0)
            x, y, width, height = region["region"]
            assert (x, y) == tuple(max(0, int(np.floor(edge))) for edge in item.xyxy[:2])
            assert x + width == min(326, int(np.ceil(item.xyxy[2])))
            assert y + height == min(246, int(np.ceil(item.xyxy[3])))


def test_rows_with_more_bytes_than_pixels(environment: dict[str, str]) -> None:
    pipeline = f"{PHOTO} ! {SMALL},format=RGB ! {OUT.format('score=0.4')}"
    (usual,), (padded,) = (play(environment, [pipeline], *options) for options in ([], ["--pad", "46"]))
    assert found_in(usual) == found_in(padded)
    assert len(found_in(usual)[0]) > 0


def test_boxes_are_drawn(environment: dict[str, str], people: Detector, tmp_path: Path) -> None:
    kinds = ("BGR", "ABGR")
    pipelines = [f"{PHOTO} ! {SMALL},format={kind} ! {OUT.format('draw=true')}" for kind in kinds]
    plain = [f"{PHOTO} ! {SMALL},format={kind} ! identity name=detect ! appsink name=out sync=false" for kind in kinds]
    play(environment, [*pipelines, *plain], "--keep", str(tmp_path / "frame"))
    for number, kind in enumerate(kinds):
        drawn, before = (pixels((tmp_path / f"frame{i}").read_bytes(), kind, 246, 326) for i in (number, number + 2))
        image = np.ascontiguousarray(before)
        np.testing.assert_array_equal(drawn, np.asarray(people(image).draw()))
        assert (drawn != before).any()


# -- a film, and what pipelines do with it -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = write_people_film(tmp_path_factory.mktemp("film") / "people.mp4")
    return f"filesrc location={path} ! qtdemux ! h264parse ! openh264dec ! videoconvert ! video/x-raw,format=RGB"


def test_a_film_is_tracked_and_played_again(environment: dict[str, str], film: str) -> None:
    (entries,) = play(environment, [f"{film} ! {OUT.format('track=true score=0.5')}"], "--seek")
    found = found_in(entries)
    assert len(found) == 2 * COUNT
    for half, numbers in ((found[:COUNT], {0, 1}), (found[COUNT:], {2, 3})):
        assert {item["track"] for items in half for item in items} == {None, *numbers}
        assert {item["track"] for item in half[0]} == {None}
        for number in numbers:  # one above the other, all the time
            tops = [item["xyxy"][1] > 110 for items in half for item in items if item["track"] == number]
            assert len(set(tops)) == 1
    frame, message = frames_of(entries)[5], [entry for entry in entries if entry.get("message") == "found"][5]
    assert [region.get("track") for region in frame["regions"]] == [item["track"] for item in found[5]]
    if frame["analytics"] is not None:  # from GStreamer 1.24 on
        regions = [[item["type"], *item["region"], item["score"], item.get("track")] for item in frame["regions"]]
        assert frame["analytics"] == regions
    assert message["timestamp"] == frame["frame"]
    assert message["running-time"] == message["stream-time"] == 500_000_000
    assert (message["width"], message["height"]) == (400, 264)
    assert entries[-1]["message"] == "eos"
    if entries[-1]["version"] < [1, 26]:
        assert entries[-1]["latency"] > 0


def test_every_third_frame(environment: dict[str, str], film: str) -> None:
    (entries,) = play(environment, [f"{film} ! {OUT.format('every=3 post-messages=false')}"])
    assert not found_in(entries)
    has_boxes = [bool(frame["regions"]) for frame in frames_of(entries)]
    assert has_boxes == [number % 3 == 0 for number in range(COUNT)]


def test_late_frames_are_dropped_if_wanted(environment: dict[str, str]) -> None:
    """As if the sink said after the first frame that it is 0.65 s late: those up to that time are of no use."""
    source = "videotestsrc num-buffers=12 ! video/x-raw,width=64,height=48,framerate=10/1,format=RGB"
    pipelines = [f"{source} ! {OUT.format(f'qos={value}')}" for value in ("true", "false")]
    with_qos, without = play(environment, pipelines, "--late", "0.65")
    times = [frame["frame"] / 1e8 for frame in frames_of(with_qos)]
    assert len(times) == len(found_in(with_qos)) < 12
    dropped = sorted(set(range(12)) - set(map(round, times)))
    assert dropped[:6] == list(range(1, 7))
    assert dropped == list(range(1, 1 + len(dropped)))
    assert max(entry["dropped"] for entry in with_qos if entry.get("message") == "qos") == len(dropped)
    assert len(frames_of(without)) == 12


def test_the_size_changes(environment: dict[str, str]) -> None:
    caps = [f"video/x-raw,width={width},height={height},format=RGB" for width, height in ((326, 246), (200, 150))]
    branches = " ".join(f"{PHOTO} ! {text} ! c." for text in caps)
    alone = [f"{PHOTO} ! {text} ! {OUT.format('score=0.3')}" for text in caps]
    joined, *single = play(environment, [f"concat name=c ! {OUT.format('score=0.3')} {branches}", *alone])
    assert found_in(joined) == [items for entries in single for items in found_in(entries)]
    assert len(found_in(joined)) == 2


def test_it_starts_again(environment: dict[str, str]) -> None:
    (entries,) = play(environment, [f"{PHOTO} ! {OUT.format('')}"], "--times", "3")
    found = found_in(entries)
    assert len(found) == 3
    assert found[0] == found[1] == found[2] != []
    assert [entry["message"] for entry in entries if "message" in entry] == ["found", "eos"] * 3


# -- errors ------------------------------------------------------------------------------------------------------------


def test_what_is_wrong_is_told_on_the_bus(environment: dict[str, str]) -> None:
    source = "videotestsrc num-buffers=3 ! videoconvert"
    cases = {
        "model=peopel": "did you mean 'people'?",
        "classes=person,cat": "unknown class 'cat'",
        "score=high": "score must be a number such as 0.5, or person=0.5,dog=0.3; got 'high'",
        "score=7": "score must be a number from 0 to 1, got 7.0",
        "tiles=10x20x30": "tiles must be pixels such as 640, 480x640",
        "device=cuda": "device='cpu'",
    }
    for text, entries in zip(
        cases.values(), play(environment, [f"{source} ! {OUT.format(item)}" for item in cases]), strict=True
    ):
        assert [entry["message"] for entry in entries] == ["error"], entries
        assert text in entries[0]["text"]
        assert entries[0]["source"] == "detect"


def test_colors_that_are_not_supported(environment: dict[str, str]) -> None:
    source = "videotestsrc num-buffers=3 ! video/x-raw,format=NV12,width=64,height=48,colorimetry=smpte240m"
    (entries,) = play(environment, [f"{source} ! {OUT.format('')}"])
    assert entries[0]["message"] == "error"
    assert "NV12 frames with the colors smpte240m are not supported; convert them to RGB before" in entries[0]["text"]


def launch(environment: dict[str, str], pipeline: str) -> subprocess.CompletedProcess[str]:
    command = ["gst-launch-1.0", "-m", *pipeline.split()]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def test_gst_launch(environment: dict[str, str]) -> None:
    done = launch(environment, f"{PHOTO} ! retinadetect model=people ! fakesink")
    assert done.returncode == 0
    assert '\\"label\\":\\ \\"person\\"' in done.stdout
    done = launch(environment, f"{PHOTO} ! retinadetect model=peopel ! fakesink")
    assert done.returncode != 0
    assert "did you mean 'people'?" in done.stderr
    assert "Traceback" not in done.stderr
    # Colors that cannot be drawn on are refused when the elements are linked.
    done = launch(environment, f"{PHOTO} ! video/x-raw,format=NV12 ! retinadetect draw=true ! fakesink")
    assert done.returncode == 1
    assert "can't handle caps" in done.stderr


def test_another_python(environment: dict[str, str], plugins: Path, tmp_path: Path) -> None:
    file = plugins / "python" / "retinadetect.py"
    here = f"VERSION = {sys.version_info[:2]}"
    assert here in file.read_text()
    (tmp_path / "python").mkdir()
    (tmp_path / "python" / file.name).write_text(file.read_text().replace(here, "VERSION = (3, 8)"))
    done = launch({**environment, "GST_PLUGIN_PATH": str(tmp_path)}, "videotestsrc ! retinadetect ! fakesink")
    assert done.returncode != 0
    ours = "{}.{}".format(*sys.version_info)
    assert f"is installed for Python 3.8 ({sys.prefix}), but GStreamer runs Python {ours}" in done.stderr
    assert f"/usr/bin/python{ours} -m venv ~/retinasdk-gst" in done.stderr


def test_a_package_is_missing(environment: dict[str, str], plugins: Path, tmp_path: Path) -> None:
    file = plugins / "python" / "retinadetect.py"
    (tmp_path / "python").mkdir()
    (tmp_path / "python" / file.name).write_text(file.read_text() + "\nsys.modules['supervision'] = None\n")
    done = launch(
        {**environment, "GST_PLUGIN_PATH": str(tmp_path)}, "videotestsrc ! retinadetect track=true ! fakesink"
    )
    assert done.returncode != 0
    assert f"pip install 'retinasdk[supervision]' (in the environment {sys.prefix})" in done.stderr


# -- making it known ---------------------------------------------------------------------------------------------------


def test_a_program_registers_it(environment: dict[str, str], tmp_path: Path) -> None:
    packages = [str(Path(retinasdk.__file__).parents[1]), *(path for path in sys.path if path.endswith("-packages"))]
    alone = {**environment, "GST_PLUGIN_PATH": str(tmp_path)}
    pipeline = f"{PHOTO} ! {OUT.format('')}"
    (entries,) = play(alone, [pipeline], "--register", ":".join(packages))
    assert [item["label"] for item in found_in(entries)[0]] == ["person"]
    (again,) = play(environment, [pipeline], "--register", ":".join(packages))  # it is known to the loader, too
    assert found_in(again) == found_in(entries)


def test_the_command_installs_and_removes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert main(["gstreamer", "remove"]) == 0
    assert "there is no element in" in capsys.readouterr().out
    assert main(["gstreamer", "check"]) == 2
    assert "GStreamer does not find the element" in capsys.readouterr().err
    assert main(["gstreamer", "install"]) == 0
    printed = capsys.readouterr().out
    assert f"written {tmp_path}/.gstreamer-1.0/plugins/python/retinadetect.py" in printed
    assert "RetinaNet object detection" in printed
    assert "GST_PLUGIN_PATH" not in printed
    assert main(["gstreamer", "remove"]) == 0
    assert not (tmp_path / ".gstreamer-1.0/plugins/python/retinadetect.py").exists()


def test_without_gstreamer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["gstreamer", "install", "--folder", str(tmp_path)]) == 2
    assert "apt install gstreamer1.0-tools" in capsys.readouterr().err
    assert (tmp_path / "python" / "retinadetect.py").exists()
