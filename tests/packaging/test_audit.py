""".ci/audit.py tells a service that finds nothing from one that knows nothing."""

from __future__ import annotations

import importlib.util
from subprocess import CompletedProcess
from typing import Any

import pytest
from paths import ROOT

NOTHING = CompletedProcess((), 0, "No known vulnerabilities found", "")
# As pip-audit 2.10 prints them.
KNOWN = CompletedProcess((), 1, "pillow 9.0.0   PYSEC-2022-1 9.0.1        CVE-2022-22817", "")
ANOTHER = CompletedProcess((), 1, "numpy 1.0   PYSEC-2099-1 1.1        CVE-2099-1", "")


@pytest.fixture
def audit() -> Any:
    spec = importlib.util.spec_from_file_location("audit", ROOT / ".ci/audit.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def answer(audit: Any, monkeypatch: pytest.MonkeyPatch, known: Any, pinned: Any) -> None:
    monkeypatch.setattr(audit, "audit", lambda path, *_: pinned if path.name == "constraints.txt" else known)


def test_without_a_service_it_is_skipped(
    audit: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answer(audit, monkeypatch, NOTHING, NOTHING)
    assert audit.main() == 0
    assert capsys.readouterr().out.startswith("pip-audit: skipped: ")


def test_a_vulnerability_fails(audit: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    answer(audit, monkeypatch, KNOWN, ANOTHER)
    assert audit.main() == 1
    assert "CVE-2099-1" in capsys.readouterr().out


def test_nothing_found(audit: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    answer(audit, monkeypatch, KNOWN, NOTHING)
    assert audit.main() == 0
    assert capsys.readouterr().out == "No known vulnerabilities found"
