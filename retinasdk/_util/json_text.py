r"""Parses JSON that comes from outside.

Python's own parser accepts what later code cannot work with: a text nested nearly as deeply as the recursion limit
allows, which fails as soon as it is copied or shown, and halves of surrogate pairs such as "\ud800", which no file and
no terminal takes.
"""

from __future__ import annotations

import json
from typing import Any

_MAX_DEPTH = 64  # Files of this package and configs of frameworks have about ten levels.


def parse_json(text: str | bytes) -> Any:
    """Parses a JSON text of moderate size. Each value is visited once more.

    Args:
        text: The JSON text.

    Raises:
        ValueError: If it is not valid JSON, is nested more than 64 levels deep, or has a text that is not Unicode.
    """
    try:
        content = json.loads(text)
    except RecursionError:
        raise ValueError(f"it is nested more than {_MAX_DEPTH} levels deep") from None
    waiting = [(content, 1)]
    while waiting:
        value, depth = waiting.pop()
        if isinstance(value, str):
            check_unicode(value)
        elif isinstance(value, (dict, list)):
            if depth > _MAX_DEPTH:
                raise ValueError(f"it is nested more than {_MAX_DEPTH} levels deep")
            inner = value if isinstance(value, list) else (*value, *value.values())
            waiting.extend((item, depth + 1) for item in inner if isinstance(item, (str, dict, list)))
    return content


def check_unicode(text: str) -> None:
    """Raises `ValueError` if a text contains half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"the text {text[:80]!r} is not Unicode: {error.reason}") from None
