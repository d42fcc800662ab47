"""Paths and URIs: which images a job finds, and output files that are complete or not there."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest

from retinasdk import ImageError

fs = pytest.importorskip("pyarrow.fs")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for name in ("b.JPG", "a b.png", "100%.png", "notes.txt", "inside/c.tif", "inside/deep/d.webp"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(name.encode())
    return tmp_path


NAMES = ["100%.png", "a b.png", "b.JPG", "inside/c.tif", "inside/deep/d.webp"]


def test_images_of_folders_and_files(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from retinasdk.ray.files import find_images

    folder = str(place / "in")
    everything = [f"{folder}/{name}" for name in NAMES]
    assert find_images(folder, None) == everything
    assert find_images([Path(folder), f"{folder}/b.JPG", f"{folder}/none.jpg"], None) == [
        *everything,
        f"{folder}/none.jpg",
    ]
    monkeypatch.chdir(place)
    assert find_images("in/", None) == everything  # workers have other current folders
    assert find_images(f"file://{folder}", None) == [f"file://{path}" for path in everything]
    assert find_images("in", fs.SubTreeFileSystem(str(place), fs.LocalFileSystem())) == [f"in/{name}" for name in NAMES]
    for given, message in (("none", "no such folder"), ("in/notes.txt", "no such folder"), ([], "there are no images")):
        with pytest.raises(ImageError, match=message):
            find_images(given, None)
    os.makedirs("empty")
    with pytest.raises(ImageError, match="no images in this folder"):
        find_images("empty", None)


def test_contents_come_in_order_and_a_missing_file_is_an_error(place: Path) -> None:
    from retinasdk.ray.files import detect_each

    paths = [f"file://{place}/in/{name}" for name in NAMES] * 9
    paths.insert(20, f"file://{place}/in/none.png")
    paths.insert(7, "unknown://server/a.png")
    results: list[Any] = detect_each(paths, lambda images: iter([bytes(image) for image in images]), None)
    failed = [results.pop(7), results.pop(20)]
    assert results == [name.encode() for name in NAMES] * 9
    assert [type(error) for error in failed] == [ImageError, ImageError]
    assert "unknown://server/a.png: cannot be read" in str(failed[0])
    assert "none.png: cannot be read" in str(failed[1])


@pytest.mark.parametrize("kind", ["path", "uri", "other"])
def test_output_files_are_complete_or_not_there(kind: str, tmp_path: Path) -> None:
    from retinasdk.ray.files import OutputFolder

    target = tmp_path / "out"
    system = fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem()) if kind == "other" else None
    name = {"path": str(target), "uri": f"file://{target}", "other": "out"}[kind]
    folder = pickle.loads(pickle.dumps(OutputFolder(name, system)))
    assert folder.names() == set()
    folder.write("a.bin", b"old")
    folder.write("a.bin", b"new")
    assert folder.read("a.bin") == (target / "a.bin").read_bytes() == b"new"
    assert folder.names() == {"a.bin"}
    with pytest.raises(TypeError):
        folder.write("a.bin", "no bytes")
    assert folder.read("a.bin") == b"new"
    with pytest.raises(FileNotFoundError):
        folder.read("none")
    folder.delete("a.bin")
    folder.delete("a.bin")  # Another worker was faster.
    assert not {path for path in folder.names() if not path.startswith(".")}
