"""The repository that `retinasdk triton export` writes, and what its model refuses to load. No server is needed."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from retinasdk import Detector, ModelError
from retinasdk._util import files as files_module
from retinasdk.triton import export


def written(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def load(folder: Path, monkeypatch: pytest.MonkeyPatch, *, arrays_arrive: bool = True) -> Any:
    """Starts the copied model.py as the server does. The stand-in for its module has what `initialize` calls."""

    class Tensor:
        def __init__(self, array: np.ndarray) -> None:
            self.array = array

        @classmethod
        def from_dlpack(cls, name: str, array: np.ndarray) -> Tensor:
            # A backend compiled before NumPy 2 reads with strides of 0, as tritonserver 2.51 did under NumPy 2.4.
            return cls(array if arrays_arrive else np.broadcast_to(array.flat[0], array.shape))

        def as_numpy(self) -> np.ndarray:
            return self.array

    monkeypatch.setitem(
        sys.modules,
        "triton_python_backend_utils",
        types.SimpleNamespace(Tensor=Tensor),  # type: ignore[arg-type]
    )
    spec = importlib.util.spec_from_file_location("exported_model", folder / "1/model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model = module.TritonPythonModel()
    config = (folder / "config.pbtxt").read_text()
    parameters = dict(re.findall(r'key: "(\w+)" value { string_value: "([^"]*)" }', config))
    read = {
        "max_batch_size": 8,
        "instance_group": [{"count": 1}],
        "parameters": {key: {"string_value": value} for key, value in parameters.items()},
    }
    model.initialize(
        {
            "model_config": json.dumps(read),
            "model_repository": str(folder),
            "model_version": "1",
            "model_instance_kind": "CPU",
        }
    )
    return model


def test_the_files_are_a_model_of_their_own(model_path: Path, detector: Detector, tmp_path: Path) -> None:
    folder = export(model_path, tmp_path / "models", name="a.b-c", max_batch=3, instances=2, threads=4, delay_ms=1.5)
    assert folder == tmp_path / "models/a.b-c"
    assert set(written(folder)) == {"config.pbtxt", "1/model.py", "1/model.onnx", "1/model.json"}
    with Detector(folder / "1/model.onnx", device="cpu") as copied:
        assert copied.spec == detector.spec
    config = (folder / "config.pbtxt").read_text()
    for line in (
        'name: "a.b-c"',
        "max_batch_size: 3",
        "dynamic_batching { max_queue_delay_microseconds: 1500 }",
        "instance_group [ { count: 2 kind: KIND_CPU } ]",
        'parameters { key: "threads" value { string_value: "4" } }',
    ):
        assert line in config.splitlines()
    assert "ROTATED_BOXES" not in config
    assert "kind: KIND_GPU gpus: [ 0 ]" in (export(model_path, tmp_path, device="cuda") / "config.pbtxt").read_text()


def test_a_model_with_external_data_is_copied_whole(network: onnx.ModelProto, tmp_path: Path, spec: Any) -> None:
    source = tmp_path / "source/net.onnx"
    source.parent.mkdir()
    model = onnx.ModelProto()
    model.CopyFrom(network)
    # ONNX Runtime wants small tensors, which shapes follow from, inside the file.
    onnx.save(model, str(source), save_as_external_data=True, location="weights.bin", size_threshold=1024)
    spec.save(source.with_suffix(".json"))
    folder = export(source, tmp_path)
    assert "1/weights.bin" in written(folder)
    with Detector(folder / "1/model.onnx", device="cpu") as copied:  # its spec has the hash of both files
        assert copied.spec.labels == spec.labels


def test_files_of_two_exports_are_refused(model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that ends between the version folder and config.pbtxt, as by SIGKILL."""
    folder = export(model_path, tmp_path, name="m")
    load(folder, monkeypatch).finalize()
    old = (folder / "config.pbtxt").read_bytes()
    export("tree-crowns", tmp_path, name="m")
    (folder / "config.pbtxt").write_bytes(old)
    with pytest.raises(ModelError, match=r"not those that config\.pbtxt was written for.*triton export --overwrite"):
        load(folder, monkeypatch)


def test_a_failed_export_leaves_the_old_files(
    model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = export(model_path, tmp_path, name="m")
    before = written(folder)
    write = files_module._write

    def full(path: Path, content: bytes) -> None:
        if "model.py" in path.name:
            raise OSError(28, "No space left on device")
        write(path, content)

    monkeypatch.setattr(files_module, "_write", full)
    with pytest.raises(OSError, match="No space left"):
        export("tree-crowns", tmp_path, name="m")
    assert written(folder) == before
    with pytest.raises(OSError, match="No space left"):
        export(model_path, tmp_path, name="other")
    assert os.listdir(tmp_path) == ["m"]


@pytest.mark.skipif(np.lib.NumpyVersion(np.__version__) < "2.0.0", reason="the fault is one of NumPy 2")
def test_a_backend_that_damages_arrays_is_refused(
    model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = export(model_path, tmp_path)
    with pytest.raises(RuntimeError, match=r"pixels arrive wrong; .*pip install 'numpy<2'"):
        load(folder, monkeypatch, arrays_arrive=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "../up"}, "name must have letters"),
        ({"name": ""}, "name must have letters"),
        ({"device": "auto"}, "device must be one of cpu, cuda"),
        ({"max_batch": 0}, "max_batch must be an integer"),
        ({"instances": 1.5}, "instances must be an integer"),
        ({"threads": 0}, "threads must be an integer"),
        ({"delay_ms": float("nan")}, "delay_ms must be 0 to 60000"),
        ({"score_threshold": -0.1}, "score_threshold must be 0 to 1"),
    ],
)
def test_options_out_of_range(model_path: Path, tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        export(model_path, tmp_path, **options)
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    with pytest.raises(ModelError, match=r"broken\.onnx"):
        export(tmp_path / "broken.onnx", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_command(model_path: Path, tmp_path: Path, run_python: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    words = ["-m", "retinasdk", "triton", "export", model_path, "--repository", tmp_path / "r", "--name", "m"]
    made = run_python(words)
    assert (made.returncode, made.stderr) == (0, "")
    assert f"wrote {tmp_path / 'r/m'}" in made.stdout
    assert "tritonserver --model-repository" in made.stdout
    before = written(tmp_path / "r")
    again = run_python([*words, "--max-batch", "2"])
    assert again.returncode == 2
    assert "exists already" in again.stderr
    assert written(tmp_path / "r") == before
    assert run_python([*words, "--max-batch", "2", "--overwrite"]).returncode == 0
    assert "max_batch_size: 2" in (tmp_path / "r/m/config.pbtxt").read_text()
    wrong = run_python([*words, "--instances", "0", "--overwrite"])
    assert (wrong.returncode, "--instances must be an integer" in wrong.stderr) == (2, True)
    # An output never replaces an input.
    inside = run_python([*words[:4], tmp_path / "r/m/1/model.onnx", *words[5:], "--overwrite"])
    assert inside.returncode == 2
    assert "would replace an input" in inside.stderr
    assert os.listdir(tmp_path / "r") == ["m"]
