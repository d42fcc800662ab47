"""Opens a model on the CPU with the convolutions that are fastest on this machine.

Note: Which convolutions are used

    Models are measured once on each machine (contest.py), and the times are kept (tuning.py). The convolutions of
    retinasdk must be faster by 3 % or more, because those of ONNX Runtime take less memory and need no rewriting.

    A rule decides where nothing is measured: with RETINASDK_TUNE=0, if there is no folder of caches, and while the
    machine is too busy. The convolutions of retinasdk are then used unless the file has less than 1 MB: such networks
    gain milliseconds at most. They are never used if they fail, or on a processor for which there are only kernels in
    plain C++.
"""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from retinasdk import __version__
from retinasdk._util.onnx_files import model_sha256
from retinasdk._util.onnx_wire import fields
from retinasdk._util.processor import instruction_sets, processor_name, usable_cores
from retinasdk.backends import blocked_graph, limited_sums, sessions, tuning
from retinasdk.backends.contest import BusyError, Contest, DisagreementError, Size, sizes_to_measure
from retinasdk.backends.convolution import BLOCKED, DIRECT, ConvolutionChoice
from retinasdk.backends.sessions import NotRewrittenError
from retinasdk.backends.tuning import Times, TuningKey
from retinasdk.errors import ModelError
from retinasdk.onnx_graph.model_file import find_spec
from retinasdk.pipeline.preprocess import Transform
from retinasdk.spec import ModelSpec

_log = logging.getLogger("retinasdk")

MARGIN = 0.03
_ASKED = "as asked for"
_PLAIN = "plain"
_LEAST_BYTES = 1 << 20
_TOGETHER_BYTES = 60 << 20  # Larger files are measured one session after the other.
_USUAL_IMAGE = (480, 640)
_STEP = 32  # of the sides of inputs that are measured; networks with other sides pad at every level
_METADATA, _METADATA_KEY, _METADATA_VALUE = 14, 1, 2  # fields of ModelProto and of its entries


@dataclass(frozen=True)
class OpenedModel:
    """A session of ONNX Runtime with what belongs to it."""

    session: Any
    spec: ModelSpec
    choice: ConvolutionChoice


def open_model(path: Path, *, spec: ModelSpec | None, threads: int | None, convolution: str) -> OpenedModel:
    """Opens a model.

    Args:
        path: An ONNX file.
        spec: The spec of the model. None: the one in `<model>.json` beside the file, else the one in its metadata.
        threads: Number of threads per call. None: one for each core.
        convolution: "direct": the convolutions of ONNX Runtime. "blocked": those of retinasdk, where the model has any
            that they replace. "auto": what is faster on this machine.

    Raises:
        ModelError: If the file cannot be loaded or has no spec.
        MissingDependencyError: If ONNX Runtime is not installed.
        ValueError: If RETINASDK_ISA names an instruction set that this processor does not have.
    """
    known = spec or _known_spec(path)
    if known is None or convolution == DIRECT:
        opening = _Opening(path, threads, isa="", spec=known)
        session, choice = opening.direct("given", _ASKED)
        known = known or find_spec(path, session.get_modelmeta().custom_metadata_map)
    else:
        sessions.onnxruntime()
        opening = _Opening(path, threads, isa=_isa(), spec=known)
        session, choice = opening.blocked("given", _ASKED) if convolution == BLOCKED else opening.fastest(known)
    _log.debug("%s: convolutions are %s", path.name, choice)
    return OpenedModel(session, known, choice)


def nominal_size(spec: ModelSpec) -> Size:
    """Returns the (height, width) in pixels of the network input for an image of 480 x 640 pixels."""
    return Transform.plan(_USUAL_IMAGE, spec).padded


class _Opening:
    """Opens one model, and describes why it is opened so."""

    def __init__(self, path: Path, threads: int | None, *, isa: str, spec: ModelSpec | None) -> None:
        self._path = path
        self._threads = threads
        self._isa = isa
        self._size = (0, 0) if spec is None else nominal_size(spec)

    def direct(self, reason: str, explanation: str, times: Times | None = None) -> tuple[Any, ConvolutionChoice]:
        session = sessions.open_direct(self._path, self._threads)
        return session, self._choice(DIRECT, reason, explanation, times)

    def blocked(self, reason: str, explanation: str, times: Times | None = None) -> tuple[Any, ConvolutionChoice]:
        """Opens the model with the convolutions of retinasdk, or with those of ONNX Runtime if that is not possible."""
        try:
            session = sessions.open_blocked(self._path, self._threads, self._size)
        except NotRewrittenError as error:
            return self._refused(error)
        return session, self._choice(BLOCKED, reason, explanation, times)

    def fastest(self, spec: ModelSpec) -> tuple[Any, ConvolutionChoice]:
        """Opens the model with the convolutions that are faster by what is measured or known."""
        if self._isa in ("", _PLAIN):
            return self.direct("rule", "retinasdk has no kernels for this processor")
        if limited_sums.are_limited(self._path):
            return self.blocked("rule", "ONNX Runtime limits 8-bit sums of this model to 16 bits on this processor")
        if not tuning.is_enabled():
            return self._by_rule(f"{tuning.VARIABLE}=0")
        key = self._key()
        try:
            times = tuning.kept_times(key)
        except OSError as error:
            _log.info("%s is not measured, because results cannot be kept: %s", self._path.name, error)
            return self._by_rule("results cannot be kept")
        if times is not None:
            return self._open_faster("cached", times)
        if not sessions.is_rewritable(self._path, self._size):
            return self._refused(NotRewrittenError("the network has no convolutions that retinasdk replaces"))
        try:
            return self._measured(spec, key)
        except (ModelError, OSError):
            raise  # The file itself cannot be used.
        except BusyError as error:
            _log.info(
                "%s is measured again when it is next opened, because the machine is busy: %s", self._path.name, error
            )
            return self._by_rule(f"the machine is too busy to measure ({error})")
        except DisagreementError as error:
            _log.warning(
                "%s uses the convolutions of ONNX Runtime: those of retinasdk gave other results (%s). Report it with "
                "the output of `retinasdk doctor --json`.",
                self._path.name,
                error,
            )
            return self.direct("rule", "the convolutions of retinasdk gave other results")
        except Exception as error:  # Those of ONNX Runtime have no common base class.
            return self._refused(error)

    def _measured(self, spec: ModelSpec, key: TuningKey) -> tuple[Any, ConvolutionChoice]:
        contest = Contest(
            lambda: sessions.open_direct(self._path, self._threads),
            lambda: sessions.open_blocked(self._path, self._threads, self._size),
            functools.partial(_run_on_noise, spec),
            sizes_to_measure(self._size, multiple=math.lcm(spec.pad_multiple, _STEP))
            if spec.resize.fixed_size is None
            else [self._size],
        )
        if self._path.stat().st_size > _TOGETHER_BYTES:
            measured, last = contest.one_after_the_other()
            opened = {BLOCKED: last}
            del last
        else:
            measured, direct, blocked = contest.together()
            opened = {DIRECT: direct, BLOCKED: blocked}
            del direct, blocked
        times = tuning.keep_times(key, measured)
        name, explanation = _verdict(times)
        session = opened.pop(name, None)
        opened.clear()  # Before the other one is opened, if it has to be.
        if session is None:
            return self._open_faster("measured", times)
        return session, self._choice(name, "measured", explanation, times)

    def _open_faster(self, reason: str, times: Times) -> tuple[Any, ConvolutionChoice]:
        name, explanation = _verdict(times)
        return (self.blocked if name == BLOCKED else self.direct)(reason, explanation, times)

    def _by_rule(self, why: str) -> tuple[Any, ConvolutionChoice]:
        if self._path.stat().st_size < _LEAST_BYTES:
            return self.direct("rule", f"{why}, and the file has less than 1 MB")
        return self.blocked("rule", f"{why}, and the file has 1 MB or more")

    def _refused(self, error: Exception) -> tuple[Any, ConvolutionChoice]:
        why = sessions.first_line(error)
        _log.info("%s uses the convolutions of ONNX Runtime: %s", self._path.name, why)
        return self.direct("rule", why)

    def _choice(self, name: str, reason: str, explanation: str, times: Times | None) -> ConvolutionChoice:
        measured = {} if times is None else times.milliseconds
        size = None if times is None else (times.height, times.width)
        threads = self._threads or usable_cores()
        return ConvolutionChoice(name, reason, explanation, self._isa, threads, measured, size)

    def _key(self) -> TuningKey:
        return TuningKey(
            model=model_sha256(self._path),
            processor=processor_name(),
            instruction_sets=" ".join(instruction_sets()),
            isa=self._isa,
            threads=self._threads or usable_cores(),
            onnxruntime=sessions.onnxruntime().__version__,
            retinasdk=__version__,
            height=self._size[0],
            width=self._size[1],
        )


def _verdict(times: Times) -> tuple[str, str]:
    """Returns the name of the convolutions to use, and why."""
    figures = f"{times.blocked:.4g} ms, against {times.direct:.4g} ms with those of ONNX Runtime"
    text = f"a call with the convolutions of retinasdk takes {figures}, at {times.height} x {times.width}"
    return (BLOCKED if times.blocked <= (1 - MARGIN) * times.direct else DIRECT), text


def _isa() -> str:
    """Returns the instruction set of the convolutions of retinasdk, or "" if they were not built."""
    if blocked_graph.library() is None:
        return ""
    from retinasdk import _native

    return _native.convolution_isa()


def _known_spec(path: Path) -> ModelSpec | None:
    """Returns the spec of a file without loading its network. None: loading it tells what is wrong with it."""
    try:
        return find_spec(path, _metadata(path))
    except (ModelError, OSError, ValueError):
        return None


def _metadata(path: Path) -> dict[str, str]:
    """Returns the metadata of an ONNX file.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is not an ONNX file.
    """
    found = {}
    for part in fields(memoryview(path.read_bytes())):
        if part.number == _METADATA:
            entry = {item.number: bytes(item.data).decode() for item in fields(part.data)}
            found[entry.get(_METADATA_KEY, "")] = entry.get(_METADATA_VALUE, "")
    return found


def _run_on_noise(spec: ModelSpec, session: Any, size: Size) -> Sequence[npt.NDArray[np.float32]]:
    batch = session.get_inputs()[0].shape[0]
    shape = (batch if isinstance(batch, int) else 1, 3, *size)
    noise = np.random.default_rng(0).standard_normal(shape, np.float32)
    names = [name for level in spec.levels for name in (level.logits, level.deltas)]
    outputs: Sequence[npt.NDArray[np.float32]] = session.run(names, {spec.input: noise})
    return outputs
