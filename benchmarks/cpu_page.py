"""The tables of CPU speeds in Markdown, from records; and their place in docs/performance.md."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from cpu_contestants import OURS, RUNTIME
from cpu_records import TABLE, Record, quartiles, records
from record_page import table

PAGE = Path(__file__).resolve().parent.parent / "docs" / "performance.md"
_BEGIN = "<!-- From benchmarks/records/cpu, by benchmarks/cpu_table.py --write: -->\n"
_END = "<!-- End of the CPU records. -->\n"

ISA_NAMES = {"avx512": "AVX-512", "avx2": "AVX2", "neon": "NEON", "plain": "no vector instructions"}
_FORCED = (
    "retinasdk was limited to {isa} by `RETINASDK_ISA`, and the oneDNN part of OpenVINO by `ONEDNN_MAX_CPU_ISA`. "
    "ONNX Runtime and ncnn have no such setting and used all instructions of the processor. They would be slower on "
    "one with {isa} only, so these are not the ratios of such a processor."
)


def isa_name(record: Mapping[str, Any]) -> str:
    isa: str = record["isa"]
    return ISA_NAMES.get(isa, isa)


def title(record: Mapping[str, Any]) -> str:
    forced = ", forced on a processor that has more" if record["is_forced"] else ""
    return f"{isa_name(record)}{forced}: {record['machine']['processor']}"


def circumstances(record: Mapping[str, Any]) -> Iterator[str]:
    """The lines that say where, when and with what a record was measured."""
    machine = record["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    others = record["other_work"]
    quiet = "other work was not measured" if others is None else f"other work used {others:.1%} of the processors"
    rounds = f", {record['rounds']} round{'s' * (record['rounds'] != 1)}"
    yield f"{record['date']}, {machine['processor']}, {machine['cores']} cores ({', '.join(machine['instructions'])}),"
    yield f"{machine['system']}; {record['threads']} threads{rounds}; {quiet}. {versions},"
    yield f"commit {record['commit'][:7]}."


def speed_table(record: Record) -> list[str]:
    """The table of a record, and what it shows."""
    rows = []
    ahead = []
    for case in record["cases"]:
        times = {one["name"]: one["times_ms"] for one in case["contestants"]}
        ratios = {name: quartiles(values, times[RUNTIME]) for name, values in times.items()}
        fastest = min(ratios, key=lambda name: ratios[name][1])
        height, width = case["size"]
        first = f"{case['title']}, {height} x {width}"
        for one in case["contestants"]:
            name = one["name"]
            low, middle, high = ratios[name]
            ratio = "1" if name == RUNTIME else f"{middle:.3f} ({low:.3f} to {high:.3f})"
            difference, peak = one["heads_difference"], one["peak_mb"]
            rows.append(
                [
                    first,
                    f"{name}, {one['what']}",
                    f"**{ratio}**" if name == fastest else ratio,
                    f"{np.median(times[name]):.1f}",
                    "" if difference is None else f"{difference:.1g}",
                    "" if peak is None else f"{peak:.0f}",
                ]
            )
            first = ""
            if ratios[name][1] < ratios[OURS][1]:
                more = ratios[OURS][1] / ratios[name][1] - 1
                ahead.append(f"{name} is ahead for {case['title']}: retinasdk takes {more:.1%} more time.")
        for name, why in case["left_out"].items():
            rows.append([first, name, f"left out: {why.replace('|', '/')}", "", "", ""])
    head = ["model", "who", "time over ONNX Runtime", "median ms", "heads differ by", "peak MB"]
    verdict = " ".join(ahead) or "Nobody is ahead of retinasdk in this table."
    return [*table(head, rows), "", verdict, "", "What `auto` chose:", "", *_choices(record)]


def _choices(record: Record) -> Iterator[str]:
    for case in record["cases"]:
        ours = next(one for one in case["contestants"] if one["name"] == OURS)
        yield f"- {case['title']}: {ours['about']['choice']}"


def section(record: Record) -> list[str]:
    lines = [f"### {title(record)}", "", *circumstances(record), "", *speed_table(record), ""]
    if record["is_forced"]:
        lines += [_FORCED.format(isa=isa_name(record)), ""]
    return lines


def page(text: str) -> str:
    """The text of docs/performance.md with the tables of today's records in it."""
    return replaced(text, _BEGIN, _END, [line for record in records(TABLE) for line in section(record)], PAGE)


def replaced(text: str, begin: str, end: str, lines: list[str], page: Path) -> str:
    """The text with these lines between two marks."""
    before, found_begin, rest = text.partition(begin)
    _, found_end, behind = rest.partition(end)
    if not found_begin or not found_end:
        raise ValueError(f"{page} has no place for the records; expected the lines {begin!r} and {end!r}")
    return "\n".join([before + begin, *lines, end + behind])


def write() -> None:
    """Writes the tables into docs/performance.md."""
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
