"""Fuzzes the reading of ONNX files: the wire reader, external data, the rewritten convolutions, the model and its spec.

The bytes are an ONNX file. fuzz_import.py changes whole networks by their structure.
"""

from __future__ import annotations

import harness

with harness.instrumented(__name__ == "__main__"):
    from retinasdk._util.onnx_files import TooManyFieldsError, external_locations, model_sha256
    from retinasdk._util.onnx_functions import FunctionsError, check_functions
    from retinasdk.backends.blocked_graph import rewritten
    from retinasdk.convert.importing.loading import load_model
    from retinasdk.errors import ModelError
    from retinasdk.onnx_graph.model_file import read_model


def one_input(data: bytes) -> None:
    with harness.documented(ValueError, TooManyFieldsError):
        external_locations(memoryview(data))
    with harness.documented(ValueError, FunctionsError):
        check_functions(memoryview(data))
    with harness.folder_with(model_onnx=data, weights_bin=b"\0" * 64) as folder:
        path = folder / "model.onnx"
        model_sha256(path)
        with harness.documented(ValueError, TooManyFieldsError):
            edited = rewritten(path)
            if edited is not None:
                edited.model(dict.fromkeys(edited.lent, 1))
        with harness.documented(ModelError):
            load_model(path)
        with harness.documented(ModelError):
            read_model(path, purpose="a test")


if __name__ == "__main__":
    harness.fuzz(one_input)
