"""A file system whose files can be dangerous to read, for tests of Ray workers. What happens depends on the name."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from fsspec.implementations.local import LocalFileSystem
from pyarrow.fs import FSSpecHandler, PyFileSystem


class DangerousFiles(LocalFileSystem):
    """Local files; the process dies at those called `kills...`, once at `kills_once...`, and `waits...` block."""

    cacheable = False

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        name = Path(path).name
        if mode == "rb":
            gate = Path(path + ".opened")
            if name.startswith("kills_once") and not gate.exists():
                gate.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            elif name.startswith("kills_always"):
                with open(path + ".deaths", "a") as deaths:
                    deaths.write("x")
                os.kill(os.getpid(), signal.SIGKILL)
            elif name.startswith("waits"):
                while not gate.exists():
                    time.sleep(0.05)
        return super()._open(path, mode, **options)


def dangerous_files() -> PyFileSystem:
    """The file system for pyarrow."""
    return PyFileSystem(FSSpecHandler(DangerousFiles()))
