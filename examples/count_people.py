"""Counts people in each image of a folder and writes a CSV with the columns image, people, best_score.

python count_people.py FOLDER COUNTS.csv [--model NAME_OR_ONNX] [--score 0.5]

A file that cannot be read gets empty cells and a line on stderr; the others are still counted.
"""

import argparse
import csv
import sys
from pathlib import Path

import retinasdk


def count_people(detector: retinasdk.Detector, path: str, score: float) -> tuple[int, float | None]:
    """The number of people in an image, and the highest of their scores."""
    people = detector(path, classes=["person"], score_threshold=score)
    return len(people), float(people.scores[0]) if len(people) else None  # best first


def main() -> None:
    parser = argparse.ArgumentParser(description="Count people in each image of a folder.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("counts", type=Path, help="the CSV file to write")
    parser.add_argument("--model", help="a bundled name or an ONNX file (default: people)")
    parser.add_argument("--score", type=float, default=0.5)
    arguments = parser.parse_args()

    detector = retinasdk.Detector(arguments.model)
    with open(arguments.counts, "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["image", "people", "best_score"])
        for path in retinasdk.list_images(arguments.folder):
            try:
                people, best = count_people(detector, path, arguments.score)
            except retinasdk.ImageError as error:
                print(error, file=sys.stderr)
                table.writerow([Path(path).name, "", ""])
            else:
                table.writerow([Path(path).name, people, "" if best is None else f"{best:.6f}"])


if __name__ == "__main__":
    try:
        main()
    except (retinasdk.RetinaSdkError, ImportError, OSError, ValueError) as error:
        sys.exit(f"error: {error}")
