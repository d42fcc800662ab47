"""Folders of the repository that tests read from."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).parents[2]
CSRC = ROOT / "csrc"
EXAMPLES = ROOT / "examples"
PHOTOS = EXAMPLES / "photos"
DATA = ROOT / "tests" / "data"
SUPPORT = ROOT / "tests" / "support"
# Photos and videos that are not part of the repository; tests that need them skip where they are absent.
SHARED_DATA = Path(os.environ.get("RETINASDK_DATA", ROOT.parent / "shared" / "data"))
