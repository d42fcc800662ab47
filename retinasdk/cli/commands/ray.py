"""`retinasdk ray`: detects objects in many images on the machines of a Ray cluster."""

from __future__ import annotations

import argparse
import logging
from typing import Any

from retinasdk.cli.arguments import (
    add_classes_and_score,
    add_command,
    add_device,
    add_model,
    add_suppression,
    add_tiles,
    suppression_of,
    tiles_of,
)
from retinasdk.cli.file_arguments import Input
from retinasdk.cli.output import print_text
from retinasdk.cli.progress import Display

_SOME_FAILED, _ALL_FAILED = 1, 2  # exit status


def add_parser(commands: Any) -> None:
    """Adds the command."""
    parser = add_command(
        commands,
        "ray",
        description="Detects objects in any number of images on the machines of a Ray cluster, or on the cores of this "
        "machine, and writes Parquet files. Images that cannot be read become rows with an error. If the command is "
        "killed, the same command continues: no row is written twice, and none is missing.",
        examples=[
            ("Detect on all cores of this machine", "retinasdk ray detect photos/ --out found"),
            (
                "Detect in aerial tiles on the cluster of RAY_ADDRESS, one GPU for each worker",
                "retinasdk ray detect s3://bucket/tiles --out s3://bucket/found \\\n"
                "    --model tree-crowns --device cuda",
            ),
        ],
    )
    source = parser.add_argument_group("Input")
    source.add_argument("action", choices=("detect",), help="detect: detect objects in images")
    source.add_argument(
        "images",
        action=Input,
        files=lambda images, _: [image for image in images if "://" not in image],
        nargs="+",
        metavar="IMAGE",
        help="image files and folders, with the folders inside them, as paths or as URIs such as s3://bucket/tiles; "
        "all machines must be able to read them",
    )
    output = parser.add_argument_group("Output")
    output.add_argument(
        "--out",
        type=str,  # No Output: it may be a URI, and a folder of an earlier run is continued.
        required=True,
        metavar="DIR",
        help="folder or URI for the Parquet files, which all machines must be able to write to; a folder of an earlier "
        "run is continued",
    )
    output.add_argument(
        "--rows",
        choices=("image", "box"),
        default="image",
        help="image: one row for each image, with lists of boxes; box: one row for each box; default: %(default)s",
    )
    output.add_argument(
        "--images-per-file",
        type=int,
        default=256,
        metavar="N",
        help="number of images of each Parquet file; a killed run loses the unfinished files; default: %(default)s",
    )
    output.add_argument(
        "--retry-failed", action="store_true", help="do files of earlier runs again in which images failed"
    )
    detection = parser.add_argument_group("Detection")
    add_model(detection)
    add_classes_and_score(detection)
    add_tiles(parser)
    add_suppression(parser)
    workers = parser.add_argument_group("Workers")
    workers.add_argument(
        "--workers", type=int, metavar="N", help="number of workers; default: as many as the cluster has room for"
    )
    workers.add_argument(
        "--cpus-per-worker",
        type=int,
        default=1,
        metavar="N",
        help="CPU cores of each worker, which are also its threads; default: %(default)s",
    )
    workers.add_argument(
        "--gpus-per-worker",
        type=float,
        metavar="SHARE",
        help="GPUs of each worker, such as 0.5 for two workers on each GPU; default: 1 on the GPU",
    )
    add_device(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Runs the command.

    Returns:
        The exit status: 0, 1 if some of the images failed, or 2 if all did.

    Raises:
        RetinaSdkError: An error of `retinasdk.ray.detect_files`.
        ValueError: An option is out of range.
        OSError: The output cannot be written.
    """
    from retinasdk.ray import detect_files

    if not arguments.verbose:
        logging.getLogger("ray").setLevel(logging.ERROR)
    with Display(quiet=arguments.quiet) as progress:
        progress.update("start Ray")
        report = detect_files(
            arguments.images,
            arguments.out,
            model=arguments.model,
            rows=arguments.rows,
            images_per_file=arguments.images_per_file,
            retry_failed=arguments.retry_failed,
            device=arguments.device,
            workers=arguments.workers,
            cpus_per_worker=arguments.cpus_per_worker,
            gpus_per_worker=arguments.gpus_per_worker,
            score_threshold=arguments.score,
            classes=arguments.classes,
            tiles=tiles_of(arguments),
            suppression=suppression_of(arguments),
            progress=progress,
        )
    done = report.images - report.earlier
    print_text(
        f"wrote {arguments.out}\n"
        f"  {done:,} images, {report.boxes:,} boxes, {report.failed:,} failed"
        + (f"; {report.earlier:,} images were done by earlier runs" if report.earlier else "")
    )
    if not report.failed:
        return 0
    return _SOME_FAILED if report.failed < done else _ALL_FAILED
