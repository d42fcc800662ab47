"""The report of `retinasdk doctor` for people."""

from __future__ import annotations

from collections.abc import Sequence

from retinasdk.doctor.packages import PACKAGES, Finding

_EXTRAS = "extras"
_TITLES = {
    "GPU": "GPU (optional)",
    _EXTRAS: "Optional packages (all that a CPU can use, except [export]: pip install 'retinasdk[all]')",
    "files": "Files",
}


def as_text(findings: Sequence[Finding], conclusion: str, *, can_detect: bool) -> str:
    """Lays findings out as text.

    What matters most comes first: whether detection works, and on which device. What is optional and missing takes one
    line.

    Args:
        findings: The result of each check, those of a section together.
        conclusion: Which device is used, and why.
        can_detect: Whether detection works.

    Returns:
        The report.
    """
    lines = [
        "retinasdk can detect objects on this machine."
        if can_detect
        else "retinasdk cannot detect objects on this machine yet: see 'broken' and 'missing' below.",
        conclusion,
    ]
    shown = _worth_a_line(findings)
    width = max(len(finding.name) for finding in shown)
    section = None
    for finding in shown:
        if finding.section != section:
            section = finding.section
            lines += ["", _TITLES.get(section, section)]
        is_choice = section == _EXTRAS and finding.state == "missing"
        lines.append(f"  {'-' if is_choice else finding.state:7s}  {finding.name:{width}s}  {finding.text}".rstrip())
        if is_choice:
            lines[-1] += f": {finding.advice[0]}"
        else:
            lines += [f"{'':{width + 13}s}-> {advice}" for advice in finding.advice]
    return "\n".join(lines)


def _worth_a_line(findings: Sequence[Finding]) -> list[Finding]:
    """Leaves out what another line says: packages in the line of their extra, and GPU packages if there is no GPU."""
    in_extra = {package.name for package in PACKAGES if package.extra}
    no_driver = any(finding.name == "driver" and finding.state == "missing" for finding in findings)

    def is_said_elsewhere(finding: Finding) -> bool:
        if finding.section == _EXTRAS:
            return finding.name in in_extra and finding.state in ("ok", "missing")
        return finding.section == "GPU" and no_driver and finding.state == "missing" and not finding.advice

    return [finding for finding in findings if not is_said_elsewhere(finding)]
