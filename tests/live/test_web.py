"""The preview over real HTTP: who gets in, what they get, and that no viewer harms the stream or another viewer."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import http.client
import io
import ipaddress
import json
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image as PillowImage

from retinasdk import Detections
from retinasdk.cli.live_sinks import _web
from retinasdk.live import Counters, Frame
from retinasdk.live.web import Preview
from retinasdk.live.web.address import Address, Gate
from retinasdk.live.web.request import Request

TOKEN = "a-token_of-enough-letters"
LABELS = ("person", "<img src=x onerror=alert(1)>")


def frame(index: int, source: str = "camera", shape: tuple[int, int] = (60, 80), **changes: Any) -> Frame:
    """A frame whose grey tells its index, with as many boxes."""
    found = Detections(
        np.tile(np.array([[10, 10, 30, 40]], np.float32), (index, 1)),
        np.linspace(0.9, 0.5, index, dtype=np.float32),
        np.arange(index) % 2,
        LABELS,
    )
    fields = {
        "image": np.full((*shape, 3), 20 * index, np.uint8),
        "detections": found,
        "source": source,
        "index": index,
        "captured_s": float(index),
        "age_s": 0.25,
        "time_s": None,
        "counters": Counters(captured=index + 1, processed=index + 1),
    }
    return Frame(**{**fields, **changes})


def wait_until(condition: Callable[[], object]) -> None:
    for _ in range(2000):
        if condition():
            return
        time.sleep(0.005)
    raise AssertionError("did not come true")


class Viewer:
    """A program that looks: the bytes of /stream, taken apart by hand."""

    def __init__(self, preview: Preview, query: str = "", **headers: str) -> None:
        self.connection = connect(preview)
        self.connection.request("GET", f"/stream{query}", headers=headers)
        self.answer = self.connection.getresponse()

    def next(self) -> tuple[dict[str, Any], bytes]:
        lengths = self.answer.read(8)
        text = self.answer.read(int.from_bytes(lengths[:4], "big"))
        return json.loads(text), self.answer.read(int.from_bytes(lengths[4:], "big"))

    def close(self) -> None:
        self.connection.close()
        self.answer.close()


def connect(preview: Preview) -> http.client.HTTPConnection:
    host, _, port = preview.url.partition("#")[0].removeprefix("http://").rstrip("/").rpartition(":")
    return http.client.HTTPConnection(host, int(port), timeout=20)


def get(preview: Preview, path: str, method: str = "GET", **headers: str) -> tuple[int, bytes, dict[str, str]]:
    with contextlib.closing(connect(preview)) as connection:
        connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return answer.status, answer.read(), {name.lower(): value for name, value in answer.getheaders()}


@pytest.fixture
def preview() -> Iterator[Preview]:
    threads = set(threading.enumerate())
    with Preview("127.0.0.1:0", max_viewers=3) as preview:
        yield preview
    assert set(threading.enumerate()) - threads == set()


@pytest.fixture
def look(preview: Preview) -> Iterator[Callable[..., Viewer]]:
    """look(query, **headers): a further viewer, who leaves with the test."""
    viewers = []

    def new(query: str = "", **headers: str) -> Viewer:
        viewers.append(Viewer(preview, query, **headers))
        return viewers[-1]

    yield new
    for viewer in viewers:
        viewer.close()


def test_the_page(preview: Preview) -> None:
    status, body, headers = get(preview, "/")
    assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert b"retinasdk live" in body
    assert b"//" not in body.replace(b"// ", b"")  # nothing from elsewhere
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert (
        "unsafe" not in policy
    )  # The page's own script and style run by their hashes: tests/live/test_web_browser.py.
    assert headers["x-content-type-options"] == "nosniff"
    assert (headers["referrer-policy"], headers["cache-control"]) == ("no-referrer", "no-store")
    assert "server" not in headers


def test_a_viewer_gets_picture_boxes_and_numbers_of_one_frame(preview: Preview, look: Callable[..., Viewer]) -> None:
    viewer = look()
    for index in range(1, 12):
        preview.show(frame(index))
        facts, jpeg = viewer.next()
        assert facts["index"] == index == len(facts["detections"])
        picture = np.asarray(PillowImage.open(io.BytesIO(jpeg)))
        assert picture.shape == (60, 80, 3)
        assert abs(float(picture.mean()) - 20 * index) < 2
    assert facts["labels"] == list(LABELS)
    assert facts["counters"] == {"captured": 12, "processed": 12, "dropped": 0, "failed": 0}
    assert (facts["width"], facts["height"], facts["age_s"], facts["sources"]) == (80, 60, 0.25, ["camera"])
    assert facts["fps"] > 0
    viewer.close()
    wait_until(lambda: preview.viewers == 0)


def test_large_pictures_are_made_smaller_and_boxes_are_not(preview: Preview, look: Callable[..., Viewer]) -> None:
    preview.show(frame(2, shape=(3000, 4000)))
    viewer = look()
    facts, jpeg = viewer.next()
    assert PillowImage.open(io.BytesIO(jpeg)).size == (1280, 960)
    assert (facts["width"], facts["height"]) == (4000, 3000)


def test_a_failed_frame_is_told(preview: Preview, look: Callable[..., Viewer]) -> None:
    preview.show(frame(1, detections=None, error=ValueError("too <dark>")))
    viewer = look()
    facts, _ = viewer.next()
    assert (facts["detections"], facts["error"]) == (None, "ValueError: too <dark>")


def test_several_sources(preview: Preview, look: Callable[..., Viewer]) -> None:
    preview.show(frame(1, "left"))
    preview.show(frame(2, "right & wrong"))
    first, other = look(), look("?source=right%20%26%20wrong")
    assert (first.next()[0]["source"], other.next()[0]["index"]) == ("left", 2)
    preview.show(frame(3, "right & wrong"))
    facts, _ = other.next()
    assert (facts["index"], facts["sources"]) == (3, ["left", "right & wrong"])
    assert get(preview, "/detections.json?source=/etc/passwd")[0] == 404


def test_detections_as_json(preview: Preview) -> None:
    assert get(preview, "/detections.json")[0] == 404
    preview.show(frame(3))
    wait_until(lambda: get(preview, "/detections.json")[0] == 200)
    status, body, headers = get(preview, "/detections.json")
    assert (status, headers["content-type"]) == (200, "application/json")
    assert json.loads(body) == json.loads(json.dumps(frame(3).to_dict()))


def test_without_frames_there_is_a_sign_of_life(
    preview: Preview, look: Callable[..., Viewer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("retinasdk.live.web.preview._IDLE_S", 0.05)
    viewer = look()
    assert [viewer.next() for _ in range(2)] == [({"idle": True}, b"")] * 2
    preview.show(frame(1))
    messages = (viewer.next() for _ in range(100))
    assert next(about for about, _ in messages if "idle" not in about)["index"] == 1


def test_the_end_is_told(preview: Preview, look: Callable[..., Viewer]) -> None:
    preview.show(frame(1))
    viewer = look()
    viewer.next()
    closing = threading.Thread(target=preview.close)
    closing.start()
    assert viewer.next() == ({"ended": True}, b"")
    assert viewer.answer.read() == b""
    closing.join(20)
    with pytest.raises(OSError, match="refused"):
        get(preview, "/")
    preview.show(frame(2))  # nobody is there, and nothing happens
    preview.close()


def test_a_viewer_that_takes_nothing_harms_no_one(preview: Preview, look: Callable[..., Viewer]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (900, 1200, 3), np.uint8)  # 1 MB as JPEG
    stuck, quick = look(), look()
    seen = []
    for index in range(1, 40):
        preview.show(dataclasses.replace(frame(1), image=noise, index=index))
        seen.append(quick.next()[0]["index"])
    assert seen == list(range(1, 40))
    # What lay in the buffers comes first, a few megabytes; then the newest, and nothing of what was in between.
    taken = [stuck.next()[0]["index"]]
    while taken[-1] != 39:
        taken.append(stuck.next()[0]["index"])
    assert taken[0] == 1
    assert len(taken) < 20


def test_each_picture_is_made_once(
    preview: Preview, look: Callable[..., Viewer], monkeypatch: pytest.MonkeyPatch
) -> None:
    from retinasdk.live.web import feed

    made = []
    jpeg = feed._jpeg
    monkeypatch.setattr(feed, "_jpeg", lambda item: made.append(item.index) or jpeg(item))
    preview.show(frame(0))
    time.sleep(0.05)
    assert made == []  # nobody looks
    viewers = [look() for _ in range(3)]
    assert [viewer.next()[0]["index"] for viewer in viewers] == [0, 0, 0]
    preview.show(frame(1))
    assert len({viewer.next()[1] for viewer in viewers}) == 1
    assert made == [0, 1]


def test_one_viewer_too_many(preview: Preview, look: Callable[..., Viewer]) -> None:
    preview.show(frame(1))
    viewers = [look() for _ in range(3)]
    for viewer in viewers:
        viewer.next()
    status, body, _ = get(preview, "/stream")
    assert (status, json.loads(body)) == (503, {"error": "the limit of 3 viewers is reached"})
    viewers.pop().close()
    wait_until(lambda: preview.viewers == 2)
    again = look()
    assert again.next()[0]["index"] == 1


@pytest.mark.parametrize(
    "path", ["/../etc/passwd", "/%2e%2e/etc/passwd", "/page.html", "/static/x", "//etc/passwd", "/docs"]
)
def test_nothing_else_is_served(preview: Preview, path: str) -> None:
    assert get(preview, path)[0] == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
@pytest.mark.parametrize("path", ["/", "/stream", "/detections.json"])
def test_other_methods(preview: Preview, path: str, method: str) -> None:
    assert get(preview, path, method)[0] == 405
    assert get(preview, "/stream", "HEAD")[:2] == (200, b"")
    wait_until(lambda: preview.viewers == 0)


def test_endless_headers_and_rubbish_are_refused(preview: Preview) -> None:
    host, port = preview.url.removeprefix("http://").rstrip("/").split(":")
    endless = b"GET / HTTP/1.1\r\n" + b"x: " + b"y" * 200_000 + b"\r\n\r\n"
    for rubbish, status in ((b"\0\xff" * 500 + b"\r\n\r\n", 400), (endless, 431)):
        with socket.create_connection((host, int(port)), timeout=20) as connection:
            with contextlib.suppress(OSError):
                connection.sendall(rubbish)
            with contextlib.suppress(OSError):
                assert connection.recv(100).startswith(b"HTTP/1.1 %d" % status)
    assert get(preview, "/")[0] == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "10.0.0.1", ""])
def test_a_name_made_to_mean_this_machine_is_refused(preview: Preview, host: str) -> None:
    preview.show(frame(1))
    for path in ("/stream", "/detections.json"):
        assert get(preview, path, Host=host)[0] in (400, 403)


@pytest.mark.parametrize("host", ["localhost", "localhost:1", "127.0.0.1", "127.0.0.1:99", "[::1]", "[::1]:8080"])
def test_names_of_this_machine(preview: Preview, host: str) -> None:
    assert get(preview, "/detections.json", Host=host)[0] == 404  # let in; there is no frame


def test_other_pages_may_not_read(preview: Preview) -> None:
    assert get(preview, "/detections.json", Sec_Fetch_Site="cross-site")[0] == 403
    assert get(preview, "/detections.json", Sec_Fetch_Site="same-origin")[0] == 404
    assert "access-control-allow-origin" not in get(preview, "/detections.json", Origin="http://evil.example")[2]


def test_token() -> None:
    with Preview("127.0.0.1:0", token=TOKEN) as preview:
        assert preview.url.endswith(f"/#token={TOKEN}")
        preview.show(frame(1))
        assert get(preview, "/")[0] == 200  # the page itself tells nothing
        for wrong in ({}, {"Authorization": "Bearer x"}, {"Authorization": TOKEN + "é".encode().decode("latin-1")}):
            for path in ("/stream", f"/detections.json?token={TOKEN}"):
                status, body, _ = get(preview, path, **wrong)
                assert status == 401
                assert "token is needed" in json.loads(body)["error"]
        with contextlib.closing(Viewer(preview, Authorization=f"Bearer {TOKEN}")) as viewer:
            assert viewer.next()[0]["index"] == 1


def test_where_others_can_connect_a_token_is_made() -> None:
    gates = [Gate(Address("0.0.0.0", 80), None) for _ in range(2)]
    assert gates[0].token is not None
    assert gates[0].token != gates[1].token
    assert len(gates[0].token) >= 32
    request = Request("GET", "/stream", {}, {}, "camera.local")
    assert gates[0].refusal(request) is not None
    for scheme in ("Bearer", "bearer"):
        headers = {"authorization": f"{scheme} {gates[0].token}"}
        assert gates[0].refusal(dataclasses.replace(request, headers=headers)) is None
    assert Gate(Address("127.0.0.1", 80), None).token is None
    with pytest.raises(ValueError, match="16 to 256 letters"):
        Gate(Address("127.0.0.1", 80), "short")


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("8080", Address("127.0.0.1", 8080)),
        (":8080", Address("127.0.0.1", 8080)),
        ("0.0.0.0:1", Address("0.0.0.0", 1)),
        ("[::1]:8080", Address("::1", 8080)),
        ("camera.local:65535", Address("camera.local", 65535)),
    ],
)
def test_addresses(text: str, address: Address) -> None:
    assert Address.parse(text) == address


@pytest.mark.parametrize(
    ("host", "pattern"), [("0.0.0.0", r"http://(\d+\.\d+\.\d+\.\d+):8090/"), ("::", r"http://\[([0-9a-f:.]+)\]:8090/")]
)
def test_the_urls_of_an_address_for_all_can_be_opened(host: str, pattern: str) -> None:
    """0.0.0.0 is where to listen, and no address to connect to."""
    urls = Address(host, 8090).urls(8090, "secret")
    found = [re.fullmatch(f"{pattern}#token=secret", url) for url in urls]
    addresses = [ipaddress.ip_address(item[1]) for item in found if item is not None]
    assert len(addresses) == len(urls)
    assert not any(address.is_unspecified for address in addresses)
    assert addresses[-1].is_loopback


def test_the_command_prints_addresses_that_can_be_opened(capsys: pytest.CaptureFixture[str]) -> None:
    with contextlib.ExitStack() as stack:
        _web(argparse.Namespace(web="0.0.0.0:0", web_token=None), stack)
        text = capsys.readouterr().err
        urls = re.findall(r"http://[^/ ]+/#token=\S{32}", text)
        assert text == f"open {' or on this machine '.join(urls)}\n"
        assert urls
        for url in urls:
            host, _, port = url.removeprefix("http://").partition("/")[0].rpartition(":")
            with contextlib.closing(http.client.HTTPConnection(host, int(port), timeout=20)) as connection:
                connection.request("GET", "/detections.json", headers={"Authorization": f"Bearer {url.split('=')[1]}"})
                assert connection.getresponse().status == 404  # let in; there is no frame


def test_the_url_in_a_network_without_a_way_out() -> None:
    """As in many factories: there is no route to other networks, which tells the machine's address elsewhere."""
    program = "from retinasdk.live.web.address import Address; print(*Address('0.0.0.0', 8090).urls(8090, None))"
    inside = ["unshare", "--net", "--map-root-user"]
    steps = "ip link add lan type veth peer name far && ip addr add 10.20.30.40/24 dev lan && ip link set lan up"
    if subprocess.run([*inside, "sh", "-c", steps], check=False, capture_output=True).returncode != 0:
        pytest.skip("this machine cannot make a network namespace")
    command = [*inside, "sh", "-c", f'{steps} && exec "$0" -c "$1"', sys.executable, program]
    found = subprocess.run(command, check=True, capture_output=True, text=True)
    assert found.stdout.split() == ["http://10.20.30.40:8090/", "http://127.0.0.1:8090/"]


def test_localhost_that_others_can_reach_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    place = [(socket.AF_INET, socket.SOCK_STREAM, 0, "", ("0.0.0.0", 0))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: place)
    with pytest.raises(OSError, match=r"cannot listen on localhost .*: on this machine the name stands for 0\.0\.0\.0"):
        Preview("localhost:0")


@pytest.mark.parametrize(
    "text", ["", ":", "host", "host:", "127.0.0.1:65536", "http://x:80", "clip.mp4", "a b:1", "::1:80"]
)
def test_bad_addresses(text: str) -> None:
    with pytest.raises(ValueError, match="is no address; use HOST:PORT such as"):
        Address.parse(text)


def test_a_taken_port_and_a_foreign_address(preview: Preview) -> None:
    port = preview.url.rstrip("/").rpartition(":")[2]
    with pytest.raises(OSError, match=rf"cannot listen on 127.0.0.1 port {port}: .*; choose an address"):
        Preview(f"127.0.0.1:{port}")
    with pytest.raises(OSError, match=r"cannot listen on 203\.0\.113\.7"):
        Preview("203.0.113.7:0")
