"""Fuzzes a model's spec as JSON: alone, beside an ONNX file, and in the metadata of one."""

from __future__ import annotations

import hashlib

import harness

with harness.instrumented(__name__ == "__main__"):
    from retinasdk.errors import ModelError
    from retinasdk.onnx_graph.model_file import find_spec
    from retinasdk.pipeline.preprocess import Transform
    from retinasdk.spec import METADATA_KEY, ModelSpec

ONNX = b""


def one_input(data: bytes) -> None:
    with harness.documented(ModelError):
        spec = ModelSpec.from_json(data.decode("utf-8", "replace"))
        if ModelSpec.from_json(spec.to_json()) != spec:
            raise harness.FindingError("the spec is another one after it was written and read")
        spec.to_json(onnx_sha256=hashlib.sha256(ONNX).hexdigest()).encode()
        for size in ((480, 640), (1, 65536)):
            Transform.plan(size, spec)
    with harness.folder_with(model_onnx=ONNX, model_json=data) as folder, harness.documented(ModelError):
        find_spec(folder / "model.onnx", {METADATA_KEY: data.decode("utf-8", "replace")})
    with harness.folder_with(model_onnx=ONNX) as folder, harness.documented(ModelError):
        find_spec(folder / "model.onnx", {METADATA_KEY: data.decode("utf-8", "replace")})


if __name__ == "__main__":
    harness.fuzz(one_input, mutate=harness.mutate_json)
