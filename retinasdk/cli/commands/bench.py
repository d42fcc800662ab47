"""`retinasdk bench`: models, devices, precisions and sizes timed in turn."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from retinasdk._util.charts import check_charts
from retinasdk._util.files import write_atomically
from retinasdk.benchmark.bench import DEFAULT_ROUNDS, bench
from retinasdk.benchmark.plot import chart
from retinasdk.benchmark.table import markdown
from retinasdk.cli.arguments import check_file, image_size, names, progress


def add_parser(commands: Any) -> None:
    """Adds the command."""
    time = commands.add_parser("bench", help="time models, devices, precisions and sizes against each other")
    time.add_argument("models", nargs="+", metavar="MODEL", help="bundled names, ONNX files or engines")
    time.add_argument("--device", type=names, default=["auto"], metavar="D,...", help="of auto, cpu, cuda (auto)")
    time.add_argument(
        "--precision", type=names, default=[], metavar="P,...", help="of fp32, fp16, int8, on the GPU (fp16)"
    )
    time.add_argument(
        "--size",
        type=image_size,
        nargs="+",
        action="extend",
        default=[],
        metavar="HxW",
        help="sizes that the network's input fits into, such as 480x640 (the model's own)",
    )
    time.add_argument("--images", type=Path, metavar="DIR", help="folder of images to take in turn (a seeded picture)")
    time.add_argument("--annotations", type=Path, metavar="COCO.json", help="their boxes: adds AP to the times")
    time.add_argument("--batch", type=int, default=1, metavar="N", help="images a call (%(default)s)")
    time.add_argument("--rounds", type=int, default=DEFAULT_ROUNDS, metavar="N", help="timed rounds (%(default)s)")
    time.add_argument("--threads", type=int, metavar="N", help="of the CPU inside one call (one a core)")
    time.add_argument("--json", type=Path, metavar="FILE", help="write the report as JSON")
    time.add_argument("--plot", type=Path, metavar="FILE.png", help="draw AP against time; without AP, the stages")
    time.add_argument("--published", action="store_true", help="put figures that others published behind AP and time")
    time.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Does it. Raises the errors of `bench`."""
    for path in (arguments.json, arguments.plot):
        if path is not None:
            check_file(path)
    if arguments.plot is not None:
        if arguments.plot.suffix.lower() != ".png":
            raise ValueError(f"{arguments.plot}: the picture is a PNG; name it {arguments.plot.stem}.png")
        check_charts()
    report = bench(
        arguments.models,
        devices=arguments.device,
        precisions=arguments.precision,
        sizes=arguments.size,
        images=arguments.images,
        annotations=arguments.annotations,
        batch=arguments.batch,
        rounds=arguments.rounds,
        threads=arguments.threads,
        published=arguments.published,
        progress=progress,
    )
    print(markdown(report))
    if arguments.json is not None:
        write_atomically(arguments.json, report.to_json().encode())
        print(f"wrote {arguments.json}")
    if arguments.plot is not None:
        write_atomically(arguments.plot, chart(report))
        print(f"wrote {arguments.plot}")
