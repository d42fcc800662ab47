"""`EngineInfo`: what lies as JSON beside an engine file, so that the engine works alone and tells when it is stale.

`people.engine` is the plan as TensorRT wrote it, `people.engine.json` its `EngineInfo`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from retinasdk._util.dataclass_json import dump_readable, from_json_object, to_json_object
from retinasdk.errors import ModelError
from retinasdk.spec import ModelSpec

ENGINE_SUFFIX = ".engine"
FORMAT = 1
PRECISIONS = ("fp32", "fp16", "int8")

_REBUILD = "build the engine again on this machine with retinasdk.build_engine, or `retinasdk build`"


def _check(condition: bool, wanted: str, given: object) -> None:
    if not condition:
        raise ModelError(f"engine info: {wanted}, got {given!r}")


@dataclass(frozen=True)
class Fingerprint:
    """What an engine was made of and for. None: not known, or of no importance to this engine.

    tensorrt: "tensorrt" or "tensorrt_rtx"; tensorrt_version: as the package says it, "10.3.0".
    gpu, compute_capability, cuda: of the `GpuIdentity`; all None for TensorRT for RTX, whose engines fit any GPU.
    options: of the build, as readable text by name.
    """

    onnx_sha256: str | None = None
    tensorrt: str | None = None
    tensorrt_version: str | None = None
    gpu: str | None = None
    compute_capability: tuple[int, int] | None = None
    cuda: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)


# How each field of a fingerprint is called in a mismatch; options speak for themselves.
_WORDS = {
    "onnx_sha256": "the ONNX file with SHA-256",
    "tensorrt": "the package",
    "tensorrt_version": "TensorRT",
    "gpu": "the GPU",
    "compute_capability": "compute capability",
    "cuda": "CUDA",
}


@dataclass(frozen=True)
class Profile:
    """Shapes (N, 3, height, width) of the network's input, in pixels: the smallest, the tuned-for, the largest."""

    min: tuple[int, int, int, int]
    opt: tuple[int, int, int, int]
    max: tuple[int, int, int, int]

    def __post_init__(self) -> None:
        for shape in (self.min, self.opt, self.max):
            _check(len(shape) == 4 and min(shape) >= 1 and shape[1] == 3, "a shape is (N, 3, height, width)", shape)
        ordered = all(a <= b <= c for a, b, c in zip(self.min, self.opt, self.max, strict=True))
        _check(ordered, "a profile has min <= opt <= max on every axis", (self.min, self.opt, self.max))

    @property
    def is_fixed(self) -> bool:
        """Whether exactly one shape fits."""
        return self.min == self.max

    def holds(self, shape: tuple[int, ...]) -> bool:
        """Whether an input of that shape may be run."""
        return len(shape) == 4 and all(
            low <= side <= high for low, side, high in zip(self.min, shape, self.max, strict=True)
        )


@dataclass(frozen=True)
class EngineInfo:
    """Everything about an engine that its plan does not tell. Frozen, and checked when made.

    precision: "fp32", "fp16" or "int8". Input and outputs of the engine are float32 in each.
    build_seconds: of TensorRT alone, without calibration. size_bytes, engine_sha256: of the plan.

    Raises `ModelError` on contradictions.
    """

    spec: ModelSpec
    fingerprint: Fingerprint
    profile: Profile
    precision: str
    build_seconds: float
    size_bytes: int
    engine_sha256: str

    def __post_init__(self) -> None:
        _check(self.precision in PRECISIONS, f"precision is one of {PRECISIONS}", self.precision)
        _check(self.build_seconds >= 0, "build_seconds is at least 0", self.build_seconds)
        _check(self.size_bytes > 0, "size_bytes is above 0", self.size_bytes)

    @staticmethod
    def path_for(engine: Path) -> Path:
        """Where the info of an engine file lies: `people.engine.json` for `people.engine`."""
        return engine.with_name(engine.name + ".json")

    def mismatch(self, current: Fingerprint) -> str | None:
        """One line that says why the engine has to be built again; None: it fits.

        What either side leaves open (None, or an option that is not named) is not compared.
        """
        built = self.fingerprint
        for name, words in _WORDS.items():
            was, now = getattr(built, name), getattr(current, name)
            if was is not None and now is not None and was != now:
                return f"it was built for {words} {_readable(was)}, here is {_readable(now)}"
        for name in built.options.keys() & current.options.keys():
            if built.options[name] != current.options[name]:
                return f"it was built with {name} {built.options[name]}, wanted is {current.options[name]}"
        return None

    def check_belongs(self, plan: bytes, origin: Path) -> None:
        """Raises `ModelError` unless `plan`, read from `origin`, is the engine that this info was written for."""
        if len(plan) != self.size_bytes or hashlib.sha256(plan).hexdigest() != self.engine_sha256:
            raise ModelError(
                f"{origin}: wanted the engine of {self.size_bytes} bytes that {self.path_for(origin).name} was written "
                f"for, got another one of {len(plan)} bytes; copy both files together, or {_REBUILD}"
            )

    def to_json(self) -> str:
        """The info as JSON text, readable again by every later version."""
        return dump_readable({"format": FORMAT, **to_json_object(self), "spec": json.loads(self.spec.to_json())})

    @classmethod
    def from_json(cls, text: str, *, origin: str = "engine info") -> EngineInfo:
        """The info in JSON `text`; `origin` names the text in errors. Raises `ModelError`."""
        try:
            content: Any = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ModelError(f"{origin}: wanted engine info in JSON, but it does not parse: {error}") from error
        version = content.get("format") if isinstance(content, dict) else None
        if isinstance(version, bool) or version != FORMAT:
            raise ModelError(f"{origin}: wanted engine info of format {FORMAT}, got {version!r}; {_REBUILD}")
        if "spec" not in content:
            raise ModelError(f"{origin}: field spec is missing; {_REBUILD}")
        spec = ModelSpec.from_json(json.dumps(content["spec"]), origin=f"{origin}, spec")
        rest = {name: value for name, value in content.items() if name not in ("format", "spec")}
        try:
            return from_json_object(cls, {**rest, "spec": to_json_object(spec)})
        except ModelError as error:
            raise ModelError(f"{origin}: {error}; {_REBUILD}") from error

    def save(self, engine: str | Path) -> None:
        """Writes the JSON beside the engine file `engine`, whole or not at all."""
        from retinasdk._util.files import write_atomically

        write_atomically(self.path_for(Path(engine)), self.to_json().encode())

    @classmethod
    def load(cls, engine: str | Path) -> EngineInfo:
        """Reads the JSON beside the engine file `engine`. Raises `ModelError`."""
        path = cls.path_for(Path(engine))
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ModelError(
                f"{engine}: wanted its info in {path.name} beside it, which cannot be read: {error}; "
                f"copy both files together, or {_REBUILD}"
            ) from error
        return cls.from_json(text, origin=str(path))


def _readable(value: object) -> str:
    if isinstance(value, tuple):
        return ".".join(map(str, value))
    return f"{value[:12]}..." if isinstance(value, str) and len(value) == 64 else str(value)
