"""`retinasdk live`: from video to JSON Lines, marked video and a summary, on a terminal, in a log and in trouble."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import signal
import struct
import subprocess
import sys
import termios
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from paths import PHOTOS
from pictures import blocks
from PIL import Image as PillowImage

from retinasdk import Detector, Suppression, Tiles, list_models
from retinasdk.cli.main import main
from retinasdk.live import Metrics, Reconnect, StreamError, stream
from retinasdk.live.video_writer import VideoWriter
from retinasdk.live.zones import Zones

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def gif(tmp_path: Path) -> Path:
    """12 pictures of 120 x 90, 20 ms apart, of few colours, so that GIF holds them exactly."""
    pictures = [PillowImage.fromarray(blocks(90, 120, seed=number)) for number in range(12)]
    path = tmp_path / "blocks.gif"
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=20)
    return path


@pytest.fixture
def run(model_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """run(...) calls `retinasdk live` in this process, with the tiny model, and gives status, stdout, stderr."""

    def call(*arguments: str | Path) -> tuple[int, str, str]:
        status = main(["live", *map(str, arguments), "--model", str(model_path), "--device", "cpu"])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


def lines_of(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_json_lines_are_what_the_detector_gives(run: Run, gif: Path, tmp_path: Path, detector: Detector) -> None:
    status, out, err = run(gif, "--jsonl", tmp_path / "found.jsonl")
    assert (status, err) == (0, "")
    entries = lines_of(tmp_path / "found.jsonl")
    assert [entry["index"] for entry in entries] == list(range(12))  # files: all frames, whatever it takes
    assert [entry["time_s"] for entry in entries] == pytest.approx([0.02 * number for number in range(12)])
    with PillowImage.open(gif) as image:
        for entry in entries:
            image.seek(entry["index"])
            assert entry["detections"] == detector(image.convert("RGB")).to_dicts()
            assert (entry["width"], entry["height"], entry["error"]) == (120, 90, None)
            assert entry["age_s"] > 0
    assert sum(len(entry["detections"]) for entry in entries) > 0
    assert out.splitlines()[0] == f"{gif}: 12 frames captured, 12 processed, 0 dropped, 0 failed"
    labels = Counter(item["label"] for entry in entries for item in entry["detections"])
    found = ", ".join(f"{count} x {label}" for label, count in labels.most_common())
    with_any = sum(bool(entry["detections"]) for entry in entries)
    assert out.splitlines()[1] == f"detected {found}, in {with_any} of 12 frames"
    assert [line.split()[0] for line in out.splitlines()[2:-1]] == ["stage", *Metrics.STAGES]
    assert re.search(r"holds the rate back: .*\d+\.\d ms", out.splitlines()[-1])


def test_json_lines_to_standard_output(run: Run, gif: Path) -> None:
    status, out, err = run(gif, "--jsonl", "-", "--max-frames", "3", "--classes", "dog", "--score", "0.1")
    assert status == 0
    entries = [json.loads(line) for line in out.splitlines()]
    assert len(entries) == 3
    assert {item["label"] for entry in entries for item in entry["detections"]} == {"dog"}
    assert "frames captured" in err


def test_what_is_asked_of_the_detector_reaches_it(run: Run, gif: Path, tmp_path: Path, model_path: Path) -> None:
    target = tmp_path / "found.jsonl"
    tiles = ("--tiles", "60x80", "--overlap", "20", "--whole-image")
    rules = ("--suppression", "fusion", "--iou", "0.4", "--max-per-class", "3")
    filters = ("--score", "person=0.2,dog=0.3", "--ignore", "0,0,40,40", "--classes", "person,dog")
    assert run(gif, *tiles, *rules, *filters, "--jsonl", target)[0] == 0
    detector = Detector(model_path, suppression=Suppression("fusion", iou_threshold=0.4, max_per_class=3))
    with PillowImage.open(gif) as image:
        for entry in lines_of(target):
            image.seek(entry["index"])
            found = detector(
                image.convert("RGB"),
                tiles=Tiles((60, 80), 20, whole_image=True),
                score_threshold={"person": 0.2, "dog": 0.3},
                ignore=[(0, 0, 40, 40)],
                classes=["person", "dog"],
            )
            assert entry["detections"] == found.to_dicts()
            assert len(found) > 0


def test_a_reader_that_leaves_ends_it_quietly(gif: Path, model_path: Path) -> None:
    command = [sys.executable, "-m", "retinasdk.cli.main", "live", str(gif), "--model", str(model_path), "--jsonl", "-"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, text=True, cwd=gif.parent) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert json.loads(process.stdout.readline())["index"] == 0
        process.stdout.close()
        err = process.stderr.read()
    assert process.returncode == 141
    assert "error" not in err.lower()


def test_policy_reaches_the_stream(run: Run, gif: Path, tmp_path: Path) -> None:
    """Under `latest` the GIF runs at its own speed, so at 4 frames a second there is one for each quarter of it."""
    target = tmp_path / "found.jsonl"
    assert run(gif, "--policy", "latest", "--max-fps", "4", "--jsonl", target)[0] == 0
    assert len(lines_of(target)) <= 3
    assert lines_of(target)[-1]["counters"]["dropped"] > 0


def test_marked_video(run: Run, gif: Path, tmp_path: Path, detector: Detector) -> None:
    av = pytest.importorskip("av", reason="needs PyAV (retinasdk[video])")
    target = tmp_path / "marked.mp4"
    assert run(gif, "--save", target)[0] == 0
    with av.open(str(target)) as container:
        frames = list(container.decode(video=0))
    assert [frame.time for frame in frames] == pytest.approx([0.02 * number for number in range(12)], abs=1e-3)
    with PillowImage.open(gif) as image:
        image.seek(4)
        plain = np.asarray(image.convert("RGB")).astype(int)
        marked = np.asarray(detector(image.convert("RGB")).draw(image.convert("RGB"))).astype(int)
    got = frames[4].to_ndarray(format="rgb24").astype(int)
    assert np.abs(got - marked).mean() < 0.5 * np.abs(got - plain).mean()


def test_the_bundled_model_finds_the_person(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From an encoded video of a photo that is shown larger and larger, through decoder, detector and JSON."""
    av = pytest.importorskip("av", reason="needs PyAV (retinasdk[video])")
    photo = PHOTOS / "people" / "grace_hopper.jpg"
    if not photo.exists() or "people" not in [model.name for model in list_models()]:
        pytest.skip("needs the bundled model `people` and a photo in examples/photos")
    picture = PillowImage.open(photo).convert("RGB")
    with av.open(str(tmp_path / "walk.mp4"), "w") as container:
        output = container.add_stream("libx264", rate=10)
        output.width, output.height, output.pix_fmt = 480, 480, "yuv420p"
        for number in range(6):
            canvas = PillowImage.new("RGB", (480, 480), (90, 100, 110))
            canvas.paste(picture.resize((300 + 20 * number, 360 + 20 * number)), (20, 0))
            container.mux(output.encode(av.VideoFrame.from_image(canvas)))
        container.mux(output.encode(None))
    status = main(["live", str(tmp_path / "walk.mp4"), "--jsonl", str(tmp_path / "found.jsonl"), "--device", "cpu"])
    capsys.readouterr()
    assert status == 0
    entries = lines_of(tmp_path / "found.jsonl")
    assert len(entries) == 6
    best = [entry["detections"][0] for entry in entries if entry["detections"]]
    assert len(best) >= 4
    assert {item["label"] for item in best} == {"person"}
    for item in best:
        x1, y1, x2, y2 = item["xyxy"]
        assert (x2 - x1) * (y2 - y1) > 100 * 100
        assert -5 <= x1 < x2 <= 485
        assert -5 <= y1 < y2 <= 485


def test_ctrl_c_keeps_what_was_written(tmp_path: Path, model_path: Path) -> None:
    """Stopping a camera by Ctrl-C is no accident: whole lines, a whole video, the summary, status 130."""
    av = pytest.importorskip("av", reason="needs PyAV (retinasdk[video])")
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(500):
        PillowImage.fromarray(blocks(90, 120, seed=number % 7)).save(folder / f"{number:04d}.bmp")
    lines, video = tmp_path / "found.jsonl", tmp_path / "marked.mp4"
    program = [
        sys.executable,
        "-W",
        "error",
        "-m",
        "retinasdk.cli.main",
        "live",
        str(folder),
        "--model",
        str(model_path),
    ]
    options = ["--jsonl", str(lines), "--save", str(video), "--device", "cpu"]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    # Elsewhere: the source tree lacks the built module.
    with subprocess.Popen([*program, *options], cwd=tmp_path, **pipes) as process:
        until = time.monotonic() + 60
        while not (lines.exists() and lines.read_text().count("\n") > 5) and time.monotonic() < until:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "retinasdk: stopped by Ctrl-C\n")
    count = len(lines_of(lines))
    assert 5 < count < 500
    assert "frames captured" in out
    with av.open(str(video)) as container:
        assert abs(sum(1 for _ in container.decode(video=0)) - count) <= 1
    assert not [item for item in tmp_path.iterdir() if item.name.startswith(".")]


def test_several_sources_give_what_single_calls_give(gif: Path, tmp_path: Path, detector: Detector) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(5):
        PillowImage.fromarray(blocks(70, 100 + 10 * number, seed=20 + number)).save(folder / f"{number}.png")
    sizes = []

    def noting(images: Any) -> Any:
        sizes.append(len(images))
        if max(sizes) == 1:
            time.sleep(0.1)  # Until both sources have a frame, however busy the machine is.
        return detector(images)

    with stream({"gif": gif, "photos": folder}, noting, policy="all") as frames:
        got = list(frames)
    assert [frame.index for frame in got if frame.source == "gif"] == list(range(12))
    assert [frame.index for frame in got if frame.source == "photos"] == list(range(5))
    assert max(sizes) == 2
    assert sum(len(frame.detections or ()) for frame in got) > 0
    for frame in got:
        assert frame.detections == detector(frame.image)


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs a pseudo-terminal")
def test_progress_of_a_recording(gif: Path, model_path: Path) -> None:
    """On a terminal and in a log, but not in work of less than two seconds."""
    environment = {**os.environ, "RETINASDK_PROGRESS": "1"}
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    program = [
        sys.executable,
        "-c",
        "import sys; from retinasdk.cli import progress; progress._DELAY_S, progress._TICK_S = 0.0, 0.001; "
        "from retinasdk.cli.main import main; sys.exit(main())",
        "live",
        str(gif),
        "--model",
        str(model_path),
        "--device",
        "cpu",
    ]
    result = subprocess.run(
        program, cwd=gif.parent, stdout=subprocess.PIPE, stderr=theirs, env=environment, check=False
    )
    os.close(theirs)
    text = b""
    with contextlib.suppress(OSError):  # so Linux says that there is no more
        while part := os.read(ours, 10_000):
            text += part
    os.close(ours)
    assert result.returncode == 0
    assert re.search(r"\rlive: \[#+ *\] \d+%, \d+ frames, age", text.decode())
    assert b"frames captured" in result.stdout
    logged = subprocess.run(program, cwd=gif.parent, capture_output=True, text=True, env=environment, check=False)
    assert re.search(r"^retinasdk: live: \d+%, \d+ frames, age", logged.stderr, re.MULTILINE)
    assert "\r" not in logged.stderr
    silent = subprocess.run([*program, "--quiet"], cwd=gif.parent, capture_output=True, env=environment, check=False)
    assert silent.stderr == b""


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs a pseudo-terminal")
def test_escape_sequences_in_csv_reach_programs_but_no_terminal(gif: Path, model_path: Path) -> None:
    name = "\x1b[31m.gif"
    gif.rename(gif.with_name(name))
    program = [sys.executable, "-m", "retinasdk", "live", name, "--model", str(model_path), "--device", "cpu"]
    program += ["--csv", "-", "--max-frames", "1"]
    ours, theirs = os.openpty()
    shown = subprocess.run(program, cwd=gif.parent, stdout=theirs, stderr=subprocess.PIPE, check=False)
    os.close(theirs)
    text = os.read(ours, 100_000).decode()
    os.close(ours)
    assert shown.returncode == 0
    assert "\\x1b[31m.gif,0," in text
    assert "\x1b" not in text + shown.stderr.decode()
    piped = subprocess.run(program, cwd=gif.parent, capture_output=True, check=False)
    assert b"\n\x1b[31m.gif,0," in piped.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("{tmp}/none.mp4", "none.mp4: no such file or folder; a source is a video file"),
        ("{tmp}/empty", "empty: the folder contains no images"),
        ("{tmp}/notes.txt", "notes.txt: cannot be opened as video: Invalid data"),
        ("{gif} --policy newest", "--policy must be 'latest', 'all', 'bounded:N' or 'bounded:N:newest', got 'newest'"),
        ("{gif} --max-fps 0", "--max-fps must be at least 0.001, got 0.0"),
        ("{gif} --max-fps 1e-300", "--max-fps must be at least 0.001, got 1e-300"),
        ("{gif} --max-fps nan", "--max-fps must be"),
        ("{gif} --max-fps -5", "--max-fps must be at least 0.001, got -5.0"),
        ("{gif} --deadline -1", "--deadline must be above 0, got -1.0"),
        ("{gif} --max-frames 0", "--max-frames must be at least 1, got 0"),
        ("{gif} --jsonl {tmp}", "this is a folder; give the name of the file to write"),
        ("{gif} --save {tmp}/none/a.mp4", "none: no such folder to write to"),
        ("{gif} --save {gif}", "blocks.gif: --save would replace an input of this command"),
        ("{gif} --save {tmp}/out.avi", "out.avi: video cannot be written with the suffix '.avi'"),
        ("{gif} --jsonl {gif}", "blocks.gif: --jsonl would replace an input of this command"),
        ("{gif} --classes cat", "unknown class 'cat'"),
        ("", "required: SOURCE"),
    ],
)
def test_one_clear_line_for_whatever_goes_wrong(
    run: Run, gif: Path, tmp_path: Path, arguments: str, message: str
) -> None:
    pytest.importorskip("av", reason="needs PyAV (retinasdk[video])")
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("no video")
    before = gif.read_bytes()
    status, _, err = run(*arguments.format(tmp=tmp_path, gif=gif).split())
    assert status == 2
    assert err.startswith("retinasdk: error: ")
    assert message in err
    assert err.count("\n") == 1
    assert gif.read_bytes() == before


@pytest.mark.parametrize(
    "options", [("--policy", "newest"), ("--max-fps", "0"), ("--classes", "cat"), ("--score", "2")]
)
def test_bad_options_leave_old_files_alone(run: Run, gif: Path, tmp_path: Path, options: tuple[str, str]) -> None:
    old = tmp_path / "old.jsonl"
    old.write_text("kept")
    assert run(gif, "--jsonl", old, "--overwrite", *options)[0] == 2
    assert old.read_text() == "kept"


@pytest.mark.parametrize("option", ["--jsonl", "--csv"])
def test_an_old_file_stays_until_something_works(
    run: Run, gif: Path, tmp_path: Path, option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = tmp_path / "old.txt"
    old.write_text("kept")
    (tmp_path / "none.mp4").write_text("no video")
    assert "this file exists already; add --overwrite" in run(gif, option, old)[2]
    assert run(tmp_path / "none.mp4", option, old, "--overwrite")[0] == 2
    assert old.read_text() == "kept"
    assert run(gif, option, old, "--overwrite")[0] == 0
    assert "kept" not in old.read_text()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs a limit on the size of files")
@pytest.mark.parametrize("option", ["--jsonl", "--csv"])
def test_a_full_disk_leaves_whole_lines(gif: Path, model_path: Path, tmp_path: Path, option: str) -> None:
    import resource

    words = ["live", gif, "--model", model_path, "--device", "cpu", option, tmp_path / "out.txt", "--score"]
    words += ["0.3" if option == "--jsonl" else "0.02"]
    result = subprocess.run(
        [sys.executable, "-m", "retinasdk.cli.main", *map(str, words)],
        cwd=tmp_path,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (9001, 9001)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2
    assert "out.txt: cannot be written: File too large; the lines before are complete" in result.stderr
    text = (tmp_path / "out.txt").read_text()
    assert text.endswith("\n")
    assert 0 < len(text) <= 9001
    if option == "--jsonl":
        assert all(json.loads(line) for line in text.splitlines())


def test_attempts_reach_the_stream(run: Run, gif: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []

    def noting(*arguments: Any, reconnect: Any, **options: Any) -> Any:
        given.append(reconnect)
        return stream(*arguments, reconnect=reconnect, **options)

    monkeypatch.setattr("retinasdk.cli.commands.live.stream", noting)
    assert run(gif, "--max-frames", "1")[0] == 0
    assert run(gif, "--max-frames", "1", "--attempts", "7", "--first-attempts", "unlimited")[0] == 0
    assert given == [Reconnect(), Reconnect(attempts=7, first_attempts=None)]
    for wrong in ("-1", "1.5", "none"):
        status, _, err = run(gif, f"--attempts={wrong}")
        assert status == 2
        assert f"--attempts: '{wrong}' is no number of attempts; use 0, 1, 2 ... or unlimited" in err


def test_q_in_the_window_ends_it(run: Run, gif: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cv2 = pytest.importorskip("cv2", reason="needs OpenCV")
    shown: list[Any] = []
    monkeypatch.setattr(cv2, "namedWindow", lambda *_: None)
    monkeypatch.setattr(cv2, "imshow", lambda _, bgr: shown.append(bgr))
    monkeypatch.setattr(cv2, "waitKey", lambda _: ord("q") if len(shown) == 3 else -1)
    monkeypatch.setattr(cv2, "destroyAllWindows", lambda: shown.append("closed"))
    status, out, _ = run(gif, "--show", "--score", "1")
    assert status == 0
    assert "3 processed" in out
    assert shown[3:] == ["closed"]
    np.testing.assert_array_equal(shown[1], blocks(90, 120, seed=1)[..., ::-1])


def test_a_lost_camera_leaves_the_recording(tmp_path: Path) -> None:
    pytest.importorskip("av", reason="needs PyAV (retinasdk[video])")
    with contextlib.suppress(StreamError), VideoWriter(tmp_path / "a.mp4") as writer:
        writer.add(PillowImage.fromarray(blocks()), 0.0)
        raise StreamError("gone")
    assert [item.name for item in tmp_path.iterdir()] == ["a.mp4"]


def test_show_needs_windows(run: Run, gif: Path) -> None:
    cv2 = pytest.importorskip("cv2", reason="needs OpenCV")
    if "GUI:                           NONE" not in cv2.getBuildInformation():
        pytest.skip("this OpenCV has windows")
    status, _, err = run(gif, "--show")
    assert status == 2
    assert "--show needs an OpenCV that has windows" in err


def test_show_without_opencv_advises_one_with_windows(run: Run, gif: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    status, _, err = run(gif, "--show")
    assert status == 2
    assert err.rstrip().endswith("install it with: pip install 'opencv-python'")


def test_the_summary_says_when_nothing_was_found(run: Run, gif: Path) -> None:
    status, out, _ = run(gif, "--score", "1", "--max-frames", "4")
    assert status == 0
    assert out.splitlines()[1] == "detected nothing in 4 frames"


def test_the_example_of_a_zones_file_is_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["live", "--help"]) == 0
    text = capsys.readouterr().out.partition("example of a zones file")[2]
    example = text[text.index("{") : text.rindex("}") + 1]
    path = tmp_path / "zones.json"
    path.write_text(example)
    zones = Zones.load(path)
    assert [zone.name for zone in zones.zones] == ["table"]
    assert [line.name for line in zones.lines] == ["door"]
