"""What tests of the choice between convolutions share."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of caches; measuring is on."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("RETINASDK_CACHE", str(folder))
    monkeypatch.setenv("RETINASDK_TUNE", "1")
    folder.mkdir(mode=0o700)
    return folder
