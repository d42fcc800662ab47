"""Fixtures of the tests of `retinasdk doctor`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from doctor_machines import (
    answers,
    write_modules,
)

from retinasdk.doctor.diagnose import Diagnosis, diagnose
from retinasdk.doctor.probe import Answer


@pytest.fixture
def look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Diagnosis]:
    """look(question=Answer, ...) diagnoses a made-up machine, whose files lie in tmp_path."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("retinasdk.doctor.jetson.shutil.which", lambda name: None)

    def call(**changes: Answer) -> Diagnosis:
        return diagnose(root=tmp_path, ask=answers(**changes).__getitem__)

    return call


@pytest.fixture
def doctor_with(tmp_path: Path) -> Callable[..., tuple[int, dict[str, Any]]]:
    """doctor_with(modules) runs the doctor with these modules before all others: name of a file, and its content."""

    def run(modules: dict[str, str], **environment: str) -> tuple[int, dict[str, Any]]:
        folder = tmp_path / "modules"
        write_modules(folder, modules)
        path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
        result = subprocess.run(
            [sys.executable, "-m", "retinasdk.doctor.diagnose", "--json"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": path, **environment},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert result.stderr == ""
        return result.returncode, json.loads(result.stdout)

    return run
