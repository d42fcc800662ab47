"""Metrics over real HTTP: who gets them, and that strangers keep nobody from them."""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as PillowImage

from retinasdk.live.prometheus import MetricsServer

client = pytest.importorskip("prometheus_client", reason="needs the extra [prometheus]")
TOKEN = "a-token_of-enough-letters"


@pytest.fixture
def registry() -> Any:
    registry = client.CollectorRegistry()
    client.Counter("apples", "Apples", registry=registry).inc(3)
    return registry


def get(url: str, **headers: str) -> tuple[int, str, dict[str, str]]:
    request = urllib.request.Request(url, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.read().decode(), dict(answer.headers)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode(), dict(error.headers)


def test_on_this_machine(registry: Any) -> None:
    with MetricsServer(registry, ":0") as server:
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/metrics", server.url)
        assert server.token is None
        status, text, headers = get(server.url)
        assert (status, headers["Content-Type"]) == (200, client.CONTENT_TYPE_LATEST)
        assert "apples_total 3.0" in text.splitlines()
        # A web page whose host name was changed to mean this machine (DNS rebinding), and one that just asks.
        assert get(server.url, Host="evil.example")[0] == 403
        assert get(server.url, **{"Sec-Fetch-Site": "cross-site"})[0] == 403
        assert get(server.url.removesuffix("metrics"))[0] == 404


def test_elsewhere_a_token_is_needed(registry: Any) -> None:
    with MetricsServer(registry, "0.0.0.0:0") as server:
        url = re.sub(r"//[^:]+:", "//127.0.0.1:", server.url)
        assert server.token is not None
        assert len(server.token) >= 32
        assert server.token not in server.url
        status, text, headers = get(url)
        assert (status, headers["WWW-Authenticate"]) == (401, "Bearer")
        assert "apples" not in text
        assert get(url, Authorization="Bearer no")[0] == get(f"{url}?token={server.token}")[0] == 401
        assert get(url, Authorization=f"Bearer {server.token}", Host="machine.local")[0] == 200


def test_strangers_keep_no_one_out(registry: Any) -> None:
    with MetricsServer(registry, "0", token=TOKEN) as server, contextlib.ExitStack() as stack:
        port = int(re.findall(r"\d+", server.url)[-1])
        for sent in (b"", b"GET /metrics HTTP/1.1\r\nHost: a\r\n") * 200:
            stranger = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=20))
            with contextlib.suppress(ConnectionError):
                stranger.sendall(sent)
        assert get(server.url, Authorization=f"Bearer {TOKEN}")[0] == 200


@pytest.fixture
def start(model_path: Path, tmp_path: Path) -> Iterator[Callable[..., tuple[str, str]]]:
    """Starts the command with more arguments. Returns what it says of the metrics: address and what follows."""
    for number in range(400):
        PillowImage.new("RGB", (80, 60), (number % 200, 90, 90)).save(tmp_path / f"{number}.png")
    command = [sys.executable, "-m", "retinasdk.cli.main", "live", str(tmp_path), "--model", str(model_path)]
    processes = []

    def new(*arguments: str) -> tuple[str, str]:
        process = subprocess.Popen(
            [*command, "--device", "cpu", "--max-fps", "20", *arguments],
            cwd=tmp_path,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        assert process.stderr is not None
        line = process.stderr.readline()
        found = re.fullmatch(r"metrics at http://[^:/]+:(\d+)/metrics(.*)\n", line)
        assert found is not None, line
        return f"http://127.0.0.1:{found[1]}/metrics", found[2]

    yield new
    for process in processes:
        process.terminate()
        process.communicate(timeout=60)


def test_the_command_makes_a_token(start: Callable[..., tuple[str, str]]) -> None:
    url, text = start("--metrics", "0.0.0.0:0")
    found = re.fullmatch(r", with the header (Authorization): (Bearer \S{32,})", text)
    assert found is not None
    assert get(url)[0] == 401
    assert "retinasdk_stream_frames_total" in get(url, **{found[1]: found[2]})[1]


@pytest.mark.parametrize("by_environment", [False, True])
def test_the_command_takes_a_token_and_does_not_repeat_it(
    start: Callable[..., tuple[str, str]], monkeypatch: pytest.MonkeyPatch, by_environment: bool
) -> None:
    monkeypatch.setenv("RETINASDK_METRICS_TOKEN", TOKEN if by_environment else "another_token_of-letters")
    url, text = start("--metrics", ":0", *([] if by_environment else ["--metrics-token", TOKEN]))
    assert text == ", with the header Authorization: Bearer TOKEN"
    assert get(url)[0] == 401
    assert get(url, Authorization=f"Bearer {TOKEN}")[0] == 200
