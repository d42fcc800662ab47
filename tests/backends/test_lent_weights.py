"""Lent weights: keys, memory of any alignment, and one copy for all who need it."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import operator_cases
import pytest
from operator_cases import AROUND, INFINITY, Array, Case, Graph, operators

from retinasdk.backends.lent_weights import lent

PLAIN = {"addition": 0, "planar_output": 0, "low": -INFINITY, "high": INFINITY, "bias": 0}


def run(keys: dict[str, int], x: Array) -> Array:
    graph = Graph()
    graph.add("BlockedConv", ["x"], domain="retinasdk", **PLAIN, **AROUND, planar_input=0, **keys)
    return graph.run({"x": x})


@pytest.fixture(scope="module")
def weights() -> Array:
    return Case(0).array(20, 16, 3, 3)


def test_memory_of_any_alignment(weights: Array) -> None:
    x = Case(1).array(1, 1, 5, 6, 16)
    with lent(operators(), {"weights": weights}) as keys:
        expected = run(keys, x)
    content = bytearray(weights.nbytes + 8)
    for offset in range(4):
        content[offset : offset + weights.nbytes] = weights.tobytes()
        view = memoryview(content)[offset : offset + weights.nbytes]
        for tensor in (np.frombuffer(view, np.float32).reshape(weights.shape), view.cast("f", list(weights.shape))):
            with lent(operators(), {"weights": tensor}) as keys:
                np.testing.assert_array_equal(run(keys, x), expected)


def test_taken_back(weights: Array) -> None:
    x, message = (
        np.zeros((1, 1, 5, 6, 16), np.float32),
        "retinasdk BlockedConv: weights must be the key of a lent tensor",
    )
    with lent(operators(), {"weights": weights}) as keys:
        run(keys, x)
    with pytest.raises(Exception, match=f"{message}, got {keys['weights']}; keys are valid only"):
        run(keys, x)
    with pytest.raises(Exception, match=f"{message}, got 0"):
        run({"weights": 0}, x)
    kept: dict[str, int] = {}
    with pytest.raises(KeyError), lent(operators(), {"weights": weights}) as keys:  # noqa: PT012
        kept = keys
        raise KeyError
    with pytest.raises(Exception, match=message):
        run(kept, x)


def test_keys_are_of_one_process(weights: Array) -> None:
    with lent(operators(), {"one": weights, "two": weights}) as keys:
        assert keys["one"] != keys["two"]
        assert min(keys.values()) > 1000


@pytest.mark.parametrize(
    "tensor",
    [
        np.zeros((2, 3), np.float64),
        np.zeros((2, 3), ">f4"),
        np.zeros((2, 3), np.float32).T,
        np.zeros((0, 3), np.float32),
        np.float32(1.0),
        np.zeros((1,) * 9, np.float32),
        memoryview(b"abcd"),
    ],
)
def test_refused(weights: Array, tensor: Array) -> None:
    message = r"head.weight must be a contiguous float32 tensor with 1 to 8 dimensions and at least one value, got "
    with pytest.raises(ValueError, match=message), lent(operators(), {"first": weights, "head.weight": tensor}):
        pass


def test_library_without_the_functions(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="missing"), lent(tmp_path / "missing.so", {}):
        pass
    libraries = sorted(Path(np.__file__).parent.rglob("_multiarray_umath*"))
    with pytest.raises(OSError, match="no operators of this version of retinasdk"), lent(libraries[0], {}):
        pass


def test_threads_lend_at_once(weights: Array) -> None:
    """Sessions are made while other threads lend and take back."""
    x = Case(1).array(1, 1, 5, 6, 16)
    with lent(operators(), {"weights": weights}) as keys:
        expected = run(keys, x)
    found: list[Array] = []

    def work() -> None:
        for _ in range(20):
            with lent(operators(), {"weights": weights.copy()}) as keys:
                found.append(run(keys, x))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 80
    assert all(np.array_equal(each, expected) for each in found)


# Prints how much memory sessions of ten nodes take. The weights are 9 MB, and seven times as much once they are
# transformed.
MEMORY = """
import sys
import numpy as np
from operator_cases import INFINITY, Graph, operators
from retinasdk.backends.lent_weights import lent

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 / 1e6

def make(values):
    graph, name = Graph(), "x"
    with lent(operators(), {f"level {i}": values.copy() for i in range(3)}) as keys:
        for key in [*keys.values(), *keys.values()]:
            ways = {"addition": 0, "bias": 0, "low": 0.0, "high": INFINITY, "patch": 6, "planar_output": 0}
            name = graph.add("WinogradConv", [name], domain="retinasdk", weights=key, **ways)
        return graph.session(["x"])

make(np.ones((16, 16, 3, 3), np.float32))
values = np.random.default_rng(0).standard_normal((512, 512, 3, 3), np.float32)
before = resident()
sessions = [make(values) for _ in range(2)]
print(resident() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_equal_weights_exist_once(tmp_path: Path) -> None:
    """In both sessions, and for each of their nodes."""
    folder = str(Path(operator_cases.__file__).parent)
    program = f"import sys; sys.path.insert(0, {folder!r})\n{MEMORY}"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert 60.0 < float(done.stdout) < 160.0  # 12 copies would be 800 MB.
