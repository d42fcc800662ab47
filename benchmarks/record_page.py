"""The Markdown of records of runs on GPUs, and its parts. Needs nothing but Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

STAND_IN = "This record is of stand-ins for a GPU. It shows that the program runs. Its times mean nothing."


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table."""
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]


def number(value: float | None, digits: int = 3) -> str:
    """A number with so many significant digits, in plain notation; nothing if it is not known."""
    if value is None:
        return ""
    if value == 0:
        return "0"
    rounded = float(f"{value:.{digits}g}")
    return f"{rounded:.10f}".rstrip("0").rstrip(".")


def share(value: float | None) -> str:
    return "" if value is None else f"{number(100 * value, 4)}%"


def ratio(above: float | None, below: float | None) -> str:
    return "" if above is None or below is None else f"{number(above / below)} x"


def counts(step: Mapping[str, Any]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in step["counts"].items())


def step_row(step: Mapping[str, Any]) -> list[str]:
    found = [part for part in (counts(step), step["note"]) if part]
    return [step["part"], step["outcome"], number(step["seconds"]), ". ".join(found)]


def case_name(case: Mapping[str, Any]) -> str:
    height, width, classes = case["shape"]
    images = f", {case['batch']} images" if case["batch"] > 1 else ""
    dtype = f", {case['dtype']}" if case["dtype"] else ""
    return f"{height} x {width}, {classes} class{'es' if classes > 1 else ''}{dtype}{images}"


def markdown(record: Mapping[str, Any]) -> str:
    """The Markdown page of a record."""
    lines = [f"# {record['name']}", ""]
    if record["kind"] == "stand-in":
        lines += [f"**{STAND_IN}**", ""]
    changed = record["changed_files"]
    state = {None: "", 0: ", no file changed"}.get(changed, f", **{changed} files changed since**")
    lines += [f"- date: {record['date']}", f"- commit: {record['commit']}{state}"]
    lines += [f"- {name}: {fact}" for name, fact in record["machine"].items()]
    if record["copy_gb_s"] is not None:
        lines.append(f"- copy inside the GPU's memory: {number(record['copy_gb_s'], 4)} GB/s, read and written")
    lines += ["", "## Steps", "", *table(("step", "outcome", "seconds", "what was found"), [
        step_row(step) for step in record["steps"]
    ])]  # fmt: skip
    if record["postprocess"]:
        lines += ["", "## Decode and NMS, in a CUDA graph", "", *postprocess_table(record["postprocess"]), ""]
        lines += ["Floor: bytes of the logits over the bandwidth of a copy. Plain pass: `amax` over the same logits."]
    if record["kernels_ms"]:
        rows = [(name, number(value)) for name, value in record["kernels_ms"].items()]
        lines += ["", "## Other kernels, in a CUDA graph", "", *table(("kernel", "ms"), rows)]
    if record["nsight"]:
        lines += ["", "## Nsight Compute", "", *_nsight_table(record["nsight"])]
    if record["frames"] is not None:
        lines += ["", "## Whole frames", "", *_frames_table(record["frames"])]
    if record["notes"]:
        lines += ["", "## Notes", "", *(f"- {note}" for note in record["notes"])]
    return "\n".join(lines) + "\n"


def postprocess_table(cases: Sequence[Mapping[str, Any]]) -> list[str]:
    head = ("heads", "above the threshold", "decode, ms", "NMS, ms", "both, ms", "floor, ms", "both / floor",
            "plain pass, ms", "both / plain pass", "torchvision, ms", "torchvision / both", "same boxes")  # fmt: skip
    rows = [
        (
            case_name(case),
            share(case["passing"]),
            *(number(case[name], 4) for name in ("decode_ms", "nms_ms", "both_ms", "floor_ms")),
            ratio(case["both_ms"], case["floor_ms"]),
            number(case["plain_pass_ms"], 4),
            ratio(case["both_ms"], case["plain_pass_ms"]),
            number(case["torchvision_ms"], 4),
            ratio(case["torchvision_ms"], case["both_ms"]),
            share(case["agreeing"]),
        )
        for case in cases
    ]
    return table(head, rows)


def _nsight_table(kernels: Sequence[Mapping[str, Any]]) -> list[str]:
    fields = ("microseconds", "dram_percent", "registers", "occupancy_percent", "blocks", "threads")
    head = ("kernel", "us", "% of the DRAM peak", "registers", "occupancy, %", "blocks", "threads of a block")
    rows = [(f"`{kernel['kernel']}`, {kernel['dtype']}", *(number(kernel[name], 4) for name in fields))
            for kernel in kernels]  # fmt: skip
    return table(head, rows)


def _frames_table(frames: Mapping[str, Any]) -> list[str]:
    rows = [
        (
            f"{case['model']}, {case['precision']}, {case['input'][2]} x {case['input'][3]}",
            number(case["stages_ms"]["network"]),
            number(case["frame_ms"]["graph replay"]),
            number(max(case["frames_per_second"].values())),
            share(case["postprocess_share"]),
        )
        for case in frames["cases"]
    ]
    return table(("engine", "network, ms", "frame, ms", "frames per second", "decode + NMS / network"), rows)
