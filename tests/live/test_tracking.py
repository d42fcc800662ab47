"""Tracking with the real package trackers: numbers stay with their objects, whose motion is known."""

from __future__ import annotations

import csv
import itertools
import json
import pickle
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from live_world import Camera, World, number_of
from paths import ROOT
from people_film import write_people_film

from retinasdk import Detections
from retinasdk.cli.main import main
from retinasdk.drawing import draw_detections
from retinasdk.live import ByteTrack, Frame, Reconnect, Tracker, stream
from retinasdk.live.counting import Counter
from retinasdk.live.ros import detection_array
from retinasdk.live.zones import Line, Zones

LABELS = ("person", "dog")
COLORS = np.array([(250, 30, 30), (30, 250, 30), (30, 30, 250), (250, 250, 30)], np.uint8)
DOOR = Zones(lines=(Line("door", (0.5, 0), (0.5, 1)),))  # seen along it, the right half of the image is at the left


@pytest.fixture(autouse=True)
def packages() -> None:
    pytest.importorskip("trackers", reason="needs the extra [supervision]")


def boxes(
    centers: Sequence[tuple[float, float]], scores: Sequence[float] | None = None, side: float = 30
) -> Detections:
    corners = np.array([[x - side / 2, y - side / 2, x + side / 2, y + side / 2] for x, y in centers], np.float32)
    given = np.linspace(0.9, 0.5, len(centers)) if scores is None else np.array(scores)
    return Detections(corners.reshape(-1, 4), given, np.zeros(len(centers), int), LABELS)


def scene(positions: Sequence[tuple[float, float]]) -> npt.NDArray[np.uint8]:
    """A picture of squares of 30 pixels, each in a color of its own, on grey."""
    image = np.full((200, 400, 3), 90, np.uint8)
    for (x, y), color in zip(positions, COLORS, strict=False):
        image[max(0, round(y) - 15) : round(y) + 15, max(0, round(x) - 15) : round(x) + 15] = color
    return image


def find_squares(image: Any) -> Any:
    """A detector of the squares, in an order that tells nothing."""
    if isinstance(image, list):
        return [find_squares(item) for item in image]
    found = []
    for color in COLORS:
        rows, columns = np.nonzero((image == color).all(axis=2))
        if len(rows):
            found.append((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))
    order = np.random.default_rng(int(image.sum()) % 2**32).permutation(len(found))
    corners = np.array(found, np.float32).reshape(-1, 4)[order]
    return Detections(corners, np.linspace(0.9, 0.5, len(found)), np.zeros(len(found), int), LABELS)


def colors_of(frame: Frame) -> Iterator[tuple[int, int]]:
    """The number and the color of each square."""
    assert frame.detections is not None
    assert frame.detections.tracks is not None
    for item in frame.detections:
        x, y = int((item.xyxy[0] + item.xyxy[2]) / 2), int((item.xyxy[1] + item.xyxy[3]) / 2)
        color = int(np.flatnonzero((frame.image[y, x] == COLORS).all(axis=1))[0])
        if item.track is not None:
            yield item.track, color


# -- numbers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fps", [30, 12, 6])
def test_numbers_stay_with_squares_that_cross(fps: int) -> None:
    """Two cross side by side, one turns back, and one stands."""
    times = np.arange(0, 4, 1 / fps)
    places = [[(40 + 80 * s, 60), (360 - 80 * s, 80), (200 + 60 * min(s, 4 - s), 130), (300, 175)] for s in times]
    tracker, owners = Tracker(), dict[int, set[int]]()
    for s, positions in zip(times, places, strict=True):
        order = np.random.default_rng(round(s * 1000)).permutation(4)
        found = tracker.update(boxes([positions[i] for i in order]), float(s))
        assert found.tracks is not None
        for track, owner in zip(found.tracks.tolist(), order.tolist(), strict=True):
            owners.setdefault(track, set()).add(owner)
    owners.pop(-1)  # in the first frame
    assert sorted(map(tuple, owners.values())) == [(0,), (1,), (2,), (3,)]


def test_two_that_cross_and_hide_each_other() -> None:
    """While one is hidden, as suppression does it, the other keeps its number; both have theirs afterwards."""
    tracker, seen = Tracker(), []
    for step in range(61):
        places = [(40 + 5 * step, 100), (340 - 5 * step, 104)]
        is_hidden = abs(places[0][0] - places[1][0]) < 20
        found = tracker.update(boxes(places[:1] if is_hidden else places), step / 15)
        assert found.tracks is not None
        seen.append(found.tracks.tolist())
    assert 1 in map(len, seen)
    assert seen[1] == seen[-1] == [0, 1]
    assert {track for tracks in seen for track in tracks} == {-1, 0, 1}


def test_an_object_keeps_its_number_for_a_while_without_detections() -> None:
    def walk(lost_s: float, away_s: float) -> list[int]:
        tracker = Tracker(ByteTrack(lost_s=lost_s))
        times = [*np.arange(0, 1, 0.1), *np.arange(1 + away_s, 2 + away_s, 0.1)]
        found = [tracker.update(boxes([(100 + 5 * s, 50)]), s).tracks for s in times]
        return sorted({int(tracks[0]) for tracks in found if tracks is not None} - {-1})

    assert walk(1.0, 0.8) == walk(3.0, 2.8) == [0]
    assert walk(1.0, 1.5) == walk(0.3, 0.8) == [0, 1]


def test_weak_detections_only_continue() -> None:
    def follow(scores: Sequence[float], **options: Any) -> list[int]:
        tracker = Tracker(ByteTrack(**options))
        found = [tracker.update(boxes([(100 + 3 * i, 50)], [score])).tracks for i, score in enumerate(scores)]
        return [int(tracks[0]) for tracks in found if tracks is not None]

    assert follow([0.9, 0.9, 0.3, 0.3, 0.9], start_score=0.5) == [-1, 0, 0, 0, 0]
    assert follow([0.3] * 4, start_score=0.5) == [-1] * 4
    assert follow([0.3] * 4) == [-1, 0, 0, 0]
    assert follow([0.9] * 5, frames_to_start=4) == [-1, -1, -1, 0, 0]


def test_after_a_reset_numbers_are_new() -> None:
    tracker = Tracker()

    def numbers(time_s: float) -> list[int]:
        found = tracker.update(boxes([(100, 50), (200, 50)]), time_s)
        assert found.tracks is not None
        return found.tracks.tolist()  # type: ignore[no-any-return]

    assert [numbers(s) for s in (0.0, 0.1)] == [[-1, -1], [0, 1]]
    tracker.reset()
    assert [numbers(s) for s in (0.2, 0.3)] == [[-1, -1], [2, 3]]
    assert [numbers(s) for s in (0.0, 0.1)] == [[-1, -1], [4, 5]]  # the film has started again
    assert [numbers(0.1), numbers(float("nan"))] == [[4, 5], [4, 5]]  # times that tell nothing


def test_other_trackers_of_the_package() -> None:
    import trackers

    tracker = Tracker(trackers.SORTTracker)
    for step in range(6):
        found = tracker.update(boxes([(100 + 3 * step, 50), (300 - 3 * step, 50)]), step / 10)
    assert found.tracks is not None
    assert sorted(found.tracks.tolist()) == [0, 1]


@pytest.mark.parametrize(
    ("option", "error", "message"),
    [
        ("sort", ValueError, "must be 'bytetrack', a ByteTrack or a function"),
        (3, TypeError, r"such as trackers\.OCSORTTracker; got int"),
    ],
)
def test_what_is_no_tracker(option: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Tracker(option)


@pytest.mark.parametrize(
    ("field", "value"),
    [("lost_s", -1), ("start_score", 1.1), ("frames_to_start", 1), ("min_iou", float("nan")), ("frame_rate", 0)],
)
def test_options_out_of_range(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"^{field} must be .*, got {value}$"):
        ByteTrack(**{field: value})


# -- streams -----------------------------------------------------------------------------------------------------------


def crossing(count: int = 40) -> list[list[tuple[float, float]]]:
    return [[(40 + 8 * step, 60), (360 - 8 * step, 80)] for step in range(count)]


def test_a_stream_gives_numbers_and_lines_count_them() -> None:
    counter, owners = Counter(DOOR, LABELS), dict[int, set[int]]()
    pictures = (scene(places) for places in crossing())
    with stream(pictures, find_squares, policy="all", tracker="bytetrack") as frames:
        for frame in frames:
            counts = counter.update(frame)
            assert frame.detections is not None
            assert frame.detections.tracks is counts.tracks
            for track, color in colors_of(frame):
                owners.setdefault(track, set()).add(color)
    assert counts.lines == {"door": (1, 1)}
    assert sorted(owners) == [0, 1]
    assert sorted(map(tuple, owners.values())) == [(0,), (1,)]


def test_sources_have_trackers_of_their_own() -> None:
    sources = {name: (scene(places) for places in crossing(10)) for name in ("left", "right")}
    seen: dict[str, set[int]] = {"left": set(), "right": set()}
    with stream(sources, find_squares, policy="all", tracker=ByteTrack()) as frames:
        for frame in frames:
            seen[frame.source] |= {track for track, _ in colors_of(frame)}
    assert seen == {"left": {0, 1}, "right": {0, 1}}


def test_a_source_that_reconnects_gets_new_numbers() -> None:
    world = World()
    camera = Camera(world, 0.1, script={5: OSError("cable out")})

    def find(image: Any) -> Detections:
        return boxes([(100 + number_of(image), 50)])

    options: dict[str, Any] = {"clock": world, "reconnect": Reconnect(first_s=0.1, jitter=0.0), "policy": "all"}
    with stream(camera, find, tracker="bytetrack", **options) as frames:
        got = list(itertools.islice(frames, 9))
    numbers = [(frame.connection, frame.detections[0].track) for frame in got if frame.detections is not None]
    assert numbers == [(0, None), *[(0, 0)] * 4, (1, None), *[(1, 1)] * 3]
    assert got[-1].to_dict()["connection"] == 1


def test_a_frame_that_failed_changes_no_number() -> None:
    calls = itertools.count()

    def find(image: Any) -> Detections:
        if next(calls) == 3:
            raise RuntimeError("dark")
        return boxes([(100, 50)])

    pictures = (np.zeros((100, 200, 3), np.uint8) for _ in range(6))
    with stream(pictures, find, policy="all", tracker="bytetrack") as frames:
        found = [frame.detections for frame in frames]
    assert [None if item is None else item[0].track for item in found] == [None, 0, 0, None, 0, 0]


def test_a_detector_that_returns_something_else() -> None:
    pictures = (np.zeros((100, 200, 3), np.uint8) for _ in range(2))
    with (
        stream(pictures, lambda image: [1, 2], policy="all", tracker="bytetrack") as frames,
        pytest.raises(TypeError, match=r"tracking needs a detector that returns retinasdk\.Detections, got list"),
    ):
        next(frames)


# -- lines -------------------------------------------------------------------------------------------------------------


def test_a_line_counts_who_passes_behind_a_pillar() -> None:
    """The package alone forgets the side of an object that is missing in three frames."""
    places = [(40 + 8 * step, 60) for step in range(40)]
    found = [boxes([] if 170 < x < 230 else [(x, y)]) for x, y in places]
    assert sum(len(item) == 0 for item in found) == 7
    image = np.zeros((200, 400, 3), np.uint8)
    results = iter(found)
    counter, tracks = Counter(DOOR, LABELS), set()
    with stream((image for _ in found), lambda _: next(results), policy="all", tracker="bytetrack") as frames:
        for frame in frames:
            counts = counter.update(frame)
            tracks |= set(counts.tracks.tolist())
    assert tracks == {-1, 0}
    assert counts.lines == {"door": (1, 0)}


def test_many_go_to_and_fro() -> None:
    """Each of six objects crosses as often as its path does, counted where the paths are made."""
    random = np.random.default_rng(11)
    steps = np.arange(240)
    phases, periods = random.uniform(0, 6, 6), random.uniform(50, 110, 6)
    xs = 200 + 120 * np.sin(phases + 2 * np.pi * steps[:, None] / periods)
    sides = xs > 200
    came, went = (int((sides[1:] & ~sides[:-1]).sum()), int((~sides[1:] & sides[:-1]).sum()))
    counter = Counter(DOOR, LABELS)
    results = iter([boxes([(x, 20 + 33 * i) for i, x in enumerate(row)]) for row in xs])
    image = np.zeros((220, 400, 3), np.uint8)
    with stream((image for _ in steps), lambda _: next(results), policy="all", tracker="bytetrack") as frames:
        for frame in frames:
            counts = counter.update(frame)
    # The first frame has no numbers yet, and the last crossing needs two frames.
    assert came + went > 20
    assert (sides[0] == sides[1]).all()
    assert (sides[-1] == sides[-2]).all()
    assert counts.lines == {"door": (came, went)}


# -- detections --------------------------------------------------------------------------------------------------------


def numbered_boxes() -> Detections:
    found = boxes([(50, 50), (100, 50), (150, 50)])
    return Detections(found.xyxy, found.scores, [0, 1, 0], LABELS, tracks=[7, -1, 3])  # type: ignore[arg-type]


def test_parts_and_copies_keep_numbers() -> None:
    found = numbered_boxes()
    assert [item.track for item in found] == [7, None, 3]
    for part, expected in (
        (found[1:], [-1, 3]),
        (found[found.names == "person"], [7, 3]),
        (found[[2, 0]], [3, 7]),
        (found.filter(min_score=0.7), [7, -1]),
        (found.scaled(2.0), [7, -1, 3]),
        (pickle.loads(pickle.dumps(found)), [7, -1, 3]),
        (found[2:] + found[:1], [7, 3]),
    ):
        assert part.tracks is not None
        assert part.tracks.tolist() == expected
        assert not part.tracks.flags.writeable
    assert (found + boxes([(1, 1)])).tracks is None  # not all have them
    assert found == numbered_boxes()
    assert found != Detections(found.xyxy, found.scores, found.class_ids, LABELS)
    assert [entry["track"] for entry in found.to_dicts()] == [7, None, 3]
    assert "track" not in boxes([(1, 1)]).to_dicts()[0]
    assert "  #7 person 0.90 at" in repr(found)
    with pytest.raises(ValueError, match=r"tracks must be \(n,\) for n = 3 objects; got \(2,\)"):
        Detections(found.xyxy, found.scores, found.class_ids, LABELS, tracks=np.array([1, 2]))


def test_other_forms_have_numbers() -> None:
    found = numbered_boxes()
    assert found.to_supervision().tracker_id.tolist() == [7, -1, 3]
    pandas = pytest.importorskip("pandas")
    assert isinstance(found.to_pandas(), pandas.DataFrame)
    assert found.to_pandas()["track"].tolist() == [7, -1, 3]

    class Types(dict[str, Any]):
        def __missing__(self, name: str) -> Any:
            return SimpleNamespace

    message = detection_array(found, None, Types())
    assert [item.id for item in message.detections] == ["7", "", "3"]


def test_an_object_has_the_color_of_its_number() -> None:
    image = np.zeros((100, 200, 3), np.uint8)
    found = numbered_boxes()
    drawn = np.asarray(found.draw(image))
    np.testing.assert_array_equal(drawn, np.asarray(draw_detections(image, found, tracks=[7, -1, 3])))
    assert (drawn != np.asarray(draw_detections(image, found, tracks=[-1, -1, -1]))).any()


# -- the command -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_people_film(tmp_path_factory.mktemp("film") / "people.mp4")


def test_command_counts_people(film: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outputs = ["--jsonl", str(tmp_path / "found.jsonl"), "--csv", str(tmp_path / "found.csv")]
    outputs += ["--save", str(tmp_path / "marked.mp4")]
    line = ["--count-line", "200,0,200,264@400x264"]
    assert main(["live", str(film), *line, *outputs, "--classes", "person", "--score", "0.5", "--device", "cpu"]) == 0
    # The astronaut crosses to the right, the admiral to the left and back to the right.
    assert "line 1: 2 in, 1 out" in capsys.readouterr().out
    entries = [json.loads(text) for text in (tmp_path / "found.jsonl").read_text().splitlines()]
    assert entries[-1]["lines"] == {"line 1": {"in": 2, "out": 1}}
    owners: dict[int, set[bool]] = {}
    for entry in entries:
        for item in entry["detections"]:
            if item["track"] is not None:
                owners.setdefault(item["track"], set()).add(item["xyxy"][1] > 110)
    assert sorted(map(sorted, owners.values())) == [[False], [True]]
    with (tmp_path / "found.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    tracks = ["" if item["track"] is None else str(item["track"]) for entry in entries for item in entry["detections"]]
    assert [row["track"] for row in rows] == tracks
    assert (tmp_path / "marked.mp4").stat().st_size > 1000


def test_command_tracks_without_counting(film: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["live", str(film), "--csv", "-", "--device", "cpu", "--max-frames", "3", "--track-lost", "2"]
    assert main(words) == 0
    captured = capsys.readouterr()
    rows = list(csv.DictReader(captured.out.splitlines()))
    assert list(rows[0])[-1] == "track"
    assert "zones" not in rows[0]
    assert {row["track"] for row in rows if row["index"] == "0"} == {""}
    assert {"0", "1"} <= {row["track"] for row in rows if row["index"] == "2"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--count-line", "0,0,1"], "expected four numbers such as 0,0.5,1,0.5"),
        (["--count-line", "0,300,768,300"], "expected x from 0 to 1 and y from 0 to 1, .* add the size of the image"),
        (["--count-line", "0,300,769,300@768x432"], "expected x from 0 to 768 and y from 0 to 432"),
        (["--count-line", "0.5,0.5,0.5,0.5"], "expected two different points"),
        (["--count-line", "0,nan,1,0.5"], "expected x from 0 to 1"),
        (["--track-lost", "-1"], "--track-lost must be a number of seconds of at least 0, got -1"),
        (["--track-score", "2"], "--track-score must be from 0 to 1, got 2"),
        (["--track-fps", "0"], "--track-fps must be above 0, got 0"),
    ],
)
def test_command_refuses(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        status: Any = main(["live", str(ROOT / "examples" / "photos" / "people"), *words])
    except SystemExit as end:
        status = end.code
    assert status == 2
    assert re.search(message, capsys.readouterr().err)


def test_a_name_is_given_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "zones.json").write_text('{"lines": [{"name": "line 1", "from": [0, 0], "to": [1, 1]}]}')
    words = ["live", str(ROOT / "examples/photos/people"), "--zones", str(tmp_path / "zones.json")]
    assert main([*words, "--count-line", "0,0.5,1,0.5"]) == 2
    assert 'has the name "line 1"' in capsys.readouterr().err


def test_without_the_packages_the_command_says_what_to_install(tmp_path: Path) -> None:
    words = ["retinasdk", "live", str(ROOT / "examples" / "photos" / "people"), "--track", "--device", "cpu"]
    program = (
        "import sys\nsys.modules['trackers'] = None\nfrom retinasdk.cli.process import run\n"
        f"sys.argv = {words!r}\nrun()"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "pip install 'retinasdk[supervision]'" in done.stderr
    assert "Traceback" not in done.stderr
