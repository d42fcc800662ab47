"""Text that may come from strangers, for the terminal."""

from __future__ import annotations

import re

# Also the marks that reverse the direction of writing.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """Returns the text with control characters escaped, except line ends and tabs.

    Names of files, labels and messages may come from strangers: an escape sequence among them could change what the
    terminal shows, or its settings.
    """
    return _CONTROL.sub(lambda found: repr(found[0])[1:-1], text)
