"""`retinasdk.ray` on a real Ray cluster: the detector's boxes, failures as rows, and jobs that are killed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from retinasdk import Detections, Detector, ImageError, Progress, Tiles

pytest.importorskip("ray")
# Ray and pandas warn of their own plans.
pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture
def folder(tmp_path: Path, picture: Callable[..., np.ndarray]) -> Path:
    """Pictures of several sizes in two folders, and files that are none."""
    place = tmp_path / "images"
    (place / "inside").mkdir(parents=True)
    for number in range(10):
        name = f"inside/{number}.png" if number % 2 else f"{number}.png"
        Image.fromarray(picture(60 + 5 * (number % 3), 90, number)).save(place / name)
    broken = (place / "0.png").read_bytes()[:-60]
    (place / "broken.png").write_bytes(broken)
    (place / "text.jpg").write_text("no image")
    (place / "notes.txt").write_text("not listed")
    return place


def read(out: Path) -> dict[str, dict[str, Any]]:
    """The rows by path. Each path is there once."""
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = parquet.read_table(out).to_pylist()
    by_path = {row["path"]: row for row in rows}
    assert len(by_path) == len(rows)
    return by_path


def check(row: dict[str, Any], expected: Detections) -> None:
    assert row["error"] is None
    assert (row["height"], row["width"]) == expected.image_size
    assert np.array(row["boxes"], np.float32).reshape(-1, 4).tobytes() == expected.xyxy.tobytes()
    assert np.array(row["scores"], np.float32).tobytes() == expected.scores.tobytes()
    assert row["class_ids"] == expected.class_ids.tolist()
    assert row["labels"] == list(expected.names)


def check_all(rows: dict[str, dict[str, Any]], detector: Detector, **options: Any) -> None:
    """Compares every row with what a call of the detector gives, errors too."""
    for path, row in rows.items():
        if row["error"] is None:
            check(row, detector(path, **options))
        else:
            assert row["boxes"] is None
            with pytest.raises(ImageError, match=f"^{re.escape(row['error'])}$"):
                detector(path, **options)


def test_files(cluster: Any, folder: Path, model_path: Path, detector: Detector, tmp_path: Path) -> None:
    from retinasdk.ray import detect_files

    out = tmp_path / "out"
    seen: list[Progress] = []
    missing = str(folder / "missing.png")
    images = [folder, missing, folder / "0.png"]
    report = detect_files(images, out, model=model_path, images_per_file=4, progress=seen.append)
    assert (report.images, report.earlier, report.failed) == (13, 0, 3)
    rows = read(out)
    assert set(rows) == {str(path) for path in folder.rglob("*.[pj]*g")} | {missing}
    check_all(rows, detector)
    assert report.boxes == sum(len(row["boxes"] or ()) for row in rows.values()) > 50
    assert len(list(out.glob("part-*.parquet"))) == 4
    assert not list(out.glob("_trying*"))
    assert (seen[0].done, seen[-1].done, seen[-1].total) == (0, 13, 13)

    # Nothing is left to do.
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    again = detect_files(images, out, model=model_path, images_per_file=4)
    assert (again.images, again.earlier, again.boxes, again.failed) == (13, 13, 0, 0)
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before

    # Images that are new, and those that failed and are good now.
    (folder / "broken.png").write_bytes((folder / "2.png").read_bytes())
    (folder / "new.png").write_bytes((folder / "4.png").read_bytes())
    more = detect_files(images, out, model=model_path, images_per_file=4, retry_failed=True)
    assert (more.images, more.failed) == (14, 2)
    assert set(read(out)) == {*rows, str(folder / "new.png")}
    check_all(read(out), detector)

    # Another job does not mix with it.
    for options in ({"score_threshold": 0.5}, {"classes": ["dog"]}, {"rows": "box"}, {"model": "people"}):
        with pytest.raises(ValueError, match="results of another job, which differs in"):
            detect_files(images, out, **{"model": model_path, **options})  # type: ignore[arg-type]
    (out / "other.parquet").write_bytes(b"")
    with pytest.raises(ValueError, match=r"no run of this job wrote, such as other\.parquet"):
        detect_files(images, out, model=model_path)


def test_datasets(
    cluster: Any, folder: Path, model_path: Path, detector: Detector, picture: Callable[..., np.ndarray]
) -> None:
    from retinasdk.ray import detect

    data = cluster.data
    arrays = [picture(50 + 9 * number, 70, number) for number in range(4)]
    items = [{"id": number, "image": array} for number, array in enumerate(arrays)]
    options = {"model": model_path, "score_threshold": 0.3, "classes": ["dog", "person"], "workers": 1}
    found = detect(data.from_items(items), **options).take_all()
    assert sorted(row["id"] for row in found) == [0, 1, 2, 3]
    assert "image" not in found[0]
    for row in found:
        check(row, detector(arrays[row["id"]], score_threshold=0.3, classes=["dog", "person"]))

    paths = [str(folder / "0.png"), str(folder / "broken.png"), None]
    items = [{"file": path, "content": Path(path or folder / "2.png").read_bytes()} for path in paths]
    by_path = {row["file"]: row for row in detect(data.from_items(items), column="file", model=model_path).take_all()}
    assert set(by_path) == set(paths)
    assert "null" in by_path.pop(None)["error"]
    check_all(by_path, detector)
    found = detect(data.from_items(items), column="content", model=model_path, tiles=Tiles(64)).take_all()
    assert set(found[0]) & {"content", "bytes"} == set()
    check(next(row for row in found if row["file"] == paths[0]), detector(paths[0], tiles=Tiles(64)))
    with pytest.raises(Exception, match="the dataset needs a column image, bytes, path, and has id"):
        detect(data.range(2), model=model_path).take_all()


def test_options_are_checked_before_any_worker_starts(cluster: Any, model_path: Path, tmp_path: Path) -> None:
    from retinasdk.ray import detect_files

    for options, message in (
        ({"classes": ["zebra"]}, "zebra"),
        ({"score_threshold": 2}, "score_threshold must be"),
        ({"device": "gpu"}, "device must be"),
        ({"rows": "boxes"}, "rows must be"),
        ({"workers": 0}, "workers must be"),
        ({"cpus_per_worker": 0}, "cpus_per_worker must be"),
        ({"images_per_file": 0}, "images_per_file must be"),
        ({"device": "cuda", "gpus_per_worker": 2}, "gpus_per_worker must be"),
    ):
        with pytest.raises(ValueError, match=message):
            detect_files("a.jpg", tmp_path / "out", **{"model": model_path, **options})  # type: ignore[arg-type]
    with pytest.raises(ImageError, match="no such folder"):
        detect_files(tmp_path / "none", tmp_path / "out", model=model_path)
    assert not list(tmp_path.glob("out/*"))


def test_workers_that_die(cluster: Any, folder: Path, model_path: Path, detector: Detector, tmp_path: Path) -> None:
    """One image kills the worker once, as a machine that goes away; one kills every worker that reads it."""
    import ray_files

    from retinasdk.ray import detect_files

    content = (folder / "0.png").read_bytes()
    for name in ("kills_once.png", "kills_always.png"):
        (folder / name).write_bytes(content)
    out = tmp_path / "out"
    report = detect_files(
        folder, out, model=model_path, images_per_file=7, workers=2, filesystem=ray_files.dangerous_files()
    )
    rows = read(out)
    assert (report.images, report.failed, len(rows)) == (14, 3, 14)
    killer = rows.pop(str(folder / "kills_always.png"))
    assert killer["error"].endswith("the worker process died 2 times at this image")
    assert len((folder / "kills_always.png.deaths").read_text()) <= 4
    check(rows[str(folder / "kills_once.png")], detector(content))
    for name in ("broken.png", "text.jpg"):  # read as bytes, so they are called so
        assert "image bytes" in rows.pop(str(folder / name))["error"]
    check_all(rows, detector)


def test_the_command(cluster: Any, folder: Path, model_path: Path, detector: Detector, tmp_path: Path) -> None:
    def command(*words: str | Path) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "RAY_ADDRESS": cluster.get_runtime_context().gcs_address}
        line = [sys.executable, "-m", "retinasdk", "ray", "detect", *words, "--model", model_path, "-q"]
        return subprocess.run(line, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)

    first = command("images", "--out", "found", "--rows", "box", "--images-per-file", "5")
    assert (first.returncode, first.stderr) == (1, "")
    assert re.fullmatch(r"wrote found\n  12 images, \d+ boxes, 2 failed\n", first.stdout)
    again = command("images", "--out", "found", "--rows", "box")
    assert (again.returncode, again.stderr) == (0, "")
    assert "12 images were done by earlier runs" in again.stdout
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = parquet.read_table(tmp_path / "found").to_pylist()
    path = str(folder / "2.png")
    assert [(row["x1"], row["score"], row["label"]) for row in rows if row["path"] == path] == [
        (item.xyxy[0], item.score, item.label) for item in detector(path)
    ]
    other = command("images", "--out", "found", "--score", "0.7")
    assert (other.returncode, other.stdout) == (2, "")
    assert "found has the results of another job, which differs in score_threshold, rows" in other.stderr
    assert command("images/text.jpg", "--out", "bad").returncode == 2


PROGRAM = """
import sys, ray_files
from retinasdk.ray import detect_files
if __name__ == "__main__":
    print("start", flush=True)
    report = detect_files(sys.argv[1], sys.argv[2], model=sys.argv[3], images_per_file=2, workers=1,
                          filesystem=ray_files.dangerous_files())
    print(report.images, report.earlier)
"""


def test_a_killed_driver_is_continued(
    cluster: Any, folder: Path, model_path: Path, detector: Detector, tmp_path: Path
) -> None:
    """SIGKILL while a part is in work: the next run does what is missing, and no row is twice."""
    (folder / "waits.png").write_bytes((folder / "0.png").read_bytes())
    for name in ("broken.png", "text.jpg"):
        (folder / name).unlink()
    out, script = tmp_path / "out", tmp_path / "program.py"
    script.write_text(PROGRAM)
    address = cluster.get_runtime_context().gcs_address
    environment = {**os.environ, "RAY_ADDRESS": address}
    command = [sys.executable, script, folder, out, model_path]
    driver = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        end = time.monotonic() + 120
        waiting = json.dumps(str(folder / "waits.png"))
        while not (out.is_dir() and len(list(out.glob("part-*"))) >= 2 and list(out.glob("_trying-*"))):
            assert driver.poll() is None, driver.stderr.read().decode()  # type: ignore[union-attr]
            assert time.monotonic() < end
            time.sleep(0.1)
        driver.send_signal(signal.SIGKILL)
    finally:
        driver.kill()
        driver.communicate()
    parts = [json.loads(line) for line in (out / "_inputs-00000.jsonl").read_text().splitlines()]
    done = [part for part in parts if (out / part["name"]).exists()]
    assert 2 <= len(done) < len(parts)
    assert not any(waiting in json.dumps(part["paths"]) for part in done)
    before = {part["name"]: (out / part["name"]).stat().st_mtime_ns for part in done}
    Path(str(folder / "waits.png") + ".opened").touch()
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=True)
    assert finished.stdout.splitlines()[-1] == f"11 {sum(len(part['paths']) for part in done)}"
    assert {name: (out / name).stat().st_mtime_ns for name in before} == before
    rows = read(out)
    assert set(rows) == {str(path) for path in folder.rglob("*.png")}
    check_all(rows, detector)


def test_no_usage_statistics(tmp_path: Path) -> None:
    """Ray's own test of its setting, in a process whose environment says nothing, and in one that allows them."""
    program = """
import os, ray
ray.is_initialized = lambda: True  # No cluster is needed for this.
from retinasdk.ray.workers import started_ray
started_ray()
from ray._common.usage.usage_lib import usage_stats_enabled
print(usage_stats_enabled())
"""
    for given, expected in (({}, "False"), ({"RAY_USAGE_STATS_ENABLED": "1"}, "True")):
        plain = {name: value for name, value in os.environ.items() if name != "RAY_USAGE_STATS_ENABLED"}
        done = subprocess.run(
            [sys.executable, "-c", program], env={**plain, **given}, capture_output=True, text=True, check=True
        )
        assert done.stdout.split() == [expected]
