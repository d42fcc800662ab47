"""Records of runs on GPUs: fields, a check, and their Markdown. benchmarks/records/README.md explains the fields.

    python benchmarks/gpu_records.py           # checks every record, and writes its Markdown anew

Needs nothing but Python, because `make gpu` runs on machines where nothing else is installed yet.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent / "records"
FORMAT = 1
KINDS = ("gpu", "stand-in")
OUTCOMES = ("passed", "failed", "time limit", "left out")
DTYPES = ("float32", "float16")
STAND_IN = "This record is of stand-ins for a GPU. It shows that the program runs. Its times mean nothing."

Record = dict[str, Any]
_Check = Callable[[Any], bool]


# -- the fields --------------------------------------------------------------------------------------------------------


def _text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _positive(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _share(value: Any) -> bool:
    return _positive(value) and value <= 1


def _matches(pattern: str) -> _Check:
    return lambda value: isinstance(value, str) and re.fullmatch(pattern, value) is not None


def _among(values: Sequence[str]) -> _Check:
    return lambda value: value in values


def _or_unknown(check: _Check) -> _Check:
    return lambda value: value is None or check(value)


def _list_of(check: _Check) -> _Check:
    return lambda value: isinstance(value, list) and all(map(check, value))


def _map_of(check: _Check) -> _Check:
    return lambda value: isinstance(value, dict) and all(_text(key) and check(item) for key, item in value.items())


def _shape(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(_count(side) and side > 0 for side in value)


_milliseconds = _or_unknown(_positive)

# Name of the field: (check, what is expected). Every field must be there; unknown values are null.
_RECORD: dict[str, tuple[_Check, str]] = {
    "format": (lambda value: value == FORMAT, f"the number {FORMAT}"),
    "kind": (_among(KINDS), "gpu or stand-in"),
    "name": (_matches(r"[a-z0-9][a-z0-9.-]*"), "lower-case letters, digits, dots and hyphens"),
    "date": (_matches(r"\d{4}-\d{2}(-\d{2})?"), "YYYY-MM-DD, or YYYY-MM where the day is not known"),
    "commit": (_matches(r"[0-9a-f]{7,40}"), "7 to 40 hexadecimal digits"),
    "changed_files": (_or_unknown(_count), "number of files that differ from the commit"),
    "machine": (_map_of(_text), "texts by name"),
    "copy_gb_s": (_or_unknown(_positive), "GB/s, bytes read and written"),
    "steps": (_list_of(lambda value: isinstance(value, dict)), "a list of steps"),
    "postprocess": (_list_of(lambda value: isinstance(value, dict)), "a list of cases"),
    "kernels_ms": (_map_of(_positive), "milliseconds by name"),
    "nsight": (_list_of(lambda value: isinstance(value, dict)), "a list of kernels"),
    "frames": (_or_unknown(lambda value: isinstance(value, dict)), "what benchmarks/gpu.py --json writes"),
    "notes": (_list_of(_text), "a list of sentences"),
}
_STEP: dict[str, tuple[_Check, str]] = {
    "part": (_text, "a name"),
    "outcome": (_among(OUTCOMES), ", ".join(OUTCOMES)),
    "seconds": (_or_unknown(_positive), "seconds"),
    "command": (_or_unknown(_text), "a command line"),
    "counts": (_map_of(_count), "numbers by name"),
    "note": (_or_unknown(_text), "a sentence"),
}
_CASE: dict[str, tuple[_Check, str]] = {
    "shape": (_shape, "[height, width, classes]"),
    "dtype": (_or_unknown(_among(DTYPES)), "float32 or float16"),
    "batch": (lambda value: _count(value) and value > 0, "number of images"),
    "passing": (_or_unknown(_share), "share of the logits above the threshold, above 0, at most 1"),
    "logits_mb": (_or_unknown(_positive), "megabytes"),
    "decode_ms": (_milliseconds, "milliseconds"),
    "nms_ms": (_milliseconds, "milliseconds"),
    "both_ms": (_milliseconds, "milliseconds"),
    "plain_pass_ms": (_milliseconds, "milliseconds"),
    "torchvision_ms": (_milliseconds, "milliseconds"),
    "floor_ms": (_milliseconds, "milliseconds"),
    "worst_pixels": (
        _or_unknown(lambda value: value == 0 or _positive(value)),
        "largest difference to torchvision, in pixels",
    ),
}
_NSIGHT: dict[str, tuple[_Check, str]] = {
    "kernel": (_text, "a name"),
    "dtype": (_among(DTYPES), "float32 or float16"),
    "microseconds": (_positive, "microseconds"),
    "dram_percent": (_or_unknown(_positive), "percent of the peak"),
    "registers": (_or_unknown(_count), "registers of a thread"),
    "occupancy_percent": (_or_unknown(_positive), "percent"),
    "blocks": (_or_unknown(_count), "number of blocks"),
    "threads": (_or_unknown(_count), "threads of a block"),
}


def problems(record: Record) -> list[str]:
    """What is wrong with a record; empty if nothing is."""
    found = _wrong("record", record, _RECORD)
    if found:
        return found
    for name, fields in (("steps", _STEP), ("postprocess", _CASE), ("nsight", _NSIGHT)):
        for index, item in enumerate(record[name]):
            found += _wrong(f"{name}[{index}]", item, fields)
    return found


def _wrong(place: str, item: Mapping[str, Any], fields: Mapping[str, tuple[_Check, str]]) -> list[str]:
    found = [f"{place}: the field {name!r} is not known" for name in item if name not in fields]
    for name, (is_right, expected) in fields.items():
        if name not in item:
            found.append(f"{place}: the field {name!r} is missing; expected {expected}, or null if it is not known")
        elif not is_right(item[name]):
            found.append(f"{place}: {name} is {item[name]!r}; expected {expected}")
    return found


# -- Markdown ----------------------------------------------------------------------------------------------------------


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


def markdown(record: Record) -> str:
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
            "plain pass, ms", "both / plain pass", "torchvision, ms", "torchvision / both")  # fmt: skip
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


# -- files -------------------------------------------------------------------------------------------------------------


def read(path: Path) -> Record:
    """A record of a file; ValueError with all that is wrong with it."""
    record: Record = json.loads(path.read_text(encoding="utf-8"))
    found = problems(record)
    if not found and path.stem != record["name"]:
        found = [f"the name is {record['name']!r}; expected the name of the file, {path.stem!r}"]
    if found:
        raise ValueError(f"{path.name} is not a record of a GPU run:\n" + "\n".join(found))
    return record


def records(folder: Path = FOLDER) -> list[Record]:
    """All records, the newest first."""
    return sorted(map(read, folder.glob("*.json")), key=lambda record: (record["date"], record["name"]), reverse=True)


def write(record: Record, folder: Path) -> Path:
    """Writes JSON and Markdown; returns the path of the JSON file."""
    found = problems(record)
    if found:
        raise ValueError("The record is not complete:\n" + "\n".join(found))
    if record["kind"] != "gpu" and folder.resolve() == FOLDER:
        raise ValueError("benchmarks/records/ takes records of real GPUs only.")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{record['name']}.json"
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    path.with_suffix(".md").write_text(markdown(record), encoding="utf-8")
    return path


if __name__ == "__main__":
    try:
        for one in records():
            write(one, FOLDER)
            print(f"{one['name']}: checked, Markdown written")
    except ValueError as error:
        sys.exit(str(error))
