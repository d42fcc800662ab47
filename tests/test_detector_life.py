"""A `Detector`'s life: opening and closing, threads, forks, memory."""

from __future__ import annotations

import gc
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pictures import LABELS, blocks

from retinasdk import Detections, Detector, DeviceError, ModelError, ModelSpec


def test_properties(model_path: Path, spec: ModelSpec) -> None:
    detector = Detector(str(model_path))
    assert (detector.labels, detector.device, detector.model_path, detector.spec) == (LABELS, "cpu", model_path, spec)
    assert repr(detector) == "Detector('random tiny', 3 classes, device='cpu')"


def test_close(model_path: Path) -> None:
    detector = Detector(model_path)
    detector(blocks())
    detector.close()
    detector.close()
    with pytest.raises(DeviceError, match=r"The Detector is closed\. Create a new one"):
        detector(blocks())


def test_context_manager(model_path: Path) -> None:
    with Detector(model_path) as detector:
        detections = detector(blocks())
    assert detections == Detector(model_path)(blocks())
    with pytest.raises(DeviceError, match="closed"):
        detector(blocks())
    with pytest.raises(KeyError, match="out"), Detector(model_path):
        raise KeyError("out")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_fork_says_so_and_a_spawned_process_works(run_python: Any, model_path: Path, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(f"""
import multiprocessing, os, warnings
import numpy, retinasdk

def count(model):
    return len(retinasdk.Detector(model, score_threshold=0.0)(numpy.zeros((50, 60, 3), "uint8")))

if __name__ == "__main__":
    warnings.simplefilter("ignore")  # newer Pythons warn of fork() with threads
    detector = retinasdk.Detector({str(model_path)!r})
    child = os.fork()
    if child == 0:
        try:
            detector(numpy.zeros((50, 60, 3), "uint8"))
        except retinasdk.DeviceError as error:
            print(error, flush=True)
        os._exit(0)
    os.waitpid(child, 0)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print(pool.apply(count, ({str(model_path)!r},)))
""")
    result = run_python(["program.py"])
    assert result.returncode == 0, result.stderr
    first, second = result.stdout.splitlines()
    assert "The Detector was created before this process was forked" in first
    assert second == "300"


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_do_not_change_results(detector: Detector, model_path: Path, threads: int) -> None:
    other = Detector(model_path, threads=threads)(blocks())
    assert other.class_ids.tolist() == detector(blocks()).class_ids.tolist()
    np.testing.assert_allclose(other.xyxy, detector(blocks()).xyxy, atol=1e-3)


@pytest.mark.parametrize("threads", [0, -1, 1.5, "2", 1025, 10**12])
def test_bad_threads(model_path: Path, threads: Any) -> None:
    with pytest.raises((ValueError, TypeError), match=f"threads must be .*, got '?{threads}"):
        Detector(model_path, threads=threads)


@pytest.mark.parametrize("given", [{}, "model.json", Path("model.json")], ids=["dict", "name", "path"])
def test_spec_must_be_a_spec(model_path: Path, given: Any) -> None:
    with pytest.raises(TypeError, match="spec must be a ModelSpec"):
        Detector(model_path, spec=given)


def test_devices(model_path: Path, detector: Detector) -> None:
    for device in ("cpu", "auto"):
        assert Detector(model_path, device=device)(blocks()) == detector(blocks())
    with pytest.raises(DeviceError, match=r"'cuda' needs a GPU.*use device='cpu'"):
        Detector(model_path, device="cuda")
    with pytest.raises(ValueError, match="device must be one of auto, cpu, cuda; got 'gpu'"):
        Detector(model_path, device="gpu")


def test_options_are_keywords(detector: Detector, model_path: Path) -> None:
    with pytest.raises(TypeError, match="positional"):
        detector(blocks(), 0.5)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="positional"):
        Detector(model_path, "cpu")  # type: ignore[misc]


def test_many_threads_get_what_one_gets(detector: Detector) -> None:
    """Single images, lists, thresholds and classes mixed: each call gives exactly what it gives alone."""
    sizes = ((90, 120), (120, 90), (61, 47), (90, 121), (30, 400), (400, 30), (1, 1))
    calls: list[tuple[Any, dict[str, Any]]] = []
    for seed, size in enumerate(sizes):
        image = blocks(*size, seed=seed)
        calls += [
            (image, {}),
            (image, {"classes": [LABELS[seed % 3]], "score_threshold": 0.1}),
            ([image, blocks(seed=seed), image], {"score_threshold": 0.3}),
        ]
    wanted = [detector(image, **options) for image, options in calls]
    assert len({str(item) for item in wanted}) > len(calls) // 2
    with ThreadPoolExecutor(12) as pool:
        for _ in range(3):
            order = np.random.default_rng(0).permutation(len(calls) * 4) % len(calls)
            futures = [pool.submit(detector, calls[i][0], **calls[i][1]) for i in order]
            for i, future in zip(order, futures, strict=True):
                assert future.result() == wanted[i]


def test_detectors_share_nothing(model_path: Path, detector: Detector, spec: ModelSpec) -> None:
    wanted = detector(blocks())
    other = Detector(model_path, spec=spec.replace(labels=("a", "b", "c"), max_detections=2))
    assert len(other(blocks())) == 2
    other.close()
    assert detector(blocks()) == wanted


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/statm")
def test_a_call_leaves_no_thread_busy() -> None:
    """By the processor's time, which other processes do not lengthen: waiting for more work took 0.1 s and more."""
    with Detector("people", device="cpu", threads=4) as waiting:
        waiting(np.zeros((200, 300, 3), np.uint8))
        before = time.process_time()
        time.sleep(0.2)
        assert time.process_time() - before < 0.02


def test_memory_does_not_grow(detector: Detector) -> None:
    def resident_mib() -> float:
        gc.collect()
        return int(Path("/proc/self/statm").read_text().split()[1]) / 256

    frames = [blocks(480, 640, seed=seed) for seed in range(3)]
    for frame in frames * 20:
        detector(frame)
    before = resident_mib()
    for frame in frames * 100:  # 300 frames of 0.9 MiB each
        detector(frame)
    assert resident_mib() - before < 30


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/statm")
def test_closed_detectors_give_memory_back(model_path: Path) -> None:
    def resident_mib() -> float:
        gc.collect()
        return int(Path("/proc/self/statm").read_text().split()[1]) / 256

    def use() -> Detections:
        with Detector(model_path, threads=1) as detector:
            return detector(blocks())

    for _ in range(10):
        use()
    before = resident_mib()
    for _ in range(50):
        use()
    assert resident_mib() - before < 30


def test_a_missing_bundled_name(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is not the path of a file and not the name of a bundled model"):
        Detector("peopel")
    with pytest.raises(ModelError, match="not the name of a bundled model; bundled models: "):
        Detector(tmp_path)
