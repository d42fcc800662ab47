"""Writes what the documentation says of GPUs from benchmarks/records: docs/how/tested.md and tables of performance.md.

    python benchmarks/tested_page.py

What is not of a record stands in benchmarks/records/tested_template.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from gpu_records import FOLDER, Record, records
from record_page import case_name, counts, number, postprocess_table, table

_DOCS = FOLDER.parents[1] / "docs"
TESTED, PERFORMANCE = _DOCS / "how" / "tested.md", _DOCS / "performance.md"
TEMPLATE = FOLDER / "tested_template.md"
_BEGIN, _END = "<!-- From benchmarks/records, by benchmarks/tested_page.py: -->\n", "<!-- End of the records. -->\n"


def tested_page(found: Sequence[Record]) -> str:
    """The text of docs/how/tested.md."""
    chips = dict.fromkeys(_chip(record) for record in found if _passed_tests(record))
    whole = [_chip(record) for record in found if record["frames"] is not None]
    frames = (
        f"on {_listed(dict.fromkeys(whole))}"
        if whole
        else "only over software stand-ins for driver and TensorRT, with results equal to the CPU path"
    )
    text = TEMPLATE.read_text(encoding="utf-8")
    runs = "\n\n".join("\n".join(_run(record)) for record in found)
    return text.replace("{chips}", _listed(chips)).replace("{frames}", frames).replace("{runs}", runs)


def performance_page(text: str, found: Sequence[Record]) -> str:
    """The text of docs/performance.md with the tables of today's records in it."""
    before, begin, rest = text.partition(_BEGIN)
    _, end, behind = rest.partition(_END)
    if not begin or not end:
        raise ValueError(f"{PERFORMANCE} has no place for the records; expected the lines {_BEGIN!r} and {_END!r}")
    tables = [line for record in found if record["postprocess"] for line in _times(record)]
    return before + _BEGIN + "\n" + "\n".join(tables) + "\n" + _END + behind


def _passed_tests(record: Record) -> bool:
    return any(step["part"] == "tests" and step["counts"].get("passed", 0) for step in record["steps"])


def _chip(record: Record) -> str:
    return str(record["machine"].get("GPU", "an unknown GPU")).partition(",")[0]


def _listed(names: Iterable[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


def _heading(record: Record) -> str:
    facts = [f"{name} {record['machine'][name]}" for name in ("driver", "CUDA") if name in record["machine"]]
    where = ", ".join([record["machine"].get("GPU", "unknown GPU"), *facts])
    changed = record["changed_files"]
    return (
        f"{where}; {record['date']}, commit {record['commit'][:7]}{f' with {changed} files changed' * bool(changed)}."
    )


def _run(record: Record) -> list[str]:
    rows = []
    for step in record["steps"]:
        said = ". ".join(part for part in (counts(step), step["note"]) if part)
        rows.append((step["part"], f"{step['outcome']}{f': {said}' * bool(said)}"))
    lines = [f"### {record['name']}", "", _heading(record), "", *table(("step", "result"), [*rows, *_ratios(record)])]
    if record["notes"]:
        lines += ["", *(f"- {note}" for note in record["notes"])]
    return lines


def _ratios(record: Record) -> list[tuple[str, str]]:
    """What the times come to; by cases that were measured both ways."""
    rows = []
    for below, above, what in (
        ("both_ms", "torchvision_ms", "decode and NMS against torchvision on the same card"),
        ("floor_ms", "both_ms", "decode and NMS against the memory limit"),
        ("plain_pass_ms", "both_ms", "decode and NMS against a plain pass over the logits"),
    ):
        measured = [case for case in record["postprocess"] if case[above] is not None and case[below] is not None]
        if measured:
            ratios = sorted(case[above] / case[below] for case in measured)
            word = "as fast" if below == "both_ms" else "as long"
            least, most = number(ratios[0]), number(ratios[-1])
            spread = f"{least} times" if least == most else f"{least} to {most} times"
            rows.append((what, f"{spread} {word}, over {len(measured)} case{'s' * (len(measured) > 1)}"))
    timed = [(case[name], case) for case in record["postprocess"] for name in ("both_ms", "decode_ms") if case[name]]
    if timed:
        slowest, case = max(timed, key=lambda item: item[0])
        passing = "" if case["passing"] is None else f", {number(100 * case['passing'])}% above the threshold"
        rows.append(("slowest case", f"{number(slowest, 4)} ms: {case_name(case)}{passing}"))
    return rows


def _times(record: Record) -> list[str]:
    copy = record["copy_gb_s"]
    lines = [_heading(record) + (f" A copy inside the GPU's memory: {number(copy, 4)} GB/s." if copy else ""), ""]
    lines += postprocess_table(record["postprocess"])
    return [*lines, ""]


def pages() -> dict[Path, str]:
    """The text that each page should have."""
    found = records()
    performance = performance_page(PERFORMANCE.read_text(encoding="utf-8"), found)
    return {TESTED: tested_page(found), PERFORMANCE: performance}


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
