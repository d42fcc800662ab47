"""Zones, lines and tracks: the file that tells them, counts against an oracle of plain geometry, the command."""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pictures import blocks
from PIL import Image as PillowImage

from retinasdk import Detections, Detector
from retinasdk.cli.main import main
from retinasdk.live import Counters, Frame
from retinasdk.live.counting import Counter, Counts
from retinasdk.live.zones import Line, Zone, Zones
from retinasdk.live.zones_drawing import draw_counts

LABELS = ("person", "dog")
SQUARE = ((0.25, 0.25), (0.75, 0.25), (0.75, 0.75), (0.25, 0.75))
TABLE = {"name": "table", "polygon": [[0.1, 0.1], [0.9, 0.1], [0.5, 0.9]]}
DOOR = {"name": "door", "from": [0, 0.5], "to": [1, 0.5]}


@pytest.fixture(scope="module")
def supervision() -> Any:
    pytest.importorskip("trackers", reason="counting needs the extra [supervision]")
    return pytest.importorskip("supervision", reason="counting needs the extra [supervision]")


def frame(
    feet: Sequence[tuple[float, float]],
    time_s: float = 0.0,
    *,
    classes: Sequence[int] | None = None,
    size: tuple[int, int] = (400, 300),
    **changes: Any,
) -> Frame:
    """Boxes of 20 x 40 pixels that stand with their bottom's middle on points (x, y) in pixels of (width, height)."""
    boxes = np.array([[x - 10, y - 40, x + 10, y] for x, y in feet], np.float32).reshape(-1, 4)
    class_ids = np.zeros(len(feet), np.int32) if classes is None else np.array(classes, np.int32)
    found = Detections(boxes, np.linspace(0.9, 0.4, len(feet), dtype=np.float32), class_ids, LABELS)
    given = Frame(np.zeros((size[1], size[0], 3), np.uint8), found, "camera", 0, time_s, 0.0, time_s, Counters())
    return dataclasses.replace(given, **changes)


# -- the file ----------------------------------------------------------------------------------------------------------


def load(tmp_path: Path, content: Any) -> Zones:
    path = tmp_path / "zones.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return Zones.load(path)


def test_pixels_and_shares_say_the_same(tmp_path: Path) -> None:
    shares = load(tmp_path, {"zones": [TABLE], "lines": [DOOR]})
    pixels = load(
        tmp_path,
        {
            "size": [200, 100],
            "zones": [{"name": "table", "polygon": [[20, 10], [180, 10], [100, 90]]}],
            "lines": [{"name": "door", "from": [0, 50], "to": [200, 50]}],
        },
    )
    assert shares == pixels
    assert shares == Zones((Zone("table", ((0.1, 0.1), (0.9, 0.1), (0.5, 0.9))),), (Line("door", (0, 0.5), (1, 0.5)),))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read as JSON"),
        ("[" * 100_000, "cannot be read as JSON"),
        ([], "the file: expected an object in braces"),
        ({}, "at least one zone or line"),
        ({"zone": [TABLE]}, 'only size, zones, lines, got ["zone"]'),
        ({"zones": TABLE}, "zones: expected a list"),
        ({"zones": [TABLE] * 101}, "a list of at most 100"),
        ({"zones": [{"name": "a"}]}, 'zones[0]: expected an entry "polygon"'),
        ({"zones": [{**TABLE, "polygon": [[0, 0], [1, 1]]}]}, "zones[0].polygon: expected a list of 3 to 100 points"),
        ({"zones": [{**TABLE, "polygon": [[0, 0], [1, 1], [2, 0]]}]}, "zones[0].polygon[2]: expected x from 0 to 1"),
        ({"zones": [{**TABLE, "polygon": [[0, 0], [1, 1], [True, 0]]}]}, "polygon[2]: expected a point [x, y]"),
        ('{"zones": [{"name": "a", "polygon": [[0, 0], [1, 1], [NaN, 0]]}]}', "polygon[2]: expected a point [x, y]"),
        ({"zones": [{**TABLE, "name": ""}]}, "zones[0].name: expected 1 to 100 printable characters"),
        ({"zones": [{**TABLE, "classes": "person"}]}, "zones[0].classes: expected a list of class names"),
        (
            {"zones": [{**TABLE, "anchor": "left"}]},
            "zones[0].anchor: expected one of bottom_center, center, top_center",
        ),
        ({"zones": [TABLE], "lines": [{**DOOR, "name": "table"}]}, "a unique name for each"),
        ({"lines": [{**DOOR, "to": [0, 0.5]}]}, "lines[0]: expected two different points"),
        ({"lines": [{**DOOR, "via": 1}]}, 'lines[0]: expected only name, from, to, classes, anchor, got ["via"]'),
        ({"size": [10**400, 5], "zones": [TABLE]}, "size: expected [width, height] in pixels"),
        ({"zones": [{**TABLE, "polygon": [[10**400, 0], [1, 1], [2, 0]]}]}, "polygon[0]: expected a point [x, y]"),
        ({"size": [0, 5], "zones": [TABLE]}, "size: expected [width, height] in pixels, both at least 1"),
    ],
)
def test_a_wrong_file_says_what_is_wrong(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(ValueError, match=r"zones\.json: ") as caught:
        load(tmp_path, content)
    assert message in str(caught.value)


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at most 1,000,000 bytes"):
        load(tmp_path, " " * 1_000_001)
    with pytest.raises(FileNotFoundError):
        Zones.load(tmp_path / "none.json")


# -- counts ------------------------------------------------------------------------------------------------------------


def is_inside(x: float, y: float, corners: Sequence[tuple[float, float]]) -> bool:
    """By the sum of the angles under which the edges are seen: 360 degrees from inside, 0 from outside."""
    spokes = np.array(corners) - (x, y)
    angles = np.unwrap(np.arctan2(spokes[:, 1], spokes[:, 0]), period=2 * np.pi)
    closing = np.arctan2(spokes[0, 1], spokes[0, 0]) - angles[-1]
    return bool(abs(angles[-1] - angles[0] + (closing + np.pi) % (2 * np.pi) - np.pi) > np.pi)


corners = st.lists(st.tuples(st.integers(0, 400), st.integers(0, 300)), min_size=3, max_size=3, unique=True)
points = st.lists(st.tuples(st.integers(15, 385), st.integers(45, 295)), max_size=12)


@given(corners=corners, feet=points)
def test_zones_hold_what_geometry_says(supervision: Any, corners: list[tuple[int, int]], feet: list[Any]) -> None:
    zones = Zones((Zone("area", tuple((x / 400, y / 300) for x, y in corners)),))
    counts = Counter(zones, LABELS).update(frame(feet))
    for (x, y), counted in zip(feet, counts.in_zone[:, 0], strict=True):
        edges = zip(corners, corners[1:] + corners[:1], strict=True)
        if min(distance(x, y, *edge) for edge in edges) > 1.5:  # the edge itself is a matter of rounding
            assert counted == is_inside(x, y, corners)
    assert counts.zones == {"area": int(counts.in_zone.sum())}


def distance(x: float, y: float, start: tuple[int, int], end: tuple[int, int]) -> float:
    """Of a point to a segment."""
    first, along = np.array(start, float), np.subtract(end, start).astype(float)
    share = np.clip(np.dot((x, y) - first, along) / max(np.dot(along, along), 1e-9), 0, 1)
    return float(np.hypot(*(first + share * along - (x, y))))


def walk(counter: Counter, ys: Sequence[float], *, x: float = 200, step_s: float = 0.1, **options: Any) -> Counts:
    for step, y in enumerate(ys):
        counts = counter.update(frame([(x, y)], step * step_s, **options))
    return counts


DOWN = tuple(range(60, 291, 5))


@pytest.mark.parametrize(
    ("ys", "expected"),
    [
        (DOWN, (0, 1)),
        (DOWN[::-1], (1, 0)),
        (DOWN + DOWN[::-1] + DOWN, (1, 2)),
        (tuple(range(60, 140, 5)) + tuple(range(140, 60, -5)), (0, 0)),
        # One frame on the other side is a tremble and no crossing.
        ((*range(60, 148, 4), 152, 146, 152, 146, 152, 146, 140), (0, 0)),
    ],
)
def test_a_line_counts_who_crosses_it_and_which_way(supervision: Any, ys: Any, expected: tuple[int, int]) -> None:
    zones = Zones(lines=(Line("door", (0, 0.5), (1, 0.5)), Line("other way", (1, 0.5), (0, 0.5))))
    counts = walk(Counter(zones, LABELS), ys)
    assert counts.lines == {"door": expected, "other way": expected[::-1]}
    assert counts.to_dict()["lines"]["door"] == {"in": expected[0], "out": expected[1]}


def test_a_line_ends_at_its_ends(supervision: Any) -> None:
    zones = Zones(lines=(Line("door", (0, 0.5), (0.3, 0.5)),))
    assert walk(Counter(zones, LABELS), DOWN, x=300).lines == {"door": (0, 0)}


def test_many_walkers_are_each_counted_once(supervision: Any) -> None:
    random = np.random.default_rng(5)
    zones = Zones(lines=(Line("door", (0, 0.5), (1, 0.5)),))
    counter, xs = Counter(zones, LABELS), [30 + 45 * i for i in range(8)]
    goes_down = random.random(8) < 0.5
    seen: list[set[int]] = [set() for _ in xs]
    for step, y in enumerate(DOWN):
        order = random.permutation(8)  # detections come by score, which changes from frame to frame
        feet = [(xs[i] + float(random.normal(0, 1)), float(y if goes_down[i] else 350 - y)) for i in order]
        counts = counter.update(frame(feet, step * 0.1))
        for i, track in zip(order, counts.tracks, strict=True):
            seen[i].add(int(track))
    assert counts.lines == {"door": (int((~goes_down).sum()), int(goes_down.sum()))}
    ids = [tracks - {-1} for tracks in seen]
    assert all(len(tracks) == 1 for tracks in ids)
    assert len(set.union(*ids)) == 8


def test_dropped_frames_and_a_new_size_do_no_harm(supervision: Any) -> None:
    zones = Zones((Zone("area", SQUARE),), (Line("door", (0, 0.5), (1, 0.5)),))
    counter = Counter(zones, LABELS)
    for step, y in enumerate(DOWN):
        if step % 3:
            continue
        scale = 2 if step > 20 else 1
        counts = counter.update(frame([(200 * scale, y * scale)], step * 0.1, size=(400 * scale, 300 * scale)))
        assert y in (75, 225) or counts.zones["area"] == (75 < y < 225)
    assert counts.lines == {"door": (0, 1)}


def test_a_frame_that_failed_changes_nothing(supervision: Any) -> None:
    zones = Zones((Zone("area", SQUARE),), (Line("door", (0, 0.5), (1, 0.5)),))
    counter = Counter(zones, LABELS)
    walk(counter, DOWN)
    counts = counter.update(frame([], 9.0, detections=None, error=ValueError("dark")))
    assert (len(counts.tracks), counts.in_zone.shape) == (0, (0, 1))
    assert (counts.zones, counts.lines) == ({"area": 0}, {"door": (0, 1)})


def test_classes_and_anchors(supervision: Any) -> None:
    zones = Zones(
        (Zone("people", SQUARE, ("person",)), Zone("dogs", SQUARE, ("dog",)), Zone("heads", SQUARE, (), "top_center")),
        (Line("dogs' door", (0, 0.5), (1, 0.5), ("dog",)),),
    )
    counter = Counter(zones, LABELS)
    counts = counter.update(frame([(200, 200), (220, 150), (200, 240), (200, 100)], classes=[0, 1, 1, 0]))
    assert counts.zones == {"people": 2, "dogs": 1, "heads": 3}
    assert walk(Counter(zones, LABELS), DOWN, classes=[0]).lines == {"dogs' door": (0, 0)}
    assert walk(Counter(zones, LABELS), DOWN, classes=[1]).lines == {"dogs' door": (0, 1)}
    with pytest.raises(ValueError, match="cat"):
        Counter(Zones((Zone("cats", SQUARE, ("cat",)),)), LABELS)


def test_sources_are_counted_apart(supervision: Any) -> None:
    counter = Counter(Zones(lines=(Line("door", (0, 0.5), (1, 0.5)),)), LABELS)
    for step, y in enumerate(DOWN):
        left = counter.update(frame([(200, y)], step * 0.1, source="left"))
        right = counter.update(frame([(200, 350 - y)], step * 0.1, source="right"))
    assert (left.lines, right.lines) == ({"door": (0, 1)}, {"door": (1, 0)})


def test_to_supervision(supervision: Any) -> None:
    found = frame([(50, 60), (70, 80)], classes=[1, 0]).detections
    assert found is not None
    given = found.to_supervision()
    assert isinstance(given, supervision.Detections)
    assert given.xyxy.tolist() == found.xyxy.tolist()
    assert given.confidence.tolist() == found.scores.tolist()
    assert given.class_id.tolist() == [1, 0]
    assert given["class_name"].tolist() == ["dog", "person"]
    given.xyxy[:] = 0  # a copy
    assert found.xyxy.max() > 0
    assert len(Detections.empty(LABELS).to_supervision()) == 0
    assert supervision.BoxAnnotator().annotate(np.zeros((100, 100, 3), np.uint8), given).shape == (100, 100, 3)


def test_counts_are_drawn_where_they_belong() -> None:
    picture = PillowImage.new("RGB", (400, 300))
    zones = Zones((Zone("area", SQUARE),), (Line("door", (0, 0.9), (1, 0.9)),))
    draw_counts(picture, zones, Counts(np.zeros(0, np.int64), np.zeros((0, 1), bool), {"area": 3}, {"door": (1, 2)}))
    pixels = np.asarray(picture).astype(int)
    assert pixels[150, 100].sum() > 300  # the zone's left edge,
    assert 0 < pixels[150, 200].sum() < 150  # its tinted ground,
    assert pixels[150, 350].sum() == 0  # and nothing beside it
    assert pixels[270, 20].sum() > 300  # the line


# -- the command -------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six times the same picture."""
    (tmp_path / "pictures").mkdir()
    for number in range(6):
        PillowImage.fromarray(blocks(90, 120)).save(tmp_path / "pictures" / f"{number}.png")
    return tmp_path / "pictures"


def test_command(
    supervision: Any,
    folder: Path,
    model_path: Path,
    tmp_path: Path,
    detector: Detector,
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole = {"name": "whole", "polygon": [[0, 0], [1, 0], [1, 1], [0, 1]], "anchor": "center"}
    (tmp_path / "zones.json").write_text(json.dumps({"zones": [whole], "lines": [DOOR]}))
    arguments = ["--zones", "zones.json", "--csv", "found.csv", "--jsonl", "found.jsonl", "--save", "marked.mp4"]
    names = [str(tmp_path / item) if "." in item else item for item in arguments]
    assert main(["live", str(folder), *names, "--model", str(model_path), "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    assert "door: 0 in, 0 out" in printed

    expected = detector(blocks(90, 120))
    entries = [json.loads(line) for line in (tmp_path / "found.jsonl").read_text().splitlines()]
    assert [len(entry["detections"]) for entry in entries] == [len(expected)] * len(entries)
    assert f"whole: {entries[-1]['zones']['whole']} inside at the end" in printed
    assert entries[-1]["lines"] == {"door": {"in": 0, "out": 0}}
    tracks = [[item["track"] for item in entry["detections"]] for entry in entries]
    assert tracks[-1] == tracks[-2]  # nothing moves
    assert None not in tracks[-1]

    with (tmp_path / "found.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == sum(len(entry["detections"]) for entry in entries)
    last = rows[-len(expected) :]
    assert [row["label"] for row in last] == list(expected.names)
    np.testing.assert_allclose([float(row["x1"]) for row in last], expected.xyxy[:, 0], atol=0.006)
    np.testing.assert_allclose([float(row["score"]) for row in last], expected.scores, atol=0.00006)
    assert [int(row["track"]) for row in last] == tracks[-1]
    assert sum(row["zones"] == "whole" for row in last) == entries[-1]["zones"]["whole"]


def test_command_refuses_before_it_writes(
    folder: Path, model_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "zones.json").write_text('{"zones": []}')
    (tmp_path / "found.csv").write_text("kept")
    call = ["live", str(folder), "--model", str(model_path), "--device", "cpu"]
    assert (
        main([*call, "--zones", str(tmp_path / "zones.json"), "--csv", str(tmp_path / "found.csv"), "--overwrite"]) == 2
    )
    assert "expected at least one zone or line" in capsys.readouterr().err
    assert main([*call, "--csv", "-", "--jsonl", "-"]) == 2
    assert "cannot both go to standard output" in capsys.readouterr().err
    assert (tmp_path / "found.csv").read_text() == "kept"


def test_csv_without_zones(
    folder: Path, model_path: Path, detector: Detector, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["live", str(folder), "--csv", "-", "--model", str(model_path), "--device", "cpu"]) == 0
    captured = capsys.readouterr()
    rows = list(csv.reader(captured.out.splitlines()))
    assert rows[0] == ["source", "index", "time_s", "label", "score", "x1", "y1", "x2", "y2"]
    assert len(rows) - 1 == 6 * len(detector(blocks(90, 120)))
    assert "frames captured" in captured.err
