"""Troubleshooting quotes error texts as the code raises them, so that a search for the message finds the page."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parents[2]
_PAGE = (_ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8")
_BY_TEXT = _PAGE.partition("## By error text")[2]
_HEADINGS = "\n".join(re.findall(r"^### .*$", _BY_TEXT, re.MULTILINE))
_QUOTES = re.findall(r'"([^"]+)"', _HEADINGS)


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """Every string of the package; values that are put in when it runs are '...'."""
    found = []
    for path in (_ROOT / "retinasdk").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
            if isinstance(node, ast.JoinedStr):
                parts = (part.value if isinstance(part, ast.Constant) else "..." for part in node.values)
                found.append("".join(map(str, parts)))
    return found


@pytest.mark.parametrize("quote", _QUOTES)
def test_quoted_error_text_is_in_the_code(quote: str, texts: list[str]) -> None:
    assert any(quote in text for text in texts), f"nothing raises {quote!r}"


def test_page_quotes_errors() -> None:
    assert len(_QUOTES) >= 12
