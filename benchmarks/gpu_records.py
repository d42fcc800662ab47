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

from record_page import markdown

FOLDER = Path(__file__).resolve().parent / "records"
FORMAT = 1
KINDS = ("gpu", "stand-in")
OUTCOMES = ("passed", "failed", "time limit", "left out")
DTYPES = ("float32", "float16")

Record = dict[str, Any]
_Check = Callable[[Any], bool]


# -- the fields --------------------------------------------------------------------------------------------------------


def _text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _positive(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _from_zero(value: Any) -> bool:
    return (_positive(value) or value == 0) and not isinstance(value, bool)


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
    "agreeing": (_or_unknown(_from_zero), "share of the boxes that torchvision has too, from 0 to 1"),
    "worst_pixels": (_or_unknown(_from_zero), "largest difference to torchvision of those, in pixels"),
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
