"""Clients that mean no good, over real sockets: none of them keeps a viewer out, costs more than its share, or leaves a
traceback. The server is a process of its own, so that its file descriptors can be counted.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from retinasdk.live import Counters, Frame
from retinasdk.live.web import Preview

TOKEN = "a-token_of-enough-letters"
PROGRAM = f"""
import numpy as np, time
from retinasdk.live import Counters, Frame
from retinasdk.live.web import Preview
image = np.zeros((60, 80, 3), np.uint8)
with Preview("127.0.0.1:0", token="{TOKEN}") as preview:
    print(preview.url, flush=True)
    for index in range(10**9):
        counters = Counters(captured=index, processed=index)
        preview.show(Frame(image=image, detections=None, source="camera", index=index, captured_s=0.0, age_s=0.0,
                           time_s=None, counters=counters))
        time.sleep(0.05)
"""
# Strangers, and with them connections that are being accepted or closed, the event loop's own, and a few files.
MOST_DESCRIPTORS = 128 + 64 + 40
ODD = {
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64), 400),
    "SSH": (b"SSH-2.0-OpenSSH_9.2\r\n", 400),
    "HTTP/0.9": (b"GET /\r\n", 400),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "a later HTTP": (b"GET / HTTP/2.0\r\n\r\n", 505),
    "line feeds alone": (b"GET / HTTP/1.1\nHost: x\n\n", 400),
    "no host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "half a bracket": (b"GET /stream HTTP/1.1\r\nHost: [\r\n\r\n", 400),
    "half an address": (b"GET /stream HTTP/1.1\r\nHost: [::1\r\n\r\n", 400),
    "a host with a path": (b"GET /stream HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
    "a huge port": (b"GET /stream HTTP/1.1\r\nHost: a:99999999999999999999\r\n\r\n", 400),
    "two hosts": (b"GET /stream HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    "two tokens": (b"GET /stream HTTP/1.1\r\nHost: a\r\nAuthorization: a\r\nAuthorization: b\r\n\r\n", 400),
    "a name that is not ASCII": ("GET / HTTP/1.1\r\nHost: a\r\nNämé: x\r\n\r\n".encode(), 400),
    "a host that is not ASCII": ("GET / HTTP/1.1\r\nHost: kämera\r\n\r\n".encode(), 400),
    "a path that is not ASCII": ("GET /ä HTTP/1.1\r\nHost: a\r\n\r\n".encode(), 400),
    "a token that is not ASCII": ("GET /stream HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer ä\r\n\r\n".encode(), 401),
    "a null byte": (b"GET / HTTP/1.1\r\nHost: a\r\nx: \0\r\n\r\n", 400),
    "a folded header": (b"GET / HTTP/1.1\r\nHost: a\r\nx: y\r\n z\r\n\r\n", 400),
    "a space before the colon": (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
    "a whole URL": (b"GET http://[/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "a long address": (b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
    "a long header": (b"GET / HTTP/1.1\r\nHost: a\r\nx: " + b"a" * 20_000 + b"\r\n\r\n", 431),
    "many headers": (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"a: b\r\n" * 1000 + b"\r\n", 431),
    "much of headers": (b"GET / HTTP/1.1\r\nHost: a\r\n" + (b"a: " + b"b" * 1000 + b"\r\n") * 50 + b"\r\n", 431),
    "an odd query": (b"GET /stream?%ff=%&&==&source HTTP/1.1\r\nHost: a\r\n\r\n", 401),
    "a body": (b"POST /stream HTTP/1.1\r\nHost: a\r\nContent-Length: 500000\r\n\r\n" + bytes(500_000), 405),
    "a chunked body": (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nffffffffff\r\n", 405),
    "both lengths": (
        b"GET /nothing HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        404,
    ),
    "an unknown method": (b"BREW / HTTP/1.1\r\nHost: a\r\n\r\n", 405),
}


@dataclass(frozen=True)
class Process:
    """The preview in a process of its own."""

    pid: int
    port: int

    def connect(self, source: str = "127.0.0.1") -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20, source_address=(source, 0))

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def ask(self, request: bytes) -> bytes:
        """Everything that comes back until the server closes the connection."""
        with self.connect() as connection, contextlib.suppress(ConnectionError):
            with contextlib.suppress(ConnectionError):
                connection.sendall(request)
            parts = []
            while part := connection.recv(65536):
                parts.append(part)
            return b"".join(parts)
        return b""


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("file descriptors are counted in /proc")
    elsewhere = tmp_path_factory.mktemp("elsewhere")  # than the source tree, which has no compiled modules
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], cwd=elsewhere, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        found = re.fullmatch(rf"http://127\.0\.0\.1:(\d+)/#token={TOKEN}\n", server.stdout.readline())
        assert found is not None
        yield Process(server.pid, int(found[1]))
        server.terminate()
        _, complaints = server.communicate(timeout=60)
    assert complaints == ""  # no request of this module left a line on the terminal


REQUEST = f"GET /stream HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode()


def frames(answer: http.client.HTTPResponse) -> Iterator[int]:
    """The numbers of the frames that come."""
    answer.begin()
    assert answer.status == 200
    while True:
        lengths = answer.read(8)
        about = json.loads(answer.read(int.from_bytes(lengths[:4], "big")))
        answer.read(int.from_bytes(lengths[4:], "big"))
        yield about["index"]


def watch(process: Process, stack: contextlib.ExitStack) -> Iterator[int]:
    """A viewer, who leaves with the block."""
    connection = stack.enter_context(process.connect())
    connection.sendall(REQUEST)
    return frames(stack.enter_context(http.client.HTTPResponse(connection)))


def wait_until(condition: Callable[[], object]) -> None:
    for _ in range(4000):
        if condition():
            return
        time.sleep(0.005)
    raise AssertionError("did not come true")


@pytest.mark.parametrize("sent", [b"", b"G", b"GET /stream HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer "])
def test_a_crowd_of_strangers_keeps_no_viewer_out(process: Process, sent: bytes) -> None:
    before = process.descriptors()
    with contextlib.ExitStack() as stack:
        early = watch(process, stack)
        next(early)
        for _ in range(400):
            stranger = stack.enter_context(process.connect())
            with contextlib.suppress(ConnectionError):
                stranger.sendall(sent)
            assert process.descriptors() < before + MOST_DESCRIPTORS
        late = watch(process, stack)
        assert next(late) < next(late)
        assert next(early) < next(early)  # who was there before still watches
    wait_until(lambda: process.descriptors() <= before)


def test_the_crowd_of_one_machine_closes_no_connection_of_another(process: Process) -> None:
    before = process.descriptors()
    with contextlib.ExitStack() as stack:
        other = stack.enter_context(process.connect("127.0.0.2"))
        other.sendall(REQUEST[:-2])
        crowd = [stack.enter_context(process.connect()) for _ in range(300)]
        assert crowd[0].recv(1) == b""
        other.sendall(REQUEST[-2:])
        assert next(frames(stack.enter_context(http.client.HTTPResponse(other)))) >= 0
    wait_until(lambda: process.descriptors() <= before)  # The next test counts viewers.


def test_those_with_the_token_have_a_limit_of_their_own(process: Process) -> None:
    with contextlib.ExitStack() as stack:
        viewers = [watch(process, stack) for _ in range(16)]
        for viewer in viewers:
            next(viewer)
        assert process.ask(REQUEST).startswith(b"HTTP/1.1 503")
        assert all(next(viewer) > 0 for viewer in viewers)


@pytest.mark.parametrize("kind", ODD)
def test_odd_requests_get_a_clean_answer(process: Process, kind: str) -> None:
    request, status = ODD[kind]
    answer = process.ask(request)
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert json.loads(body)["error"]
    for header in (
        b"Cache-Control: no-store",
        b"X-Content-Type-Options: nosniff",
        b"Referrer-Policy: no-referrer",
        b"Connection: close",
    ):
        assert header in head
    assert b"frame-ancestors 'none'" in head


def test_spoiled_requests(process: Process) -> None:
    """Each byte of a good request is spoiled in turn, and then some at random, with the same seed each time."""
    good = f"GET /detections.json?source=x HTTP/1.1\r\nHost: a:80\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode()
    chance = random.Random(0)
    spoiled = [good[:place] + bytes([chance.randrange(256)]) + good[place + 1 :] for place in range(len(good))]
    for _ in range(100):
        request = bytearray(good)
        for _ in range(chance.randrange(1, 8)):
            place = chance.randrange(len(request))
            change = bytes(chance.choices(b"\r\n \0:[]/?%\xff1a", k=chance.randrange(3)))
            request[place : place + chance.randrange(3)] = change
        spoiled.append(bytes(request))
    for request in spoiled:
        # What follows ends also a request that lost its end.
        answer = process.ask(request + b"\r\n\r\n")
        assert re.match(rb"HTTP/1\.1 (200|4\d\d|505) ", answer), (request, answer[:80])


def test_a_connection_serves_one_request(process: Process) -> None:
    answer = process.ask(b"HEAD / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\n\r\n" * 3)
    assert answer.count(b"HTTP/1.1 200") == 1


# -- in this process, so that the times can be made short --------------------------------------------------------------


@pytest.fixture
def preview() -> Iterator[Preview]:
    with Preview("127.0.0.1:0") as preview:
        yield preview


def join(preview: Preview) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(preview.url.rstrip("/").rpartition(":")[2])), timeout=20)


@pytest.mark.parametrize("request_text", [b"", b"GET / HT", b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 60 + b"x" * 500])
def test_a_slow_request_is_given_up(preview: Preview, monkeypatch: pytest.MonkeyPatch, request_text: bytes) -> None:
    """Time counts to the end of the headers: a byte now and then (slowloris) wins nothing."""
    monkeypatch.setattr("retinasdk.live.web.server._REQUEST_S", 0.5)
    with join(preview) as connection:
        connection.settimeout(0.02)
        answer = b""
        for place in range(1000):
            with contextlib.suppress(ConnectionError):
                connection.sendall(request_text[place : place + 1])
            with contextlib.suppress(TimeoutError):
                answer = connection.recv(100)
                break
    assert answer.startswith(b"HTTP/1.1 408")


def test_a_viewer_that_never_reads_is_disconnected(preview: Preview, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retinasdk.live.web.server._SEND_S", 0.5)
    noise = np.random.default_rng(0).integers(0, 256, (900, 1200, 3), np.uint8)  # 1 MB as JPEG
    with join(preview) as connection:
        connection.sendall(b"GET /stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
        wait_until(lambda: preview.viewers == 1)
        for index in range(10_000):
            counters = Counters(captured=index, processed=index)
            preview.show(Frame(noise, None, "camera", index, 0.0, 0.0, None, counters))
            time.sleep(0.01)
            if not preview.viewers:
                break
        assert preview.viewers == 0


def test_strangers_do_not_delay_the_end(preview: Preview) -> None:
    with contextlib.ExitStack() as stack:
        strangers = [stack.enter_context(join(preview)) for _ in range(20)]
        for stranger in strangers:
            stranger.sendall(b"GET /")
        preview.close()
        for stranger in strangers:
            with contextlib.suppress(ConnectionError):
                assert stranger.recv(1) == b""


def test_a_process_without_descriptors_says_so_in_a_line(
    preview: Preview,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The rest of the program may have opened too many files."""
    accept, failures = socket.socket.accept, iter(range(1))

    def limited(listener: socket.socket) -> tuple[socket.socket, object]:
        if next(failures, None) is not None:
            raise OSError(24, "Too many open files")
        return accept(listener)

    monkeypatch.setattr(socket.socket, "accept", limited)
    with join(preview) as connection:  # It is accepted a moment later.
        connection.sendall(b"HEAD / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 200")
    assert [record.getMessage() for record in caplog.records] == [
        "web preview: a connection was not accepted: [Errno 24] Too many open files"
    ]
    assert "Traceback" not in "".join(capfd.readouterr())
