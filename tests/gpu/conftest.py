"""Chooses what the tests of this folder run on, a GPU or the stand-ins, and opens it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes import fake_gpu
from gpu_device import IMAGE_SIZES, Gpu
from libcuda_driver import pycuda_or_stand_in

from retinasdk import Detector, DeviceError, MissingDependencyError
from retinasdk.cuda.device import CudaDevice, CudaStream, gpu_identity
from retinasdk.tensorrt.installed import import_tensorrt

_FAKE = os.environ.get("RETINASDK_GPU_TESTS") == "fake"
# "kernels": the GPU is required, and tests that need TensorRT are skipped where none runs on it.
_REQUIRED = os.environ.get("RETINASDK_REQUIRE_CUDA") in ("1", "kernels")
_TENSORRT_IS_REQUIRED = os.environ.get("RETINASDK_REQUIRE_CUDA") == "1"
_HERE = Path(__file__).parent
_RAN_ON = pytest.StashKey[str]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _HERE in item.path.parents:
            item.add_marker(pytest.mark.cuda)
            # TensorRT and pycuda may give deprecation warnings; their versions depend on the machine.
            item.add_marker(pytest.mark.filterwarnings("default::DeprecationWarning"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if _RAN_ON in config.stash:
        terminalreporter.write_line(f"tests/gpu ran {config.stash[_RAN_ON]}")


@pytest.fixture(scope="session")
def _chip(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[CudaDevice | str | None]:
    """The GPU, held for all tests. None: RETINASDK_GPU_TESTS asks for stand-ins. Text: why there is no GPU."""
    if _FAKE and _REQUIRED:
        yield "RETINASDK_GPU_TESTS=fake asks for stand-ins. Set only one of the two"
        return
    if _FAKE:
        pytestconfig.stash[_RAN_ON] = "over stand-ins, which proves nothing about a GPU"
        yield None
        return
    driver = pycuda_or_stand_in()
    try:
        device = CudaDevice()
    except (DeviceError, MissingDependencyError) as error:
        yield str(error)
        return
    pytestconfig.stash[_RAN_ON] = f"on {device.name}, compute capability {device.compute_capability}, by {driver}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RETINASDK_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield device
    device.close()


def _leave_out(reason: str, *, is_required: bool = _REQUIRED) -> None:
    if is_required:
        pytest.fail(f"RETINASDK_REQUIRE_CUDA={os.environ['RETINASDK_REQUIRE_CUDA']}, but {reason}", pytrace=False)
    pytest.skip(f"needs an NVIDIA GPU: {reason.partition(';')[0]}")


@pytest.fixture
def gpu(_chip: CudaDevice | str | None) -> Iterator[Gpu]:
    """The device under test, with its context current. Does not need TensorRT."""
    if isinstance(_chip, str):
        _leave_out(_chip)
    elif _chip is not None:
        with _chip.current():
            yield Gpu(_chip, None)
    else:
        with fake_gpu() as fake:
            device = CudaDevice()
            with device.current():
                yield Gpu(device, fake)
            device.close()


@pytest.fixture
def engine_gpu(gpu: Gpu) -> Gpu:
    """The device under test, with a TensorRT that runs on it."""
    try:
        import_tensorrt("tests/gpu", gpu=gpu_identity(gpu.device.native))
    except (DeviceError, MissingDependencyError) as error:
        _leave_out(str(error), is_required=_TENSORRT_IS_REQUIRED)
    return gpu


@pytest.fixture
def chip(engine_gpu: Gpu) -> Gpu:
    """A real GPU, for tests that mean nothing over stand-ins."""
    if not engine_gpu.is_real:
        pytest.skip("needs a real GPU; stand-ins cannot show it")
    return engine_gpu


@pytest.fixture
def stream(gpu: Gpu) -> Iterator[CudaStream]:
    stream = CudaStream(gpu.device)
    yield stream
    stream.wait()
    stream.close()


@pytest.fixture(scope="session")
def _engine_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("engine") / "tiny.engine"


@pytest.fixture
def engine(engine_gpu: Gpu, model_path: Path, _engine_file: Path) -> Path:
    """An fp32 engine of the tiny network for 1 to 4 images of `IMAGE_SIZES`, built once."""
    if not _engine_file.exists():
        engine_gpu.build_engine(model_path, _engine_file, batch=(1, 2, 4), sizes=IMAGE_SIZES)
    return _engine_file


@pytest.fixture
def on_gpu(engine: Path) -> Iterator[Detector]:
    """A detector that runs the engine of the tiny network."""
    with Detector(engine, device="cuda") as detector:
        yield detector
