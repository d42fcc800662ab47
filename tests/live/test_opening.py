"""What cannot be opened fails at once, in one sentence that says what to do; passwords appear nowhere."""

from __future__ import annotations

import contextlib
import http.server
import io
import itertools
import re
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from live_pictures import find_nothing

from retinasdk import ImageError
from retinasdk._util.addresses import shown, without_password, without_passwords
from retinasdk.cli.main import main
from retinasdk.live import StreamError, Video, stream
from retinasdk.live.sources import as_source
from retinasdk.live.sources.failures import why_not_opened


@pytest.fixture(scope="module")
def statuses() -> Iterator[str]:
    """The address of a server that answers /404 with this status, and /200 with a page that is no video."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/200":
                self.send_response(200)
                self.end_headers()
                self.wfile.write(b"<html>no video</html>" * 100)
            else:
                self.send_error(int(self.path[1:]))

        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://user:secret@127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def reason(source: str | Video) -> str:
    """Why a stream of the source ends before its first frame. It is tried once."""
    opened = []
    frames = stream(source, find_nothing, on_state=lambda change: opened.append(change.state))
    with frames, pytest.raises(StreamError) as raised:
        next(frames)
    assert opened == ["connecting", "lost"]
    return str(raised.value)


# -- the reason, and what to do ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (401, "401 Unauthorized.*the user name or password is missing or wrong; put USER:PASSWORD@ before"),
        (403, "403 Forbidden.*check the rights of the account"),
        (404, "404 Not Found; check the path in the address"),
        (503, "5XX.*the camera or server has a problem of its own"),
        (200, "what the server sends is no video that FFmpeg knows"),
    ],
)
def test_answers_of_a_server(statuses: str, status: int, said: str) -> None:
    pytest.importorskip("av", reason="needs PyAV (retinasdk[video])")
    told = reason(f"{statuses}/{status}")
    assert re.search(f"/{status}: cannot be opened as video: .*{said}", told), told
    assert "secret" not in told


@pytest.mark.parametrize("scheme", ["rtsp", "http"])
def test_nobody_listens(scheme: str) -> None:
    pytest.importorskip("av", reason="needs PyAV (retinasdk[video])")
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    told = reason(f"{scheme}://127.0.0.1:{port}/live")
    assert "Connection refused; nothing listens at this port; check the port" in told


@pytest.mark.parametrize("scheme", ["rtsp", "http"])
def test_a_host_that_nobody_knows(scheme: str) -> None:
    pytest.importorskip("av", reason="needs PyAV (retinasdk[video])")
    told = reason(f"{scheme}://camera.invalid/live")  # RFC 6761: this name never exists
    assert told.endswith("no host of this name is known; check the name in the address, or use the IP address")


@pytest.mark.parametrize("scheme", ["rtsp", "http"])
def test_a_server_that_accepts_and_says_nothing(scheme: str) -> None:
    """The time-out ends the wait. No upper bound is asserted: without it, the test would hang."""
    pytest.importorskip("av", reason="needs PyAV (retinasdk[video])")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"{scheme}://127.0.0.1:{silent.getsockname()[1]}/live"
        begin = time.monotonic()
        assert "no answer within 0.3 s; check the address, and that the camera is" in reason(Video(url, timeout_s=0.3))
        assert time.monotonic() - begin >= 0.3


def test_addresses_that_are_none() -> None:
    pytest.importorskip("av", reason="needs PyAV (retinasdk[video])")
    assert "this FFmpeg does not know the kind of address; use rtsp://" in reason("camera://127.0.0.1/live")
    for password in ("a/b", "a?b", "a#b"):
        told = reason(f"rtsp://user:{password}@127.0.0.1:1/live")
        assert "if the password contains one of @ : / ? # %, write %40 %3A %2F %3F %23 %25" in told
        assert password not in told


def test_files_that_are_no_video(tmp_path: Path) -> None:
    pytest.importorskip("av", reason="needs PyAV (retinasdk[video])")
    path = tmp_path / "notes.mp4"
    path.write_text("no video")
    assert f"it is damaged, or no video that FFmpeg knows; check it with: ffprobe '{path}'" in reason(str(path))


# -- passwords ---------------------------------------------------------------------------------------------------------

HOSTS = st.sampled_from(["camera", "10.0.0.7", "[fe80::1]", "127.0.0.1:554"])
PATHS = st.sampled_from(["", "/", "/live", "/live/1", "/live?channel=1", "/live#1"])
# With letters that are in nothing else, so that each of them would be noticed.
SECRETS = st.text(st.sampled_from("XYZ0 /?#@:%&=.'\"\\[]é\t")).map(lambda text: f"Q{text}W")


@given(user=st.sampled_from(["", "root", "a/b", "a?b", "a@b"]), password=SECRETS, host=HOSTS, path=PATHS)
@example(user="root", password="Q?x=1@W", host="camera", path="/live?user=root&password=Q?x=1@W")
def test_no_letter_of_a_password_is_in_a_name(user: str, password: str, host: str, path: str) -> None:
    name = without_password(f"rtsp://{user}:{password}@{host}{path}")
    plain = f"rtsp://{host}{path.partition('?')[0].partition('#')[0]}"
    assert name in (plain, "rtsp://***")
    if not set(password) & set("?"):
        assert name == plain or "?" in user
    told = without_passwords(f"rtsp://{user}:{password}@{host}{path}: lost", [f"rtsp://{user}:{password}@{host}{path}"])
    assert not set("QWXYZ") & set(told)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("rtsp://camera:554/live", "rtsp://camera:554/live"),
        ("rtsp://camera/live?user=u&password=p", "rtsp://camera/live"),
        ("http://camera/live?mail=a@secret", "http://***"),
        ("rtsp://user:secret", "rtsp://***"),  # somebody forgot the host
        ("rtsp://***", "rtsp://***"),
        ("clip.mp4", "clip.mp4"),
    ],
)
def test_names(url: str, name: str) -> None:
    assert without_password(url) == name


def test_messages() -> None:
    text = "cannot open 'rtsp://u:a/b@camera:554/live': no http://u:b@[::1]:80, use rtsp:// or rtsp://camera."
    told = "cannot open 'rtsp://camera:554/live': no http://[::1]:80, use rtsp:// or rtsp://camera."
    assert without_passwords(text) == told
    assert shown("rtsp:/user:secret@camera/live") == "***@camera/live"
    assert shown("photos@2x") == "photos@2x"


@settings(max_examples=40)
@given(password=SECRETS)
def test_no_letter_of_a_password_is_in_an_error(password: str) -> None:
    """Nor in what it came from, nor in its traceback. Nothing listens at port 1."""
    pytest.importorskip("av", reason="needs PyAV (retinasdk[video])")
    source = as_source(f"rtsp://root:{password}@127.0.0.1:1/live")
    with stream(source, find_nothing) as frames, pytest.raises(StreamError) as raised:
        next(frames)
    told = [source.name, str(raised.value), *traceback.format_exception_only(raised.value)]
    errors: list[BaseException | None] = [raised.value]
    while errors:
        error = errors.pop()
        if error is not None:
            told += [str(error), repr(error), repr(vars(error))]
            errors += [error.__cause__, error.__context__]
    for text in told:
        assert not set("QXYZ") & set(text.replace("root", "")), text


@settings(max_examples=3)
@given(password=SECRETS)
@example("Q a'X/\"Y?#@ZW")
def test_no_letter_of_a_password_is_in_what_the_command_prints(password: str) -> None:
    url = f"rtsp://root:{password}@127.0.0.1:1/live"
    typed = [["live", url], ["live", url, url], [url], ["live", f"rtsp:/root:{password}@camera/live"]]
    typed += [["live", "0", "--policy", url], ["live", "0", "--attempts", url], ["live", "0", "--web", url]]
    for words in typed:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            assert main(words) == 2
        said = out.getvalue() + err.getvalue()
        assert not set("QXYZ") & set(said), said


def test_a_mistyped_address_is_not_repeated() -> None:
    with pytest.raises(ImageError, match=r"^\*\*\*@camera/live: no such file or folder"):
        as_source("rtsp:/user:secret@camera/live")


def test_arguments_of_a_file_are_not_in_the_list_of_processes(tmp_path: Path) -> None:
    pytest.importorskip("av", reason="needs PyAV (retinasdk[video])")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        words = tmp_path / "camera.txt"
        words.write_text(f"rtsp://user:secret@127.0.0.1:{silent.getsockname()[1]}/live\n\n--max-frames\n1\n")
        command = [sys.executable, "-m", "retinasdk", "live", f"@{words}", "--device", "cpu"]
        with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            connection, _ = silent.accept()  # it has read the address
            if sys.platform.startswith("linux"):
                shown_to_all = Path(f"/proc/{process.pid}/cmdline").read_bytes()
                assert b"camera.txt" in shown_to_all
                assert b"secret" not in shown_to_all
            process.terminate()
            out, err = process.communicate(timeout=60)
            connection.close()
    assert process.returncode == 143
    assert b"secret" not in out + err


def test_a_file_of_arguments_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["live", "@none.txt"]) == 2
    assert "@none.txt: this stands for the arguments in a file, one in each line" in capsys.readouterr().err


def test_every_exception_is_raised_outside_of_the_handler() -> None:
    """A lost connection: FFmpeg's error names the URL, so it must not be the context of ours."""
    av = pytest.importorskip("av", reason="needs PyAV (retinasdk[video])")
    video = Video("http://user:secret@127.0.0.1:1/live")

    def lost() -> Iterator[object]:
        raise av.error.ExitError(1, "Immediate exit requested", "http://user:secret@127.0.0.1:1/live")
        yield

    video._packets = itertools.chain(lost())
    with pytest.raises(StreamError, match="connection lost: nothing was received for 5 s") as raised:
        video.read()
    assert (raised.value.__cause__, raised.value.__context__) == (None, None)


def test_only_addresses_of_tcp_are_tried_by_tcp() -> None:
    """Nothing listens at TCP port 1, which says nothing about SRT, and everything about RTSP."""
    error = OSError(5, "Input/output error")
    assert "Connection refused" in why_not_opened(error, "rtsp://127.0.0.1:1/live", 0.1, 5.0)
    assert "Connection refused" not in why_not_opened(error, "srt://127.0.0.1:1", 0.1, 5.0)
