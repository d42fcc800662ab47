"""Every Python block of README.md and docs/ runs, and every documented command line is one that the command accepts."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from retinasdk.cli.main import build_parser

_ROOT = Path(__file__).resolve().parents[2]
_PAGES = [_ROOT / "README.md", _ROOT / "CONTRIBUTING.md", *sorted((_ROOT / "docs").rglob("*.md"))]
_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w+)(?P<option> \w+)?$")


def _blocks(page: Path, language: str) -> Iterator[tuple[int, str, str]]:
    """(number of its first line, option, code) of each block in that language; indented blocks too."""
    lines = page.read_text(encoding="utf-8").splitlines()
    start = 0
    while start < len(lines):
        fence = _FENCE.match(lines[start])
        start += 1
        if fence is None:
            continue
        end = next(end for end in range(start, len(lines)) if lines[end].strip() == "```")
        if fence["language"] == language:
            indent = len(fence["indent"])
            code = "\n".join(line[indent:] for line in lines[start:end])
            yield start + 1, (fence["option"] or "").strip(), code
        start = end + 1


def _name(page: Path) -> str:
    return str(page.relative_to(_ROOT))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder of a reader: it has the pictures that the pages speak of."""
    people = _ROOT / "examples/photos/people"
    shutil.copy(people / "grace_hopper.jpg", tmp_path / "photo.jpg")
    shutil.copytree(people, tmp_path / "photos")
    shutil.copy(_ROOT / "examples/photos/tree-crowns/yellowstone.jpg", tmp_path / "aerial.jpg")
    for name in ("docs", "examples"):  # pages that are read in the repository's root
        (tmp_path / name).symlink_to(_ROOT / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", [page for page in _PAGES if any(_blocks(page, "python"))], ids=_name)
def test_python_blocks_of_a_page_run_one_after_the_other(page: Path, folder: Path) -> None:
    names: dict[str, object] = {"__name__": "__main__"}
    for line, option, code in _blocks(page, "python"):
        assert option in {"", "notest"}, f"{_name(page)}:{line}: unknown option {option!r}"
        if option != "notest":
            # Blank lines before the code make the line numbers of a traceback those of the page.
            exec(compile("\n" * (line - 1) + code, str(page), "exec"), names)


def _command_lines() -> Iterator[tuple[str, str]]:
    """(where, command line) of each `retinasdk` call in blocks of shell commands."""
    for page in _PAGES:
        for line, _, code in _blocks(page, "bash"):
            for command in code.replace("\\\n", " ").splitlines():
                words = shlex.split(command, comments=True)
                while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):  # variables of the environment
                    words = words[1:]
                if words[:3] == ["python", "-m", "retinasdk"]:
                    words = words[2:]
                if words[:1] == ["retinasdk"]:
                    ends = [words.index(end) for end in ("|", ">", "&&", "&") if end in words]
                    yield f"{_name(page)}:{line}", shlex.join(words[1 : min(ends, default=None)])


_COMMAND_LINES = list(_command_lines())


@pytest.mark.parametrize(("where", "command"), _COMMAND_LINES, ids=[f"{w} {c}" for w, c in _COMMAND_LINES])
def test_documented_command_line_is_accepted(
    where: str, command: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = 0
    words = shlex.split(command)
    for name in (word for word in words if word.endswith(".txt")):  # lists of labels are read by the parser
        (folder / name).write_text("bolt\nnut\n")
    try:
        build_parser().parse_args(words)
    except SystemExit as stop:
        status = int(stop.code or 0)
    assert status == 0, f"{where}: retinasdk {command}\n{capsys.readouterr().err}"


def test_blocks_have_a_language_that_the_tests_know() -> None:
    for page in _PAGES:
        for line in page.read_text(encoding="utf-8").splitlines():
            if line.strip().startswith("```") and line.strip() != "```":
                fence = _FENCE.match(line)
                assert fence, f"{_name(page)}: {line}"
                assert fence["language"] in {
                    "python",
                    "bash",
                    "json",
                    "text",
                    "c",
                    "cpp",
                    "cmake",
                    "go",
                    "rust",
                    "yaml",
                }, _name(page)


def test_pages_have_code_to_check() -> None:
    assert len(_COMMAND_LINES) > 20
    assert any(any(_blocks(page, "python")) for page in _PAGES)
