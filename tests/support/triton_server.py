"""A real Triton server on loopback: the tritonserver and the Python backend in the wheel of nvidia-pytriton."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_START_S, _STOP_S = 120, 60


@dataclass
class TritonServer:
    """A running server."""

    process: subprocess.Popen[bytes]
    http: str
    grpc: str
    log: Path

    def stop(self) -> int:
        """Stops it as an operator does, and gives its exit status."""
        self.process.terminate()
        return self.process.wait(_STOP_S)


def installed() -> Path | None:
    """The folder of the wheel's server, if it is installed; pytriton itself is not imported."""
    found = importlib.util.find_spec("pytriton")
    if found is None or not found.submodule_search_locations:
        return None
    return Path(found.submodule_search_locations[0]) / "tritonserver"


@contextlib.contextmanager
def running(repository: Path, folder: Path) -> Iterator[TritonServer]:
    """Starts a server that has loaded no model yet. Its models run in the Python that runs the tests."""
    source = installed()
    assert source is not None
    backend = folder / "backends/python"
    backend.mkdir(parents=True)
    stub = source / f"python_backend_stubs/3.{sys.version_info.minor}/triton_python_backend_stub"
    for file in (*(source / "backends/python").glob("*.*"), stub):
        (backend / file.name).symlink_to(file)
    ports = [_free_port() for _ in range(2)]
    options = {
        "model-repository": repository,
        "model-control-mode": "explicit",
        "backend-directory": folder / "backends",
        "http-address": "127.0.0.1",
        "http-port": ports[0],
        "grpc-address": "127.0.0.1",
        "grpc-port": ports[1],
        "allow-metrics": "false",
    }
    log = folder / "server.log"
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # The stub starts the first python3 of the path.
    with open(log, "wb") as output:
        process = subprocess.Popen(
            [source / "bin/tritonserver", *(f"--{name}={value}" for name, value in options.items())],
            env={**os.environ, "PATH": path},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        end = time.monotonic() + _START_S
        while "Started HTTPService" not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.1)
        yield TritonServer(process, *(f"127.0.0.1:{port}" for port in ports), log)
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
