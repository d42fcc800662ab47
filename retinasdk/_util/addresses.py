"""Addresses without the secrets in them, for names, messages and logs."""

from __future__ import annotations

import re
from collections.abc import Iterable

_HOST = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[^\s\[\]:/?#@&=]*)(:\d*)?(?=[/?#]|$)")
_HIDDEN = "***"
_IN_TEXT = re.compile(r"\b[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"]*[^\s'\":;,.)]")


def without_password(url: str) -> str:
    """Returns a URL without user, password, query and fragment, for logs. Some cameras take the password in the query.

    A password may contain `/`, `?`, `#` and `@`, although they should be escaped. So everything up to the last `@` is
    left out. What is then no host, or could be a part of a password or of a query, is left out as well: the result may
    be "rtsp://***". Secrets in the path are not recognized.
    """
    scheme, mark, rest = url.partition("://")
    if not mark:
        return url
    before, at, after = rest.rpartition("@")
    found = _HOST.match(after)
    if found is None or (at and "?" in before):
        return f"{scheme}://{_HIDDEN}"
    return f"{scheme}://{re.split('[?#]', after, maxsplit=1)[0]}"


def without_passwords(text: str, words: Iterable[str] = ()) -> str:
    """Returns a text in which each URL is shortened by `without_password`.

    Args:
        text: The text.
        words: What the user typed. A URL among them is found in the text even if its password contains spaces.
    """
    for word in words:
        if shown(word) != word:
            for form in (word, repr(word)[1:-1]):  # argparse shows some words as Python would.
                text = text.replace(form, shown(word))
    return _IN_TEXT.sub(lambda found: without_password(found[0]), text)


def shown(word: str) -> str:
    """Returns what a user gave as a source, for a message. It may be a mistyped URL, with a password."""
    if "://" in word:
        return without_password(word)
    before, at, after = word.rpartition("@")
    return f"{_HIDDEN}@{after}" if at and ":" in before else word
