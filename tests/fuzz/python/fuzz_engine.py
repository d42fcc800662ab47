"""Fuzzes the JSON beside a TensorRT engine, and loads what it accepts over the stand-ins for a GPU."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import tempfile
from pathlib import Path

import harness

with harness.instrumented(__name__ == "__main__"):
    from retinasdk import Detector
    from retinasdk.errors import DeviceError, ModelError
    from retinasdk.tensorrt.engine_info import EngineInfo, Fingerprint


@functools.cache
def plan() -> bytes:
    """A plan that the stand-in for TensorRT's runtime can load."""
    import onnx
    from fakes.tensorrt import save_engine
    from random_retinanet import random_retinanet

    network, spec = random_retinanet()
    with tempfile.TemporaryDirectory() as folder:
        onnx.save(network, f"{folder}/tiny.onnx")
        return save_engine(Path(folder) / "tiny.engine", Path(folder) / "tiny.onnx", spec).read_bytes()


def one_input(data: bytes) -> None:
    accepted = None
    with harness.documented(ModelError):
        text = data.decode("utf-8", "replace")
        accepted = EngineInfo.from_json(text)
        accepted.mismatch(Fingerprint(onnx_sha256="0" * 64, compute_capability=(8, 7)))
        if EngineInfo.from_json(accepted.to_json()) != accepted:
            raise harness.FindingError("the info is another one after it was written and read")
    if accepted is None:
        return
    belongs = {"size_bytes": len(plan()), "engine_sha256": hashlib.sha256(plan()).hexdigest()}
    content = {key: value for key, value in json.loads(text).items() if key != "checksum"} | belongs
    engine, info = plan(), json.dumps(content).encode()
    with harness.folder_with(a_engine=engine) as folder, harness.documented(ModelError, DeviceError, ValueError):
        (folder / "a.engine.json").write_bytes(info)
        from fakes import fake_gpu

        with fake_gpu(), contextlib.closing(Detector(folder / "a.engine", device="cuda")):
            pass


if __name__ == "__main__":
    from fakes import fake_gpu

    with fake_gpu():  # Built now, because a build takes longer than any input may.
        pass
    harness.fuzz(one_input, mutate=harness.mutate_json)
