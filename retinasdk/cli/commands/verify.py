"""`retinasdk verify`: compares a model with its training framework's boxes, or on two backends."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from retinasdk import list_images
from retinasdk.cli.arguments import add_command, add_json
from retinasdk.cli.file_arguments import Input, model_files
from retinasdk.cli.output import print_text, text_stream, write_json
from retinasdk.cli.progress import Display
from retinasdk.tensorrt.engine_info import PRECISIONS
from retinasdk.verification.expected_boxes import BOX_FORMATS
from retinasdk.verification.verify import Verification, verify
from retinasdk.verification.verify_boxes import BoxComparison, verify_boxes

_FAILED = 1
_PIXELS, _SCORE = 0.1, 0.001
_SHOWN = 5


def add_parser(commands: Any) -> None:
    """Adds the command."""
    parser = add_command(
        commands,
        "verify",
        description="Checks that a model gives on the GPU, or from another file, what its ONNX file gives on the CPU. "
        "Compares the head outputs and the boxes on the same images, within the tolerance of the precision. With "
        "--expected, compares the boxes of one image with those that the training framework printed. The exit status "
        "is 1 if they differ by more.",
        examples=[
            (
                "Compare an imported model with the boxes of its training framework",
                "retinasdk verify model.onnx --expected boxes.json --image photo.jpg",
            ),
            ("Check the GPU of this machine with the bundled model", "retinasdk verify people"),
            (
                "Check an engine on your own images",
                "retinasdk verify model.onnx --against model.engine --images photos/",
            ),
        ],
    )
    models = parser.add_argument_group("Input")
    models.add_argument(
        "model",
        action=Input,
        files=model_files,
        metavar="MODEL",
        help="the reference, which runs on the CPU: ONNX file, or name of a bundled model",
    )
    models.add_argument(
        "--against",
        action=Input,
        files=model_files,
        metavar="FILE",
        help="the file that is tested: an ONNX file or an engine; default: MODEL itself",
    )
    models.add_argument(
        "--images", action=Input, type=Path, metavar="DIR", help="folder of images; default: generated pictures"
    )
    framework = parser.add_argument_group("Boxes of the training framework")
    framework.add_argument(
        "--expected",
        action=Input,
        type=Path,
        metavar="FILE.json",
        help='boxes that the framework found in --image: {"boxes": [[x1, y1, x2, y2], ...], "scores": [...], '
        '"labels": [...]} with class indices or names, or a COCO results list',
    )
    framework.add_argument(
        "--image", action=Input, type=Path, metavar="FILE", help="the image in which the framework found them"
    )
    framework.add_argument(
        "--box-format", choices=BOX_FORMATS, help="format of the expected boxes; default: xyxy, xywh in a COCO list"
    )
    framework.add_argument(
        "--pixels", type=float, default=_PIXELS, help="edges may differ by this many pixels; default: %(default)s"
    )
    framework.add_argument(
        "--score-tolerance", type=float, default=_SCORE, help="scores may differ by this; default: %(default)s"
    )
    comparison = parser.add_argument_group("Comparison")
    comparison.add_argument(
        "--precision",
        choices=PRECISIONS,
        help="precision that sets the tolerance, and of an engine built here; default: the engine's",
    )
    comparison.add_argument(
        "--score", type=float, help="compare boxes with a confidence score above this, 0 to 1; default: the model's"
    )
    add_json(parser.add_argument_group("Output"), "the numbers")
    parser.add_argument_group("Device").add_argument(
        "--device",
        choices=("cuda", "cpu"),
        help="where the tested file runs; default: cuda, and cpu with --expected",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Runs the command.

    Returns:
        The exit status: 1 if the two differ by more than the tolerance, else 0.

    Raises:
        RetinaSdkError: An error of `verify`.
        ValueError: An option is out of range.
    """
    if arguments.expected is not None or arguments.image is not None:
        return _run_boxes(arguments)
    with Display(quiet=arguments.quiet) as progress:
        progress.update("load the model")
        result = verify(
            arguments.model,
            None if arguments.images is None else list_images(arguments.images),
            device=arguments.device or "cuda",
            against=arguments.against,
            precision=arguments.precision,
            score_threshold=arguments.score,
            progress=progress,
        )
    print_text(_report(result), file=text_stream(arguments.json))
    write_json(arguments.json, json.dumps(result.to_dict(), indent=1) + "\n")
    return 0 if result.passed else _FAILED


def _run_boxes(arguments: argparse.Namespace) -> int:
    if arguments.expected is None or arguments.image is None:
        raise ValueError("--expected FILE.json and --image FILE belong together: give both")
    for option in ("against", "images", "precision"):
        if getattr(arguments, option) is not None:
            raise ValueError(f"--{option} compares two backends and does not go with --expected; leave one of them out")
    with Display(quiet=arguments.quiet) as progress:
        progress.update("compare")
        result = verify_boxes(
            arguments.model,
            arguments.expected,
            arguments.image,
            box_format=arguments.box_format,
            pixels=arguments.pixels,
            score=arguments.score_tolerance,
            score_threshold=arguments.score,
            device=arguments.device or "cpu",
        )
    print_text(_box_report(result), file=text_stream(arguments.json))
    write_json(arguments.json, json.dumps(result.to_dict(), indent=1) + "\n")
    return 0 if result.passed else _FAILED


def _box_report(result: BoxComparison) -> str:
    lines = [
        f"{result.model} on {result.image}: {result.agreeing} of {result.expected} expected boxes agree within "
        f"{result.pixels:g} px and {result.score:g} of score; retinasdk found {result.found} with scores above "
        f"{result.score_threshold:g}",
        f"  the largest differences among them: {result.max_pixels:.3f} px, {result.max_score:.5f} of score",
    ]
    if result.at_threshold:
        lines.append(
            f"  {result.at_threshold} more at the score threshold are only on one side, which is no difference"
        )
    for title, boxes in (("only expected", result.missing), ("only found", result.extra)):
        lines += [f"  {title}: {text}" for text in boxes[:_SHOWN]]
        lines += [f"  {title}: and {len(boxes) - _SHOWN} more"] if len(boxes) > _SHOWN else []
    lines += [f"probable cause: {text}" for text in result.causes]
    if result.expected == 0:
        return "\n".join([*lines, "FAILED there are no expected boxes, which shows nothing; lower the score threshold"])
    failed = f"FAILED {len(result.missing)} expected boxes are not found, {len(result.extra)} found ones not expected"
    return "\n".join([*lines, "passed" if result.passed else failed])


def _report(result: Verification) -> str:
    tolerance, count = result.tolerance, len(result.images)
    lines = [
        f"{result.tested} against {result.reference}, {count} image{'' if count == 1 else 's'}, "
        f"tolerance of {result.precision}",
        f"  {'level':5s}  {'head':6s}  {'difference':>10s}  {'of spread':>9s}  beyond {tolerance.element:.1%} of it "
        f"(allowed {tolerance.share:.2%})",
    ]
    for item in result.tensors:
        lines.append(
            f"  {item.level:5d}  {item.head:6s}  {item.max_abs:10.3g}  {item.max_relative:9.2%}  "
            f"{item.share_beyond:7.2%}  {'ok' if result.is_within(item) else 'FAILED'}"
        )
    worst_score = max(item.max_score for item in result.images)
    worst_pixels = max(item.max_pixels for item in result.images)
    equal = sum(item.postprocess == "equal" for item in result.images)
    undecided = sum(item.postprocess == "undecided" for item in result.images)
    lines += [
        f"  boxes with scores above {result.score_threshold:g}: {result.total('reference')} in the reference, "
        f"{result.total('tested')} in the tested",
        f"    {result.total('missing')} missing and {result.total('extra')} extra at IoU {tolerance.iou:g} "
        f"(allowed {result.allowed_unmatched} together); "
        f"{result.total('suppressed_in_one')} found by both, suppressed by NMS in one",
        f"    pairs differ by up to {worst_score:.4f} in score (allowed {tolerance.score:g}) and {worst_pixels:.2f} px",
        f"  decode and NMS equal to the CPU's bit for bit, with the same head outputs: {equal} of {count}"
        + (f" ({undecided} undecided: head outputs change from run to run)" if undecided else ""),
    ]
    lines += [f"FAILED {failure}" for failure in result.failures]
    return "\n".join(lines if result.failures else [*lines, "passed"])
