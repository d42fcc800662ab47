"""SECURITY.md names real tests, for each threat at least one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parents[2]
_PAGE = (_ROOT / "SECURITY.md").read_text(encoding="utf-8")
_ROWS = [
    [cell.strip() for cell in line.strip().strip("|").split(" | ")]
    for line in _PAGE.partition("| asset | attacker | defense | test |\n")[2].partition("\n\n")[0].splitlines()[1:]
]
_TESTS = re.findall(r"`(tests/[^`]+)`", "\n".join(row[-1] for row in _ROWS))


def exists(test: str) -> bool:
    """Whether the file is there and, for "FILE::NAME", defines a function of that name."""
    name, _, function = test.partition("::")
    path = _ROOT / name
    if not path.is_file():
        return False
    before = r"^def " if path.suffix == ".py" else r"^void "
    return (
        not function
        or re.search(rf"{before}{re.escape(function)}\(", path.read_text(encoding="utf-8"), re.M) is not None
    )


def test_there_are_many_threats() -> None:
    assert len(_ROWS) >= 20


@pytest.mark.parametrize("row", _ROWS, ids=lambda row: row[0])
def test_each_threat_has_a_defense_and_a_test(row: list[str]) -> None:
    assert len(row) == 4
    assert all(row)
    assert re.fullmatch(r"`tests/[^`]+`(, `tests/[^`]+`)*", row[-1]), f"a list of tests, got {row[-1]}"


@pytest.mark.parametrize("test", _TESTS)
def test_each_test_exists(test: str) -> None:
    assert exists(test)


def test_a_test_that_does_not_exist_is_found() -> None:
    assert not exists("tests/test_images.py::test_no_such_thing")
    assert not exists("tests/test_images.py::test_decompression")  # the beginning of a name
    assert not exists("tests/test_no_such_file.py")


def test_no_test_is_always_skipped() -> None:
    """A defense whose test never runs is none."""
    for test in _TESTS:
        name, _, function = test.partition("::")
        before = (_ROOT / name).read_text(encoding="utf-8").partition(f"def {function}(")[0].rpartition("\n\n")[2]
        assert "pytest.mark.skip(" not in before
        assert "xfail" not in before


def test_relative_links_lead_to_files() -> None:
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", _PAGE) if "://" not in link]
    assert [link for link in links if link and not (_ROOT / link).exists()] == []


def test_no_address_is_made_up() -> None:
    assert not re.search(r"[\w.]+@[\w-]+\.\w+", _PAGE)
