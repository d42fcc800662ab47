"""`retinasdk doctor`: the command, its text, and what it says of this machine; and that it never falls ill itself."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from doctor_machines import (
    MISSING,
    NO_DRIVER,
    answers,
    auto,
    convolutions,
    finding,
    kernels,
)

import retinasdk
from retinasdk.doctor import probe as _probe
from retinasdk.doctor.diagnose import Diagnosis, Finding, diagnose, main
from retinasdk.doctor.packages import EXTRAS, PACKAGES
from retinasdk.doctor.probe import QUESTIONS, Answer, ask

# -- this machine ------------------------------------------------------------------------------------------------------


def test_the_command_here(run_python: Any) -> None:
    result = run_python(["-m", "retinasdk.cli.main", "doctor"])
    assert (result.returncode, result.stderr) == (0, "")
    assert re.search(rf"version +{re.escape(retinasdk.__version__)} in ", result.stdout)
    for name in ("Python", "native core", "onnxruntime", "driver", "engine cache", "bundled models"):
        assert re.search(rf"^  (ok|note|missing) +{re.escape(name)} ", result.stdout, re.MULTILINE), name
    first, second, empty, *_ = result.stdout.splitlines()
    assert first == "retinasdk can detect objects on this machine."
    assert second.startswith('device="auto" will use ')
    assert second.endswith(".")
    assert empty == ""


@pytest.mark.heavy
def test_json_says_the_same(run_python: Any) -> None:
    result = run_python(["-m", "retinasdk.cli.main", "doctor", "--json"])
    content = json.loads(result.stdout)
    assert (result.returncode, result.stderr) == (0, "")
    assert list(content) == ["is_broken", "findings", "conclusion", "can_detect"]
    assert content["can_detect"]
    by_name = {item["name"]: item for item in content["findings"]}
    assert set(by_name["native core"]) == {"section", "name", "state", "text", "facts", "advice"}
    assert by_name["native core"]["facts"]["simd"] == __import__("retinasdk._native")._native.simd_name()
    assert by_name["numpy"]["facts"]["version"] == __import__("numpy").__version__
    for model in retinasdk.list_models():
        wanted = hashlib.sha256(model.path.read_bytes()).hexdigest()
        assert by_name["bundled models"]["facts"][model.name]["sha256"] == wanted


def test_json_round_trip(look: Callable[..., Diagnosis]) -> None:
    for diagnosis in (look(), look(tensorrt=MISSING, native=Answer(problem="ends the process: Illegal instruction"))):
        content = diagnosis.to_dict()
        assert json.loads(json.dumps(content, allow_nan=False)) == content
        again = Diagnosis(
            tuple(Finding(**{**item, "advice": tuple(item["advice"])}) for item in content["findings"]),
            content["conclusion"],
            content["can_detect"],
        )
        assert again.to_dict() == content
        assert again.to_text() == diagnosis.to_text()


def test_every_question_has_an_answer_and_auto_is_told_as_it_is(run_python: Any) -> None:
    given = {}

    def ask_and_keep(question: str) -> Answer:
        given[question] = ask(question)
        return given[question]

    diagnosis = diagnose(ask=ask_and_keep)
    assert given.keys() == QUESTIONS.keys()
    for answer in given.values():
        assert (answer.facts is None) == bool(answer.problem)
    program = "from retinasdk.tensorrt.installed import why_no_gpu; print(why_no_gpu())"
    reason = run_python(["-c", program]).stdout.strip()
    assert reason in diagnosis.conclusion or reason == "None"
    assert ("the CPU" in diagnosis.conclusion) == (reason != "None")


# -- the text ----------------------------------------------------------------------------------------------------------


def test_a_cpu_machine_is_not_told_what_it_lacks_line_by_line(look: Callable[..., Diagnosis]) -> None:
    absent = [item.name for item in PACKAGES if item.extra is not None]
    diagnosis = look(
        driver=NO_DRIVER,
        native_cuda=kernels(count=0),
        tensorrt=MISSING,
        auto=auto(None, "no usable GPU"),
        **dict.fromkeys(absent, MISSING),
    )
    text = diagnosis.to_text()
    assert text.startswith(
        'retinasdk can detect objects on this machine.\ndevice="auto" will use the CPU: no usable GPU.'
    )
    assert text.count("missing ") == 1  # the driver
    for extra in EXTRAS:
        (line,) = (line for line in text.splitlines() if f" [{extra}] " in line)
        assert line.startswith("  - ")
        assert line.endswith(f"pip install 'retinasdk[{extra}]'")
    (line,) = (line for line in text.splitlines() if " OpenCV " in line)
    assert line.endswith("pip install 'opencv-python-headless>=4.5'")
    # Programs get every package.
    assert set(absent) <= {item["name"] for item in diagnosis.to_dict()["findings"] if item["state"] == "missing"}


def test_a_broken_optional_package_keeps_its_line(look: Callable[..., Diagnosis]) -> None:
    text = look(rasterio=Answer(problem="libgdal.so: cannot open"), pandas=MISSING).to_text()
    assert re.search(r"^  broken +rasterio +libgdal.so: cannot open\n +-> pip install", text, re.MULTILINE)
    assert re.search(r"^  - +\[pandas\] +pandas not installed", text, re.MULTILINE)


def test_without_a_gpu_package_a_gpu_machine_is_told(look: Callable[..., Diagnosis]) -> None:
    text = look(tensorrt=MISSING, auto=auto(None, "TensorRT is not installed")).to_text()
    assert re.search(r"^  missing +TensorRT +not installed", text, re.MULTILINE)


@pytest.mark.heavy
def test_escape_sequences_do_not_reach_the_terminal(
    look: Callable[..., Diagnosis], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def strange(*arguments: Any) -> Any:
        raise RuntimeError("in the folder \x1b[31m")

    monkeypatch.setattr("retinasdk.doctor.diagnose.check_driver", strange)
    main(as_json=False)
    out = capsys.readouterr().out
    assert "in the folder \\x1b[31m" in out
    assert "\x1b" not in out


# -- convolutions on the CPU -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "state", "text"),
    [
        (
            convolutions(),
            "ok",
            f"avx2 instructions, 8 threads; how fast each model runs with them is measured once and kept in {os.sep}",
        ),
        (
            convolutions(is_measured=False, threads=1),
            "ok",
            "avx2 instructions, 1 thread; models are not measured (RETINASDK_TUNE=0)",
        ),
        (
            convolutions(is_built=False),
            "note",
            "retinasdk was built without its operators for ONNX Runtime, so those of ONNX Runtime are used",
        ),
        (Answer(problem="ValueError: RETINASDK_ISA is mmx"), "broken", "ValueError: RETINASDK_ISA is mmx"),
    ],
)
def test_convolutions(look: Callable[..., Diagnosis], answer: Answer, state: str, text: str) -> None:
    found = finding(look(convolutions=answer), "convolutions")
    assert (found.state, found.text) == (state, text)


def test_convolutions_without_a_cache(look: Callable[..., Diagnosis]) -> None:
    found = finding(look(cache=Answer(problem="[Errno 30] Read-only")), "convolutions")
    assert (found.state, found.text) == (
        "note",
        "avx2 instructions, 8 threads; models are not measured without a cache",
    )


def test_a_model(tmp_path: Path) -> None:
    asked = []

    def about(model: str) -> Answer:
        asked.append(model)
        return Answer({"text": "blocked (measured)", "name": "blocked"})

    diagnosis = diagnose(model="a/b.onnx", root=tmp_path, ask=answers().__getitem__, ask_about_model=about)
    found = finding(diagnosis, "model b.onnx")
    assert (found.section, found.state, found.text) == ("CPU", "ok", "blocked (measured)")
    assert asked == ["a/b.onnx"]
    broken = diagnose(
        model="b.onnx", root=tmp_path, ask=answers().__getitem__, ask_about_model=lambda model: Answer(problem="broken")
    )
    assert broken.is_broken
    assert _probe.ask_about_model(str(tmp_path / "none.onnx")).problem.startswith("ModelError: ")


# -- files -------------------------------------------------------------------------------------------------------------


def test_the_cache(tmp_path: Path, look: Callable[..., Diagnosis], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETINASDK_CACHE", str(tmp_path / "cache"))
    found = finding(look(cache=ask("cache")), "engine cache")
    assert (found.state, found.facts["folder"]) == ("ok", str(tmp_path / "cache"))
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RETINASDK_CACHE", str(tmp_path / "file"))
    found = finding(look(cache=ask("cache")), "engine cache")
    assert found.state == "note"
    assert f"{tmp_path / 'file'} cannot be used (File exists)" in found.text
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o755)
    monkeypatch.setenv("RETINASDK_CACHE", str(tmp_path / "open"))
    found = finding(look(cache=ask("cache")), "engine cache")
    assert found.state == "note"
    assert f"others can use it, its mode is 755; if all files in it are yours, run: chmod 700 {tmp_path}" in found.text


def test_models_that_are_not_what_was_installed(
    tmp_path: Path, look: Callable[..., Diagnosis], monkeypatch: pytest.MonkeyPatch
) -> None:
    def record(content: bytes) -> str:
        return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()

    info = tmp_path / f"retinasdk-{retinasdk.__version__}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: retinasdk\nVersion: {retinasdk.__version__}\n")
    monkeypatch.syspath_prepend(tmp_path)
    models = retinasdk.list_models()
    for spoilt in ((), ("people",), ("people", "tree-crowns")):
        lines = [
            f"{model.path},sha256={record(b'other' if model.name in spoilt else model.path.read_bytes())},1\n"
            for model in models
        ]
        (info / "RECORD").write_text("".join(lines))
        found = finding(look(), "bundled models")
        assert found.state == ("broken" if spoilt else "ok")
        assert not spoilt or found.text.startswith(", ".join(spoilt))


def test_broken_models(look: Callable[..., Diagnosis], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("retinasdk.models._FOLDER", tmp_path)
    assert finding(look(), "bundled models").state == "missing"
    (tmp_path / "people.onnx").write_bytes(b"")
    (tmp_path / "people.md").write_text("card")
    (tmp_path / "people.json").write_text("{}")
    found = finding(look(), "bundled models")
    assert found.state == "broken"
    assert "people.json" in found.text


def test_it_needs_the_standard_library_alone(run_python: Any) -> None:
    program = (
        "import sys; before = set(sys.modules); import retinasdk.doctor.diagnose; "
        "print(*sorted({name.partition('.')[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names)))"
    )
    result = run_python(["-c", program])
    assert (result.stdout.split(), result.stderr) == (["retinasdk"], "")


def test_an_unknown_question_is_answered() -> None:
    assert _probe.ask("no such question").problem == "KeyError: 'no such question'"
