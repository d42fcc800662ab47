"""Counts objects over time in a video: a CSV, a plot, and a line for each time their number changes.

python count_in_video.py VIDEO COUNTS.csv [--plot counts.png] [--classes person] [--score 0.5] [--every 1]
    [--model NAME_OR_ONNX]

The count of a frame is how many objects score above --score. Detectors miss one now and then, so what is plotted and
printed is the median over the second around each frame: a count that lasts less than half a second does not show.
Needs `pip install 'retinasdk[video]'`, and matplotlib for --plot.
"""

import argparse
import csv
import sys
from pathlib import Path

import numpy as np

import retinasdk
from retinasdk.live import RawFrame, Video

SMOOTH_S = 1.0


class Thinned(Video):
    """Every n-th frame of a video; the others are decoded, which is quick, and go no further."""

    def __init__(self, path: Path, every: int) -> None:
        super().__init__(path)
        self.every = every

    def read(self) -> RawFrame | None:
        for _ in range(self.every - 1):
            super().read()
        return super().read()


def count(video: Path, detector: retinasdk.Detector, classes: list[str], score: float, every: int) -> np.ndarray:
    """(frames, 2) float64: the time of each frame in seconds, and how many objects are in it."""

    def detect(image: np.ndarray) -> retinasdk.Detections:
        return detector(image, classes=classes, score_threshold=score)

    with retinasdk.stream(Thinned(video, every), detect, policy="all") as frames:
        # A frame on which the detector failed has no detections.
        rows = [(frame.time_s, len(frame.detections)) for frame in frames if frame.detections is not None]
    return np.array(rows, np.float64).reshape(-1, 2)


def smoothed(counts: np.ndarray) -> np.ndarray:
    """(frames,) int: the median of the counts within half a second of each frame; of two middle ones the lower."""
    times = counts[:, 0]
    first = np.searchsorted(times, times - SMOOTH_S / 2, side="left")
    last = np.searchsorted(times, times + SMOOTH_S / 2, side="right")
    windows = [np.sort(counts[start:end, 1]) for start, end in zip(first, last, strict=True)]
    return np.array([window[(len(window) - 1) // 2] for window in windows], int)


def changes(counts: np.ndarray) -> list[tuple[float, int]]:
    """(seconds, count) where the smoothed count changes, the beginning included."""
    smooth = smoothed(counts)
    starts = np.flatnonzero(np.diff(smooth, prepend=-1))
    return [(float(counts[start, 0]), int(smooth[start])) for start in starts]


def plot(counts: np.ndarray, label: str, path: Path) -> None:
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(9, 2.8), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(counts[:, 0], counts[:, 1], color="#b8c4d0", linewidth=0.8, drawstyle="steps-mid", label="each frame")
    axes.plot(
        counts[:, 0], smoothed(counts), color="#1f6feb", linewidth=1.8, drawstyle="steps-mid", label="median of 1 s"
    )
    axes.set(xlabel="seconds", ylabel=label, ylim=(-0.1, counts[:, 1].max() + 0.6))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(loc="upper right", ncols=2, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description="Count objects over time in a video.")
    parser.add_argument("video", type=Path)
    parser.add_argument("counts", type=Path, help="the CSV file to write")
    parser.add_argument("--plot", type=Path, help="a picture to draw the counts in")
    parser.add_argument("--classes", nargs="+", default=["person"], metavar="CLASS")
    parser.add_argument("--score", type=float, default=0.5)
    parser.add_argument("--every", type=int, default=1, metavar="N", help="only every N-th frame")
    parser.add_argument("--model", help="a bundled name or an ONNX file (default: people)")
    arguments = parser.parse_args()
    if arguments.plot is not None:
        import matplotlib  # noqa: F401  (a missing package is told before the video is read)

    detector = retinasdk.Detector(arguments.model)
    counts = count(arguments.video, detector, arguments.classes, arguments.score, arguments.every)
    label = ", ".join(arguments.classes)
    for seconds, number in changes(counts):
        print(f"from {seconds:.1f} s: {label} {number}")
    with open(arguments.counts, "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["time_s", "count", "smoothed"])
        for (seconds, number), smooth in zip(counts, smoothed(counts), strict=True):
            table.writerow([f"{seconds:.3f}", int(number), smooth])
    if arguments.plot is not None:
        plot(counts, label, arguments.plot)


if __name__ == "__main__":
    try:
        main()
    except (retinasdk.RetinaSdkError, ImportError, OSError, ValueError) as error:
        sys.exit(f"error: {error}")
