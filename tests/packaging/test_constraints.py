"""constraints.txt is true to pyproject.toml: dependencies are pinned for each Python, within bounds, with hashes."""

from __future__ import annotations

import re
import sys
from typing import Any

import pytest
from packaging.requirements import Requirement
from paths import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

PYTHONS = ("3.10", "3.11", "3.12", "3.13")
SYSTEMS = (
    ("linux", "Linux", "x86_64"),
    ("linux", "Linux", "aarch64"),
    ("darwin", "Darwin", "arm64"),
    ("win32", "Windows", "AMD64"),
)
# A line, its hashes on lines of their own.
_PIN = re.compile(
    r"^(?P<requirement>[A-Za-z0-9][^\\\n]*) \\\n(?P<hashes>(?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", re.MULTILINE
)


def environment(python: str, system: tuple[str, str, str], extra: str = "") -> dict[str, str]:
    platform, name, machine = system
    return {
        "python_version": python,
        "python_full_version": f"{python}.1",
        "sys_platform": platform,
        "platform_system": name,
        "platform_machine": machine,
        "platform_python_implementation": "CPython",
        "implementation_name": "cpython",
        "os_name": "nt" if platform == "win32" else "posix",
        "extra": extra,
    }


@pytest.fixture(scope="module")
def text() -> str:
    return (ROOT / "constraints.txt").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def pins(text: str) -> list[Requirement]:
    return [Requirement(found["requirement"]) for found in _PIN.finditer(text)]


def wanted() -> list[Requirement]:
    """What retinasdk[all] asks for."""
    project: Any = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    (everything,) = (Requirement(line) for line in extras["all"])
    lines = [line for extra in sorted(everything.extras) for line in extras[extra]]
    return [Requirement(line) for line in [*project["dependencies"], *lines]]


def test_each_line_is_a_pin_with_hashes(text: str, pins: list[Requirement]) -> None:
    lines = [line for line in text.splitlines() if line and not line.startswith(("#", "    --hash=sha256:"))]
    assert len(lines) == len(pins) > 20
    assert all(re.fullmatch(r"==[^=,*]+", str(pin.specifier)) for pin in pins)


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("system", SYSTEMS, ids=lambda system: f"{system[0]}-{system[2]}")
def test_each_dependency_is_pinned_once_and_above_its_bound(
    python: str, system: tuple[str, str, str], pins: list[Requirement]
) -> None:
    here = environment(python, system)
    versions: dict[str, list[str]] = {}
    for pin in pins:
        if pin.marker is None or pin.marker.evaluate(here):
            versions.setdefault(normal(pin.name), []).append(str(pin.specifier).removeprefix("=="))
    assert all(len(of_one) == 1 for of_one in versions.values()), versions
    for requirement in wanted():
        if requirement.marker is None or requirement.marker.evaluate(here):
            (version,) = versions.get(normal(requirement.name), ["missing"])
            assert version != "missing", f"{requirement.name} is not in constraints.txt; run: make constraints"
            assert requirement.specifier.contains(version), f"{requirement}: {version}; run: make constraints"


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
