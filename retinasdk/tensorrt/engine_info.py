"""`EngineInfo`: the description that is stored as JSON beside an engine file.

`people.engine` is the plan as TensorRT wrote it, and `people.engine.json` its `EngineInfo`. With it, an engine can be
used without the ONNX file, and retinasdk can tell when the engine is out of date.

Note: What the checksums are for

    The JSON has the SHA-256 of the plan, and a checksum over its own content. They show that a file was changed or cut
    off, or that the two files come from different builds, so that no engine runs with anchors, labels or shapes of
    another one. They protect from accidents. They do not protect from anyone who can write the files, because such a
    person can compute them again; TensorRT runs code that is in a plan, so engines must come from someone you trust.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from retinasdk._util.dataclass_json import dump_readable, from_json_object, to_json_object
from retinasdk._util.files import waiting, write_atomically
from retinasdk._util.json_text import parse_json
from retinasdk.errors import ModelError
from retinasdk.spec import ModelSpec

ENGINE_SUFFIX = ".engine"
FORMAT = 1
_CHECKSUM = "checksum"
PRECISIONS = ("fp32", "fp16", "int8")
DTYPES = ("float32", "float16")  # of a network's input and heads

_REBUILD = "build the engine again on this machine with: retinasdk build model.onnx -o model.engine"


def _check(condition: bool, rule: str, given: object) -> None:
    if not condition:
        raise ModelError(f"engine info: {rule}, but got {given!r}")


@dataclass(frozen=True)
class Fingerprint:
    """Identifies what an engine was built from, with and for. `EngineInfo.mismatch` compares two of them.

    A field is None if it is unknown or does not matter for the engine. The three fields of the GPU are None for
    TensorRT for RTX, whose engines run on every GPU that it supports.

    Attributes:
        onnx_sha256: SHA-256 of the ONNX file and the files of its external data, as hexadecimal text.
        tensorrt: The product: "tensorrt" or "tensorrt_rtx".
        tensorrt_version: Version of the TensorRT package, for example "10.3.0".
        gpu: Name of the GPU.
        compute_capability: Compute capability of the GPU as (major, minor).
        cuda: Version of the CUDA runtime, for example "12.6".
        options: Options of `build_engine` that were given, and a digest of the spec, as text by name.
    """

    onnx_sha256: str | None = None
    tensorrt: str | None = None
    tensorrt_version: str | None = None
    gpu: str | None = None
    compute_capability: tuple[int, int] | None = None
    cuda: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)


# How messages call each field of a fingerprint. Options are called by their names.
_WORDS = {
    "onnx_sha256": "the ONNX file with SHA-256",
    "tensorrt": "the product",
    "tensorrt_version": "TensorRT",
    "gpu": "the GPU",
    "compute_capability": "compute capability",
    "cuda": "CUDA",
}


@dataclass(frozen=True)
class Profile:
    """The range of input shapes that an engine accepts. A shape is (images, 3, height, width), in pixels.

    Attributes:
        min: Smallest shape, on every axis.
        opt: Shape for which TensorRT optimizes the engine.
        max: Largest shape, on every axis. GPU memory is reserved for it.

    Raises:
        ModelError: If a shape is not of that form, or if min <= opt <= max does not hold on every axis.
    """

    min: tuple[int, int, int, int]
    opt: tuple[int, int, int, int]
    max: tuple[int, int, int, int]

    def __post_init__(self) -> None:
        for shape in (self.min, self.opt, self.max):
            _check(
                len(shape) == 4 and min(shape) >= 1 and shape[1] == 3,
                "a shape must be (images, 3, height, width)",
                shape,
            )
        ordered = all(a <= b <= c for a, b, c in zip(self.min, self.opt, self.max, strict=True))
        _check(ordered, "a profile must have min <= opt <= max on every axis", (self.min, self.opt, self.max))

    def holds(self, shape: tuple[int, ...]) -> bool:
        """Returns whether the engine accepts an input of this shape."""
        return len(shape) == 4 and all(
            low <= side <= high for low, side, high in zip(self.min, shape, self.max, strict=True)
        )


@dataclass(frozen=True)
class EngineInfo:
    """Describes an engine file: what it detects, what it was built from, and which inputs it accepts.

    Instances are immutable. `build_engine` returns one and writes it beside the engine.

    Attributes:
        spec: The spec of the model.
        fingerprint: What the engine was built from, with and for.
        profile: The input shapes that the engine accepts.
        precision: "fp32", "fp16" or "int8".
        build_seconds: Duration of TensorRT's build in seconds, without calibration.
        size_bytes: Size of the engine file in bytes.
        engine_sha256: SHA-256 of the engine file, as hexadecimal text.
        input_dtype: Type of the network's input, "float32" or "float16".
        head_dtype: Type of the head outputs, "float32" or "float16". Both types are those that TensorRT was told, and
            default to "float32", as engines have whose JSON file does not name them. A loaded engine is asked for them.
        head_formats: The formats that TensorRT could choose from for the head outputs, by its names: "HWC" and "HWC8"
            have their channels last, "LINEAR" is row-major. Which one it chose, a loaded engine is asked.

    Raises:
        ModelError: If a field has a value that is not allowed.
    """

    spec: ModelSpec
    fingerprint: Fingerprint
    profile: Profile
    precision: str
    build_seconds: float
    size_bytes: int
    engine_sha256: str
    input_dtype: str = "float32"
    head_dtype: str = "float32"
    head_formats: tuple[str, ...] = ("LINEAR",)

    def __post_init__(self) -> None:
        _check(self.precision in PRECISIONS, f"precision must be one of {', '.join(PRECISIONS)}", self.precision)
        for dtype in (self.input_dtype, self.head_dtype):
            _check(dtype in DTYPES, f"input_dtype and head_dtype must be one of {', '.join(DTYPES)}", dtype)
        _check(self.build_seconds >= 0, "build_seconds must be at least 0", self.build_seconds)
        _check(self.size_bytes > 0, "size_bytes must be above 0", self.size_bytes)

    @staticmethod
    def path_for(engine: Path) -> Path:
        """Returns the path of the JSON file of an engine: `people.engine.json` for `people.engine`."""
        return engine.with_name(engine.name + ".json")

    def mismatch(self, current: Fingerprint) -> str | None:
        """Compares the fingerprint of the engine with another one.

        Args:
            current: What an engine built now would have. Fields that are None on either side, and options that only
                one side has, are not compared.

        Returns:
            One line that says why the engine has to be built again, or None if it fits.
        """
        built = self.fingerprint
        for name, words in _WORDS.items():
            was, now = getattr(built, name), getattr(current, name)
            if was is not None and now is not None and was != now:
                return f"it was built for {words} {_readable(was)}, but this is {_readable(now)}"
        for name in built.options.keys() & current.options.keys():
            if built.options[name] != current.options[name]:
                return f"it was built with {name} {built.options[name]}, but {current.options[name]} is needed"
        return None

    def check_belongs(self, plan: bytes, origin: Path) -> None:
        """Checks that an engine file is the one that this info describes.

        Args:
            plan: The content of the engine file.
            origin: Its path, for the error message.

        Raises:
            ModelError: If its size or its SHA-256 differ.
        """
        if len(plan) != self.size_bytes or hashlib.sha256(plan).hexdigest() != self.engine_sha256:
            raise ModelError(
                f"{origin} is not the engine that {self.path_for(origin).name} describes: that has {self.size_bytes} "
                f"bytes, this is another one of {len(plan)} bytes. Copy both files together, or {_REBUILD}"
            )

    def to_json(self) -> str:
        """Returns the info as JSON text, which every later version of retinasdk can read."""
        content = {"format": FORMAT, **to_json_object(self), "spec": json.loads(self.spec.to_json())}
        return dump_readable({**content, _CHECKSUM: _checksum(content)})

    @classmethod
    def from_json(cls, text: str, *, origin: str = "engine info") -> EngineInfo:
        """Parses JSON text written by `to_json`.

        Args:
            text: The JSON text.
            origin: Where the text comes from, for error messages.

        Returns:
            The info.

        Raises:
            ModelError: If the text is no JSON, has another format, was changed after it was written, or has a field
                that is missing or wrong. Texts of versions before the checksum are not checked for changes.
        """
        try:
            content: Any = parse_json(text)
        except ValueError as error:
            raise ModelError(f"{origin} is not valid JSON: {error}. Copy the file again, or {_REBUILD}") from error
        version = content.get("format") if isinstance(content, dict) else None
        if isinstance(version, bool) or version != FORMAT:
            raise ModelError(
                f"{origin} has the format {version!r}, but this version of retinasdk reads format {FORMAT}. "
                f"To fix it, {_REBUILD}"
            )
        written = content.pop(_CHECKSUM, None)
        if written is not None and written != _checksum(content):
            raise ModelError(
                f"{origin} was changed after it was written, or is damaged: its content does not have its {_CHECKSUM} "
                "any more. An engine's JSON cannot be edited. Change the spec of the ONNX file, or pass Detector(..., "
                f"spec=...). To repair this file, copy it again, or {_REBUILD}"
            )
        if "spec" not in content:
            raise ModelError(f"{origin} has no field 'spec'. To fix it, {_REBUILD}")
        spec = ModelSpec.from_json(json.dumps(content["spec"]), origin=f"{origin}, spec")
        rest = {name: value for name, value in content.items() if name not in ("format", "spec")}
        try:
            return from_json_object(cls, {**rest, "spec": to_json_object(spec)})
        except ModelError as error:
            raise ModelError(f"{origin}: {error}. To fix it, {_REBUILD}") from error

    def save(self, engine: str | Path) -> None:
        """Writes the info as JSON beside an engine file. The write is atomic.

        Args:
            engine: Path of the engine file.

        Raises:
            OSError: If the file cannot be written.
        """
        write_atomically(self.path_for(Path(engine)), self.to_json().encode())

    @classmethod
    def load(cls, engine: str | Path) -> EngineInfo:
        """Reads the info of an engine from the JSON file beside it.

        Args:
            engine: Path of the engine file.

        Returns:
            The info.

        Raises:
            ModelError: If the JSON file cannot be read or is not valid.
        """
        path = cls.path_for(Path(engine))
        unfinished = waiting(path)  # See _util/files.py: the process that wrote the engine was killed just then.
        if unfinished.is_file():
            with contextlib.suppress(ModelError, OSError, ValueError):
                info = cls.from_json(unfinished.read_text(encoding="utf-8"))
                info.check_belongs(Path(engine).read_bytes(), Path(engine))
                return info
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ModelError(
                f"{engine} needs the file {path.name} beside it, which cannot be read: {error}. "
                f"Copy both files together, or {_REBUILD}"
            ) from error
        return cls.from_json(text, origin=str(path))


def _checksum(content: Mapping[str, Any]) -> str:
    """Returns the SHA-256 of the values of a JSON object. The layout and the order of the text do not matter."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _readable(value: object) -> str:
    if isinstance(value, tuple):
        return ".".join(map(str, value))
    return f"{value[:12]}..." if isinstance(value, str) and len(value) == 64 else str(value)
