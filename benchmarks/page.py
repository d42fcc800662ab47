"""One page: this package beside torchvision, supervision and SAHI. Its network is compared by cpu_table.py.

    make bench          # sets up the peers in build/bench, and runs cpu_table.py and this
    python benchmarks/page.py [--rounds N] [--threads N]

Every section takes one model and one photo, and all of them take turns (A B A B ...) in one process, with as many
threads each; a ratio is the peer's time over ours, medians of the ratios within a round, with quartiles. Peers that are
not installed are left out.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nms
import numpy as np
import postprocess
import tiles
import whole_call
from timing import Times, interleave, print_machine

import retinasdk
from retinasdk.convert.flavours import flavour_spec
from retinasdk.images import as_rgb
from retinasdk.pipeline.postprocess import postprocess as run_postprocess

OURS = "retinasdk"
PHOTOS = Path(__file__).resolve().parent.parent / "examples" / "photos"
PACKAGES = ("onnxruntime", "torch", "torchvision", "supervision", "sahi", "numpy")
EXTRA_WARMUP = 1
SPARSE = 2e-5  # of a tile's scores pass: some dozens of boxes


@dataclass(frozen=True)
class Section:
    """What took turns; times in milliseconds by name, ours under OURS. notes: what differs, by name."""

    title: str
    times: Times
    notes: dict[str, str]


def photo_to_boxes(rounds: int, threads: int) -> Section:
    """torchvision's ResNet-50-FPN with random weights at 800 x 1088: the whole call."""
    import torch

    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    photo = np.ascontiguousarray(as_rgb(PHOTOS / "people" / "grace_hopper.jpg")[:384, :512])  # 3 : 4
    spec = flavour_spec("torchvision")
    model, tensor = whole_call.prepared_model(photo, spec.score_threshold)
    with TemporaryDirectory() as folder:
        path = whole_call.export_heads(model, tensor, spec, Path(folder) / "retinanet.onnx")
        calls: dict[str, Callable[[], object]] = {}
        detector = retinasdk.Detector(path, threads=threads)
        direct = retinasdk.Detector(path, threads=threads, convolution="direct")
        calls[OURS] = lambda: detector(photo)
        calls[f'{OURS}, convolution="direct"'] = lambda: direct(photo)
        calls["torchvision, eager"] = lambda: model([whole_call.as_tensor(photo)])
        times = interleave(calls, rounds=rounds, warmup=EXTRA_WARMUP)
    return Section("photo to boxes: ResNet-50-FPN, 800 x 1088, 91 classes", times, {})


def heads_to_boxes(rounds: int, threads: int) -> Section:
    import torch

    spec = flavour_spec("torchvision")
    heads = postprocess.random_heads(spec, passing=0.003)
    torch.set_num_threads(threads)
    threshold = spec.score_threshold
    calls: dict[str, Callable[[], object]] = {
        OURS: lambda: run_postprocess(heads, spec, [postprocess.TRANSFORM], score_threshold=threshold),
        "torchvision": postprocess.torchvision_postprocess(heads, spec),
    }
    times = interleave(calls, rounds=rounds)
    notes = {OURS: "one thread"}
    return Section("heads to boxes: 163,206 anchors x 91 classes, 0.3 % above the threshold", times, notes)


def suppression(rounds: int, threads: int) -> Section:
    count, classes = 5000, 91
    times = interleave(nms.contestants(count, classes), rounds=rounds)
    return Section(f"NMS: {count:,} boxes of {classes} classes", times, {OURS: "one thread"})


def large_photo(rounds: int, threads: int) -> Section:
    photo = as_rgb(PHOTOS / "tree-crowns" / "yellowstone.jpg")
    detector = retinasdk.Detector("tree-crowns", threads=threads)
    side = 400
    calls: dict[str, Callable[[], object]] = {
        OURS: lambda: detector(photo, tiles=retinasdk.Tiles(side, tiles.OVERLAP)),
    }
    notes = {}
    if importlib.util.find_spec("sahi"):
        direct = retinasdk.Detector("tree-crowns", threads=threads, convolution="direct")
        merging = tiles.SAHI["SAHI, GREEDYNMM by IoS"]  # its default
        for name, network, note in (
            ("SAHI", direct, "the network as ONNX Runtime has it"),
            ("SAHI around ours", detector, "our detector, slice by slice"),
        ):
            sliced = tiles.sahi_caller(network, side, detector.spec.score_threshold, **merging)
            calls[name] = partial(sliced, photo)
            notes[name] = note
    times = interleave(calls, rounds=rounds)
    return Section(f"tiles of {side}: tree-crowns, photo of {photo.shape[0]} x {photo.shape[1]}", times, notes)


def large_photo_of_torchvision(rounds: int, threads: int) -> Section:
    """SAHI as it comes: its own model type for torchvision, in tiles that torchvision enlarges to 800 pixels."""
    import torch
    from sahi import AutoDetectionModel
    from sahi.predict import get_sliced_prediction

    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    photo = as_rgb(PHOTOS / "tree-crowns" / "yellowstone.jpg")
    side, threshold = 400, 0.4
    model, tensor = whole_call.prepared_model(photo[:side, :side], threshold, passing=SPARSE)
    spec = flavour_spec("torchvision")
    with TemporaryDirectory() as folder:
        path = whole_call.export_heads(model, tensor, spec, Path(folder) / "retinanet.onnx")
        detector = retinasdk.Detector(path, threads=threads)
        labels = {str(index): label for index, label in enumerate(detector.labels)}
        sliced = AutoDetectionModel.from_pretrained(
            "torchvision", model=model, confidence_threshold=threshold, category_mapping=labels, device="cpu"
        )
        options: dict[str, float] = {f"slice_{axis}": side for axis in ("height", "width")}
        options |= {f"overlap_{axis}_ratio": tiles.OVERLAP for axis in ("height", "width")}
        calls: dict[str, Callable[[], object]] = {
            OURS: lambda: detector(photo, tiles=retinasdk.Tiles(side, tiles.OVERLAP), score_threshold=threshold),
            "SAHI": lambda: get_sliced_prediction(photo, sliced, perform_standard_pred=False, verbose=0, **options),
        }
        times = interleave(calls, rounds=min(rounds, 3), warmup=EXTRA_WARMUP)
    title = f"tiles of {side}: ResNet-50-FPN at 800 x 800, photo of {photo.shape[0]} x {photo.shape[1]}"
    return Section(title, times, {"SAHI": "torchvision eager, as it comes"})


def many_photos(rounds: int, threads: int) -> Section:
    paths = retinasdk.list_images(PHOTOS / "people") * 8
    detector = retinasdk.Detector("people", threads=threads)
    calls: dict[str, Callable[[], object]] = {
        OURS: lambda: list(detector.predict(paths)),
        f"{OURS}, one by one": lambda: [detector(path) for path in paths],
    }
    times = interleave(calls, rounds=rounds, warmup=EXTRA_WARMUP)
    return Section(f"files to boxes: people, {len(paths)} JPEG files", times, {OURS: "Detector.predict"})


def rows(section: Section) -> Iterator[tuple[str, str, str]]:
    """(who, ratio to ours with quartiles, milliseconds)."""
    for name, values in section.times.items():
        low, middle, high = np.percentile(values / section.times[OURS], [25, 50, 75])
        note = f" ({section.notes[name]})" if name in section.notes else ""
        ratio = "1" if name == OURS else f"{middle:.2f}, {low:.2f} to {high:.2f}"
        yield name + note, ratio, f"{np.median(values):.1f}"


def print_section(section: Section) -> None:
    """As a table in Markdown, so that a page can be kept."""
    print(f"\n**{section.title}**\n\n| who | time over ours, quartiles | median ms |\n|---|---|---|")
    for who, ratio, milliseconds in rows(section):
        print(f"| {who} | {ratio} | {milliseconds} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of each")
    arguments = parser.parse_args()
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    print_machine("retinasdk", *(name for name in PACKAGES if name not in missing))
    print(f"threads: {arguments.threads} each; left out, as they are not installed: {', '.join(missing) or 'none'}")
    makers: list[Any] = [suppression, large_photo, many_photos]
    if {"torch", "torchvision"}.isdisjoint(missing):
        makers = [photo_to_boxes, heads_to_boxes, *makers]
        if "sahi" not in missing:
            makers.append(large_photo_of_torchvision)
    for make in makers:
        print_section(make(arguments.rounds, arguments.threads))


if __name__ == "__main__":
    main()
