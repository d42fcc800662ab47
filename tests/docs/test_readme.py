"""README.md stays short, and the relative links of the pages at the root lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parents[2]


def test_readme_can_be_read_in_a_minute() -> None:
    assert len((_ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


@pytest.mark.parametrize("page", ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "benchmarks/README.md"])
def test_relative_links_lead_to_files(page: str) -> None:
    path = _ROOT / page
    text = path.read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'src="([^"]+)"', text)
    relative = [link.partition("#")[0] for link in links if "://" not in link and not link.startswith("#")]
    missing = [link for link in relative if not (path.parent / link).exists()]
    assert not missing, f"{page} links to files that do not exist: {missing}"


def test_paths_in_architecture_exist() -> None:
    text = (_ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    paths = re.findall(r"`((?:retinasdk|csrc|tests|docs|examples|benchmarks|training)/[\w./*-]*)`", text)
    assert len(paths) > 20
    missing = [path for path in paths if not any(_ROOT.glob(path.rstrip("/")))]
    assert not missing, f"ARCHITECTURE.md names paths that do not exist: {missing}"
