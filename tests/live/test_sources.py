"""Sources over real files and real connections: encoded here, decoded by the package, compared with what went in."""

from __future__ import annotations

import contextlib
import functools
import http.server
import itertools
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from pictures import blocks
from PIL import Image as PillowImage

from retinasdk import Detections, ImageError, MissingDependencyError
from retinasdk._util.addresses import without_password
from retinasdk.live import (
    Animation,
    Arrays,
    Camera,
    CorruptFrameError,
    Folder,
    Pipeline,
    Reconnect,
    RosBag,
    Source,
    StreamError,
    Video,
    stream,
)
from retinasdk.live.sources import as_source
from retinasdk.live.video_writer import VideoWriter

Picture = npt.NDArray[np.uint8]


def find_nothing(image: Any) -> Detections:
    return Detections.empty(("thing",))


def read_all(source: Source) -> list[tuple[Picture, float | None]]:
    source.open()
    try:
        return [(raw.rgb(), raw.time_s) for raw in iter(source.read, None)]
    finally:
        source.close()


def shade(number: int, width: int = 64, height: int = 48) -> Picture:
    """A flat grey that tells its number, which survives any codec: 0 to 49."""
    return np.full((height, width, 3), 5 + 5 * number, np.uint8)


def number_of(image: Picture) -> int:
    return round((float(image.mean()) - 5) / 5)


def encode(
    path: Path | str, pictures: list[Picture], *, fps: int = 25, codec: str = "libx264", format: str | None = None
) -> None:
    av = pytest.importorskip("av", reason="needs PyAV (retinasdk[video])")
    with av.open(str(path), "w", format=format) as container:
        output = container.add_stream(codec, rate=fps, options={"g": "10", "bf": "0"} if codec == "libx264" else {})
        output.height, output.width = pictures[0].shape[:2]
        output.pix_fmt = "rgb24" if codec == "png" else "yuv420p"
        for picture in pictures:
            container.mux(output.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(output.encode(None))


@pytest.fixture
def movie(tmp_path: Path) -> Path:
    """30 frames of 64 x 48 at 25 frames a second, each of its own shade."""
    path = tmp_path / "movie.mp4"
    encode(path, [shade(number) for number in range(30)])
    return path


# -- which source a word means -----------------------------------------------------------------------------------------


def test_what_is_chosen(tmp_path: Path, movie: Path) -> None:
    (tmp_path / "folder").mkdir()
    PillowImage.fromarray(shade(0)).save(tmp_path / "folder" / "a.png")
    PillowImage.fromarray(shade(0)).save(tmp_path / "a.GIF")
    assert isinstance(as_source(movie), Video)
    assert isinstance(as_source(str(movie)), Video)
    assert isinstance(as_source("rtsp://camera/1"), Video)
    assert isinstance(as_source(tmp_path / "folder"), Folder)
    assert isinstance(as_source(tmp_path / "a.GIF"), Animation)
    assert isinstance(as_source(iter([])), Arrays)
    video = Video(movie)
    assert as_source(video) is video


def test_cameras_are_chosen() -> None:
    pytest.importorskip("cv2", reason="needs OpenCV")
    for given, name in ((0, "/dev/video0"), ("3", "/dev/video3"), ("/dev/video1", "/dev/video1")):
        camera = as_source(given)
        assert isinstance(camera, Camera)
        assert (camera.name, camera.live) == (name, True)


@pytest.mark.parametrize(
    "given", [np.zeros((4, 4, 3), np.uint8), [np.zeros((4, 4, 3), np.uint8)], 1.5, None, True, b""]
)
def test_what_is_no_source(given: Any) -> None:
    with pytest.raises(TypeError, match=r"source must be a path.*pass iter\(\[\.\.\.\]\)"):
        stream(given, find_nothing)


def test_missing_files_and_no_sources() -> None:
    with pytest.raises(ImageError, match=r"none\.mp4: no such file or folder; a source is a video file"):
        stream("none.mp4", find_nothing)
    for none in ([], {}):
        with pytest.raises(ValueError, match="at least one source, got none"):
            stream(none, find_nothing)


@pytest.mark.parametrize("module", ["av", "cv2", "rosbags"])
def test_missing_packages_are_named(module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setitem(sys.modules, "rosbags.highlevel", None)
    make: dict[str, Callable[[], Source]] = {
        "av": lambda: Video("rtsp://camera"),
        "cv2": lambda: Camera(0),
        "rosbags": lambda: RosBag(tmp_path),
    }
    with pytest.raises(MissingDependencyError, match=f"needs the package {module}.*pip install"):
        make[module]()


def test_imports_stay_lazy() -> None:
    program = (
        "import sys, retinasdk.live; print(sorted({'av', 'cv2', 'PIL', 'rosbags', 'onnxruntime'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"


# -- files -------------------------------------------------------------------------------------------------------------


def test_video_gives_every_frame_with_its_time(movie: Path) -> None:
    frames = read_all(Video(movie))
    assert [number_of(image) for image, _ in frames] == list(range(30))
    assert [time_s for _, time_s in frames] == pytest.approx([number / 25 for number in range(30)])
    for image, _ in frames:
        assert (image.shape, image.dtype, image.flags.c_contiguous) == ((48, 64, 3), np.uint8, True)


def test_frames_outlive_their_source(movie: Path) -> None:
    """Those in line are converted when their turn comes: then the file may long be closed."""
    video = Video(movie)
    video.open()
    frames = list(iter(video.read, None))
    video.close()
    video.close()
    del video
    assert [number_of(raw.rgb()) for raw in frames] == list(range(30))
    image = frames[0].rgb()
    image[:] = 0  # the caller's to change


def test_video_colours_are_red_green_blue(tmp_path: Path) -> None:
    picture = np.zeros((48, 96, 3), np.uint8)
    picture[:, :32, 0] = picture[:, 32:64, 1] = picture[:, 64:, 2] = 200
    encode(tmp_path / "colours.mp4", [picture] * 5)
    image = read_all(Video(tmp_path / "colours.mp4"))[2][0].astype(int)
    for third in range(3):
        middle = image[24, 16 + 32 * third]
        assert middle.argmax() == third
        assert abs(middle[third] - 200) < 12
        assert sorted(middle)[1] < 12


@pytest.mark.parametrize(("degrees", "turns"), [(0, 0), (90, 3), (180, 2), (270, 1)])
def test_video_is_turned_upright(tmp_path: Path, degrees: int, turns: int) -> None:
    """The file says: turn clockwise by so much to show it, as ffmpeg -display_rotation and phones do."""
    picture = np.full((48, 96, 3), 30, np.uint8)
    picture[:24, :48] = 220  # top left
    encode(tmp_path / "turned.mp4", [picture] * 5)
    _set_rotation(tmp_path / "turned.mp4", degrees)
    image = read_all(Video(tmp_path / "turned.mp4"))[0][0].astype(int)
    wanted = np.rot90(picture, turns)
    assert image.shape == wanted.shape
    assert np.abs(image - wanted).mean() < 6


def _set_rotation(path: Path, degrees: int) -> None:
    """Writes the matrix of the track header (ISO 14496-12, 8.3.2): {a, b, u, c, d, v, x, y, w}, clockwise."""
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 4 + 4 + 20 + 8 + 8  # after version, times, ids, layer and volume
    cosine, sine = {0: (1, 0), 90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]
    for offset, value in ((0, cosine), (4, sine), (12, -sine), (16, cosine)):
        data[start + offset : start + offset + 4] = (value * 65536).to_bytes(4, "big", signed=True)
    path.write_bytes(data)


def test_size_changes_in_the_middle(tmp_path: Path) -> None:
    first, second = tmp_path / "a.ts", tmp_path / "b.ts"
    encode(first, [shade(number) for number in range(10)], format="mpegts")
    encode(second, [shade(number, 128, 96) for number in range(10, 20)], format="mpegts")
    (tmp_path / "both.ts").write_bytes(first.read_bytes() + second.read_bytes())
    with stream(tmp_path / "both.ts", find_nothing, policy="all") as frames:
        got = list(frames)
    sizes = [frame.image.shape[:2] for frame in got]
    assert sizes.count((48, 64)) >= 9
    assert sizes.count((96, 128)) >= 9
    assert sizes == sorted(sizes)
    assert {number_of(frame.image) for frame in got} >= set(range(9)) | set(range(11, 20))


def test_damage_in_the_middle_of_a_file(tmp_path: Path) -> None:
    """Ten packets of 188 bytes are spoilt: the stream goes on to the end, and says what was decoded with damage."""
    path = tmp_path / "movie.ts"
    random = np.random.default_rng(0)
    noise = random.integers(0, 60, (40, 48, 64, 3), dtype=np.uint8)
    encode(path, [np.minimum(shade(number) + noise[number], 255) for number in range(40)], format="mpegts")
    data = bytearray(path.read_bytes())
    for packet in random.choice(np.arange(8, len(data) // 188), 10, replace=False).tolist():
        data[188 * packet + 8 : 188 * packet + 188] = random.bytes(180)
    path.write_bytes(data)
    with stream(path, find_nothing, policy="all") as frames:
        got = list(frames)
        counters = frames.counters[str(path)]
    assert 20 <= len(got) < 40
    assert counters.failed >= 1
    assert (counters.processed, counters.captured) == (len(got), len(got) + counters.failed)


def test_a_frame_that_cannot_be_decoded(tmp_path: Path) -> None:
    path = tmp_path / "movie.avi"
    encode(path, [shade(number) for number in range(10)], codec="png")
    data = path.read_bytes()
    starts = [match.start() for match in re.finditer(rb"\x89PNG", data)]
    assert len(starts) == 10
    path.write_bytes(data[: starts[4]] + bytes(8) + data[starts[4] + 8 :])
    with stream(path, find_nothing, policy="all") as frames:
        numbers = [number_of(frame.image) for frame in frames]
        # Some FFmpeg give up the frame after it, too.
        assert [number for number in numbers if number != 5] == [0, 1, 2, 3, 6, 7, 8, 9]
        assert frames.counters[str(path)].failed == 1


@pytest.mark.parametrize("keep", [0.0, 0.02, 0.6])
def test_truncated_files_end_in_a_clear_error_or_early(movie: Path, keep: float) -> None:
    data = movie.read_bytes()
    movie.write_bytes(data[: int(len(data) * keep)])
    with (
        stream(movie, find_nothing, policy="all") as frames,
        pytest.raises(StreamError, match=r"movie\.mp4: (cannot be opened as video|it contains no video)"),
    ):
        next(frames)


def test_a_file_without_video(tmp_path: Path) -> None:
    av = pytest.importorskip("av", reason="needs PyAV (retinasdk[video])")
    with av.open(str(tmp_path / "sound.wav"), "w") as container:
        output = container.add_stream("pcm_s16le", rate=8000)
        output.layout = "mono"
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), format="s16", layout="mono")
        sound.rate = 8000
        container.mux(output.encode(sound))
        container.mux(output.encode(None))
    with (
        stream(tmp_path / "sound.wav", find_nothing) as frames,
        pytest.raises(StreamError, match="it contains no video stream"),
    ):
        next(frames)


def test_recordings_run_at_their_own_speed_where_frames_are_dropped(movie: Path) -> None:
    """No upper bound: a busy machine is late, never early."""
    for speed in (1.0, 4.0):
        with stream(movie, find_nothing, speed=speed) as frames:
            got = list(frames)
        for first, second in itertools.pairwise(got):
            assert first.time_s is not None
            assert second.time_s is not None
        elapsed = got[-1].captured_s - got[0].captured_s
        assert elapsed >= 0.9 * (got[-1].time_s - got[0].time_s) / speed
    assert got[-1].index >= 28


def test_files_are_closed(movie: Path) -> None:
    descriptors = "/proc/self/fd"
    if not os.path.isdir(descriptors):
        pytest.skip("counts open files by /proc")

    def open_names() -> list[str]:
        names = []
        for entry in os.listdir(descriptors):
            with contextlib.suppress(OSError):
                names.append(os.readlink(f"{descriptors}/{entry}"))
        return names

    with stream(movie, find_nothing, policy="all") as frames:
        next(frames)
        assert str(movie) in open_names()
    assert str(movie) not in open_names()
    for _ in range(10):
        with stream(movie, find_nothing, policy="all") as frames:
            assert len(list(frames)) == 30
    assert str(movie) not in open_names()


def test_folder_loses_nothing_under_any_policy(tmp_path: Path) -> None:
    for number in range(12):
        PillowImage.fromarray(blocks(30 + number, 40, seed=number)).save(tmp_path / f"{number:02d}.png")
    (tmp_path / "05.png").write_bytes(b"broken")
    for policy in ("latest", "all", "bounded:2"):
        with stream(tmp_path, find_nothing, policy=policy) as frames:
            got = list(frames)
            assert frames.counters[str(tmp_path)].failed == 1
        assert [frame.index for frame in got] == [number for number in range(12) if number != 5]
        for frame in got:
            np.testing.assert_array_equal(frame.image, blocks(30 + frame.index, 40, seed=frame.index))


def test_gif(tmp_path: Path) -> None:
    pictures = [PillowImage.fromarray(shade(number)) for number in range(8)]
    durations = [40, 80, 120, 200, 0, 50, 60, 70]
    pictures[0].save(
        tmp_path / "a.gif", save_all=True, append_images=pictures[1:], duration=[item or 10 for item in durations]
    )
    frames = read_all(Animation(tmp_path / "a.gif"))
    assert [number_of(image) for image, _ in frames] == list(range(8))
    assert [time_s for _, time_s in frames] == pytest.approx([0.0, 0.04, 0.12, 0.24, 0.44, 0.45, 0.5, 0.56])
    assert len(read_all(Animation(tmp_path / "a.gif"))) == 8
    PillowImage.fromarray(shade(3)).save(tmp_path / "one.png")
    assert [number_of(image) for image, _ in read_all(Animation(tmp_path / "one.png"))] == [3]


def test_a_gif_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "a.gif").write_bytes(b"GIF89a" + bytes(20))
    with (
        stream(tmp_path / "a.gif", find_nothing) as frames,
        pytest.raises(StreamError, match=r"a\.gif: cannot be opened as an image: it is damaged, .* to check it$"),
    ):
        next(frames)


def test_a_truncated_gif_is_lost_where_it_breaks(tmp_path: Path) -> None:
    path = tmp_path / "a.gif"
    pictures = [PillowImage.fromarray(blocks(60, 80, seed=number)) for number in range(8)]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=10)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    got = []
    with stream(path, find_nothing, policy="all") as frames, contextlib.suppress(StreamError):
        got.extend(frames)
    assert len(got) < 8


def test_arrays_are_copied_and_checked() -> None:
    def reuses_its_buffer() -> Iterator[Picture]:
        buffer = np.zeros((48, 64, 3), np.uint8)
        for number in range(20):
            buffer[:] = shade(number)
            yield buffer if number != 7 else buffer[..., :2]
            buffer[:] = 255

    with stream(reuses_its_buffer(), find_nothing, policy="bounded:30") as frames:
        got = list(frames)
        counters = frames.counters["arrays"]
    assert [number_of(frame.image) for frame in got] == [number for number in range(20) if number != 7]
    assert counters.failed == 1
    with pytest.raises(CorruptFrameError, match=r"image must be \(H, W, 3\) uint8, got \(2, 2\) float64"):
        Arrays(iter([np.zeros((2, 2))])).read()


def test_an_iterator_that_raises() -> None:
    def breaks() -> Iterator[Picture]:
        yield shade(0)
        raise OSError("the SDK says no")

    got = []
    with (
        stream(breaks(), find_nothing, policy="all") as frames,
        pytest.raises(StreamError, match=r"^arrays: the SDK says no$"),
    ):
        got.extend(frames)


# -- connections -------------------------------------------------------------------------------------------------------


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None: ...


class Server:
    """Serves MPEG-TS over HTTP without a length, like a network camera; the n-th request gets what `plan` says.

    plan: for each request the bytes to send before the connection is cut, or an HTTP status.
    """

    def __init__(self, plan: list[bytes | int]) -> None:
        self.requests = 0
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                step = plan[min(server.requests, len(plan) - 1)]
                server.requests += 1
                if isinstance(step, int):
                    self.send_error(step)
                    return
                self.send_response(200)
                self.send_header("Content-Type", "video/mp2t")
                self.end_headers()
                with contextlib.suppress(OSError):
                    self.wfile.write(step)

            def log_message(self, *_: object) -> None: ...

        self._http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,))
        self._thread.start()
        self.url = f"http://user:secret@127.0.0.1:{self._http.server_address[1]}/live.ts"

    def close(self) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()


@pytest.fixture
def serve() -> Iterator[Callable[[list[bytes | int]], Server]]:
    servers: list[Server] = []

    def start(plan: list[bytes | int]) -> Server:
        servers.append(Server(plan))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def transport_stream(tmp_path: Path, numbers: range, width: int = 64, height: int = 48) -> bytes:
    path = tmp_path / f"{numbers.start}.ts"
    encode(path, [shade(number, width, height) for number in numbers], format="mpegts")
    return path.read_bytes()


def test_a_network_stream_comes_back(tmp_path: Path, serve: Any) -> None:
    """Two pieces with a refusal between them, the second of another size; then it stays away."""
    plan = [transport_stream(tmp_path, range(12)), 503, transport_stream(tmp_path, range(12, 24), 96, 64), 404]
    server = serve(plan)
    states: list[Any] = []
    got: list[Any] = []
    with (
        stream(
            server.url,
            find_nothing,
            policy="all",
            reconnect=Reconnect(first_s=0.01, attempts=3),
            on_state=lambda change: states.append((change.state, change.attempt)),
        ) as frames,
        pytest.raises(StreamError, match=r"live\.ts: cannot be opened as video: .*404"),
    ):
        got.extend(frames)
    # The last of a piece may be lost with the connection.
    assert {number_of(frame.image) for frame in got if frame.image.shape == (48, 64, 3)} >= set(range(10))
    assert {number_of(frame.image) for frame in got if frame.image.shape == (64, 96, 3)} >= set(range(12, 22))
    assert [frame.index for frame in got] == list(range(len(got)))
    assert [attempt for state, attempt in states if state == "reconnecting"] == [1, 2, 1, 2, 3]
    assert [state for state, _ in states].count("streaming") == 2
    assert states[-1] == ("lost", 0)
    assert server.requests == 6


PUSH = """
import sys, time
import av, numpy
for attempt in range(200):
    try:
        with av.open(sys.argv[1], "w", format="rtsp", options={"rtsp_transport": "tcp"}) as container:
            output = container.add_stream("libx264", rate=25, options={"bf": "0", "tune": "zerolatency"})
            output.width, output.height, output.pix_fmt = 64, 48, "yuv420p"
            for number in range(30):
                picture = numpy.full((48, 64, 3), 5 + 5 * number, numpy.uint8)
                container.mux(output.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
                time.sleep(0.01)
            container.mux(output.encode(None))
        break
    except OSError:  # nobody listens yet
        time.sleep(0.05)
"""


def test_rtsp() -> None:
    """The protocol itself: FFmpeg in another process pushes to the source, which listens in place of a server."""
    pytest.importorskip("av", reason="needs PyAV (retinasdk[video])")
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"rtsp://127.0.0.1:{free.getsockname()[1]}/live"
    video = Video(url, options={"rtsp_flags": "listen", "listen_timeout": "30"}, timeout_s=30)
    got: list[Any] = []
    with (
        stream(video, find_nothing, policy="all", reconnect=Reconnect(attempts=0)) as frames,
        subprocess.Popen([sys.executable, "-c", PUSH, url]) as pusher,
        pytest.raises(StreamError, match="the source ended"),
    ):
        got.extend(frames)
    assert pusher.returncode == 0
    assert {number_of(frame.image) for frame in got} >= set(range(28))
    assert [number_of(frame.image) for frame in got] == sorted(number_of(frame.image) for frame in got)
    assert video.live


def test_a_file_on_a_server_ends(movie: Path, tmp_path: Path) -> None:
    """It tells its duration, so it is a recording: not opened again, and played at its own speed."""
    handler = functools.partial(Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            video = Video(f"http://127.0.0.1:{server.server_address[1]}/movie.mp4")
            with stream(video, find_nothing, policy="all") as frames:
                assert [number_of(frame.image) for frame in frames] == list(range(30))
            assert not video.live
        finally:
            server.shutdown()
            thread.join()


def test_a_silent_connection_is_lost(tmp_path: Path) -> None:
    """A camera whose cable is pulled closes nothing: it is only the time-out that tells."""
    pytest.importorskip("av", reason="needs PyAV (retinasdk[video])")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
        video = Video(url, timeout_s=0.2, format="mpegts")
        with (
            stream(video, find_nothing, reconnect=Reconnect(first_s=0.0, first_attempts=1)) as frames,
            pytest.raises(StreamError, match=r"tcp://127\.0\.0\.1:\d+: (cannot be opened as|it contains no) video"),
        ):
            next(frames)


def test_passwords_are_not_told(caplog: pytest.LogCaptureFixture, serve: Any) -> None:
    pytest.importorskip("av", reason="needs PyAV (retinasdk[video])")
    server = serve([401])
    with (
        caplog.at_level("DEBUG", "retinasdk"),
        stream(server.url, find_nothing, reconnect=Reconnect(first_s=0.0, first_attempts=1)) as frames,
        pytest.raises(StreamError) as raised,
    ):
        next(frames)
    assert server.requests >= 2
    chain: BaseException | None = raised.value
    while chain is not None:
        assert "secret" not in str(chain)
        chain = chain.__cause__
    assert "secret" not in caplog.text
    assert "127.0.0.1" in caplog.text
    assert without_password("rtsp://a:b@c:554/d?user=a&password=b") == "rtsp://c:554/d"
    assert without_password("rtsp://c/d") == "rtsp://c/d"
    assert without_password("rtsp://a:b@[fe80::1]:554/d") == "rtsp://[fe80::1]:554/d"


# -- OpenCV ------------------------------------------------------------------------------------------------------------


def test_a_camera_that_is_not_there() -> None:
    pytest.importorskip("cv2", reason="needs OpenCV")
    with (
        stream("/dev/video97", find_nothing, reconnect=Reconnect(attempts=0)) as frames,
        pytest.raises(
            StreamError, match="/dev/video97: cannot be opened: there is no such device; list the cameras with"
        ),
    ):
        next(frames)


def test_a_camera_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("cv2", reason="needs OpenCV")
    device = tmp_path / "video5"
    device.touch()
    camera = Camera(str(device))
    with pytest.raises(StreamError, match="check that it is a camera"):
        camera.open()
    camera.close()
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(StreamError, match="add the user to the group video"):
        camera.open()


def test_options_of_a_camera_reach_the_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cv2 = pytest.importorskip("cv2", reason="needs OpenCV")
    calls: list[Any] = []

    class Capture:
        def __init__(self, *arguments: Any) -> None:
            calls.append(arguments)

        def set(self, key: int, value: float) -> None:
            calls.append((key, value))

        def isOpened(self) -> bool:  # noqa: N802 - OpenCV's name
            return True

        def read(self) -> tuple[bool, Any]:
            bgr = np.zeros((4, 6, 3), np.uint8)
            bgr[..., 0] = 200
            return len(calls) < 7, bgr

        def release(self) -> None:
            calls.append("release")

    monkeypatch.setattr(cv2, "VideoCapture", Capture)
    device = tmp_path / "video2"
    device.touch()
    camera = Camera(str(device), size=(1280, 720), fps=30, codec="MJPG")
    camera.open()
    raw = camera.read()
    assert raw is not None
    assert raw.rgb()[0, 0].tolist() == [0, 0, 200]
    camera.close()
    camera.close()
    assert calls == [
        (str(device), cv2.CAP_V4L2),
        (cv2.CAP_PROP_FOURCC, int.from_bytes(b"MJPG", "little")),
        (cv2.CAP_PROP_FRAME_WIDTH, 1280),
        (cv2.CAP_PROP_FRAME_HEIGHT, 720),
        (cv2.CAP_PROP_FPS, 30),
        "release",
    ]
    with pytest.raises(ValueError, match="codec must be four letters"):
        Camera(0, codec="MJPEG")


def test_a_pipeline(tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2", reason="needs OpenCV")
    text = "videotestsrc num-buffers=5 ! video/x-raw,format=BGR,width=64,height=48 ! appsink"
    if any(line.split()[:2] == ["GStreamer:", "YES"] for line in cv2.getBuildInformation().splitlines()):
        assert len(read_all(Pipeline(text, live=False))) == 5
    else:
        with pytest.raises(MissingDependencyError, match="needs an OpenCV built with GStreamer"):
            as_source(text)


# -- ROS 2 bags --------------------------------------------------------------------------------------------------------


@pytest.fixture
def bag(tmp_path: Path) -> Path:
    """Two topics: /left with rgb8, bgr8, mono8 (rows with a gap), bgra8 and one unknown; /right compressed."""
    pytest.importorskip("rosbags.rosbag2", reason="needs rosbags")
    from io import BytesIO

    from rosbags.rosbag2 import Writer
    from rosbags.typesys import Stores, get_typestore

    store = get_typestore(Stores.ROS2_HUMBLE)
    header = store.types["std_msgs/msg/Header"](store.types["builtin_interfaces/msg/Time"](0, 0), "camera")
    image_type, compressed_type = store.types["sensor_msgs/msg/Image"], store.types["sensor_msgs/msg/CompressedImage"]
    rgb = blocks(20, 30, seed=1)
    grey = np.zeros((20, 40), np.uint8)  # ten bytes of each row are no pixels
    grey[:, :30] = rgb[..., 0]
    alpha = np.concatenate([rgb[..., ::-1], np.full((20, 30, 1), 9, np.uint8)], axis=2)
    messages = [
        ("rgb8", 90, rgb),
        ("bgr8", 90, rgb[..., ::-1]),
        ("mono8", 40, grey),
        ("bgra8", 120, alpha),
        ("32FC1", 120, alpha),
    ]
    with Writer(tmp_path / "bag", version=9) as writer:
        left = writer.add_connection("/left", image_type.__msgtype__, typestore=store)
        right = writer.add_connection("/right", compressed_type.__msgtype__, typestore=store)
        for number, (encoding, step, data) in enumerate(messages):
            message = image_type(header, 20, 30, encoding, 0, step, np.ascontiguousarray(data).reshape(-1))
            writer.write(left, 10**9 * (5 + number), store.serialize_cdr(message, image_type.__msgtype__))
        file = BytesIO()
        PillowImage.fromarray(rgb).save(file, "PNG")
        message = compressed_type(header, "png", np.frombuffer(file.getvalue(), np.uint8))
        writer.write(right, 10**10, store.serialize_cdr(message, compressed_type.__msgtype__))
    return tmp_path / "bag"


def test_bag(bag: Path) -> None:
    with stream(RosBag(bag, topic="/left"), find_nothing, policy="all") as frames:
        got = list(frames)
        assert frames.counters[str(bag)].failed == 1
    rgb = blocks(20, 30, seed=1)
    for frame, wanted in zip(got, [rgb, rgb, np.repeat(rgb[..., :1], 3, axis=2), rgb], strict=True):
        np.testing.assert_array_equal(frame.image, wanted)
    assert [frame.time_s for frame in got] == [5.0, 6.0, 7.0, 8.0]
    with pytest.raises(
        ImageError, match=r"one file of a ROS 2 bag; pass the folder of the bag, which contains metadata\.yaml"
    ):
        as_source(next(bag.glob("*.db3")))
    with stream(RosBag(bag, topic="/right"), find_nothing) as frames:
        (frame,) = frames
    np.testing.assert_array_equal(frame.image, rgb)


@pytest.mark.parametrize(
    ("topic", "wanted"), [(None, "the topic of the images is not clear"), ("/up", "there is no image topic '/up'")]
)
def test_bag_without_the_topic(bag: Path, topic: str | None, wanted: str) -> None:
    source = as_source(bag)
    assert isinstance(source, RosBag)
    with (
        stream(RosBag(bag, topic=topic), find_nothing) as frames,
        pytest.raises(StreamError, match=rf"{wanted}; the bag has \['/left', '/right'\]; choose with"),
    ):
        next(frames)


@pytest.mark.parametrize("name", ["../bag.db3", "/bag.db3", "a/../../bag.db3", "..\\\\bag.db3", "C:\\\\bag.db3"])
def test_a_bag_that_names_files_elsewhere_is_refused(bag: Path, name: str) -> None:
    """rosbags 0.11.9 would take the last part of the name; others may not."""
    metadata = bag / "metadata.yaml"
    inside = next(bag.glob("*.db3")).name
    metadata.write_text(metadata.read_text().replace(f"- {inside}", f'- "{name}"'))
    with (
        stream(RosBag(bag, topic="/left"), find_nothing) as frames,
        pytest.raises(
            StreamError, match=r"names the file .*bag\.db3', which is not in the folder of the bag; put the file"
        ),
    ):
        next(frames)


def test_a_bag_with_metadata_that_are_none(bag: Path) -> None:
    for content in ("", "[", "rosbag2_bagfile_information: 3"):
        (bag / "metadata.yaml").write_text(content)
        with (
            stream(RosBag(bag, topic="/left"), find_nothing) as frames,
            pytest.raises(StreamError, match=r"metadata\.yaml cannot be read .*restore it with: ros2 bag reindex"),
        ):
            next(frames)


def test_a_bag_is_closed_however_it_ends(bag: Path) -> None:
    """`close` may come twice, before `open`, and after an `open` that failed."""
    source = RosBag(bag, topic="/left")
    source.close()
    source.open()
    assert source.read() is not None
    source.close()
    source.close()
    next(bag.glob("*.db3")).write_bytes(b"")
    with contextlib.suppress(Exception):  # Whether `open` or `read` finds it out is up to rosbags.
        source.open()
        source.read()
    source.close()


# -- progress ----------------------------------------------------------------------------------------------------------


def test_recordings_tell_their_progress(tmp_path: Path, movie: Path) -> None:
    def progress(source: Source) -> list[float | None]:
        with stream(source, find_nothing, policy="all") as frames:
            return [frame.progress for frame in frames if not frame.live]

    assert progress(Video(movie)) == pytest.approx([number / 30 for number in range(1, 31)], abs=0.002)
    pictures = tmp_path / "folder"
    pictures.mkdir()
    for number in range(4):
        PillowImage.fromarray(shade(number)).save(pictures / f"{number}.png")
    assert progress(Folder(pictures)) == [0.25, 0.5, 0.75, 1.0]
    save = {"save_all": True, "append_images": [PillowImage.fromarray(shade(9))]}
    PillowImage.fromarray(shade(0)).save(tmp_path / "a.gif", **save)
    assert progress(Animation(tmp_path / "a.gif")) == [0.5, 1.0]
    assert progress(Arrays([shade(0)] * 2)) == [None, None]


def test_a_bag_tells_its_progress(bag: Path) -> None:
    with stream(RosBag(bag, topic="/left"), find_nothing, policy="all") as frames:
        assert [frame.progress for frame in frames] == [0.2, 0.4, 0.6, 0.8]  # the fifth cannot be decoded


# -- writing -----------------------------------------------------------------------------------------------------------


def test_video_writer_keeps_times_and_sizes(tmp_path: Path) -> None:
    pytest.importorskip("av", reason="needs PyAV (retinasdk[video])")
    path = tmp_path / "out.mp4"
    times = [10.0, 10.04, 10.5, 10.5, 10.2, 12.0]
    with VideoWriter(path) as writer:
        for number, time_s in enumerate(times):
            writer.add(PillowImage.fromarray(shade(number, 65, 49)), time_s)
        writer.add(PillowImage.fromarray(shade(9, 48, 96)), 13.0)
    frames = read_all(Video(path))
    assert [image.shape for image, _ in frames] == [(48, 64, 3)] * 7
    assert [number_of(image) for image, _ in frames[:6]] == list(range(6))
    wanted = [0.0, 0.04, 0.5, 0.5, 0.5, 2.0, 3.0]
    assert [time_s for _, time_s in frames] == pytest.approx(wanted, abs=0.001)
    last = frames[-1][0]
    assert last[:, 32].mean() == pytest.approx(50, abs=5)  # the upright picture in the middle
    assert last[:, :18].mean() < 5  # bars beside it
    assert [item.name for item in tmp_path.iterdir()] == ["out.mp4"]


def test_video_writer_completes_the_file_however_it_ends(tmp_path: Path) -> None:
    pytest.importorskip("av", reason="needs PyAV (retinasdk[video])")
    path = tmp_path / "out.mp4"
    path.write_bytes(b"old")
    with VideoWriter(path):
        pass
    assert path.read_bytes() == b"old"  # There was no image to replace it.
    for number, error in enumerate((ZeroDivisionError, KeyboardInterrupt, StreamError)):
        with contextlib.suppress(error), VideoWriter(path) as writer:
            writer.add(PillowImage.fromarray(shade(number)), 0.0)
            raise error
        assert [number_of(image) for image, _ in read_all(Video(path))] == [number]
        assert [item.name for item in tmp_path.iterdir()] == ["out.mp4"]
        writer.close()
    with pytest.raises(OSError, match=r"."), VideoWriter(tmp_path / "none" / "out.mp4") as writer:
        writer.add(PillowImage.fromarray(shade(0)), 0.0)


@pytest.mark.parametrize(
    ("name", "magic"), [("a.mp4", b"ftypisom"), ("a.MOV", b"ftypqt"), ("a.mkv", b"matroska"), ("a.m4v", b"ftyp")]
)
def test_the_container_follows_the_suffix(tmp_path: Path, name: str, magic: bytes) -> None:
    pytest.importorskip("av", reason="needs PyAV (retinasdk[video])")
    times = [0.0, 0.04, 0.5, 0.5, 2.0]
    with VideoWriter(tmp_path / name) as writer:
        for number, time_s in enumerate(times):
            writer.add(PillowImage.fromarray(shade(number)), time_s)
    assert magic in (tmp_path / name).read_bytes()[:64]
    frames = read_all(Video(tmp_path / name))
    assert [number_of(image) for image, _ in frames] == list(range(5))
    assert [time_s for _, time_s in frames] == pytest.approx(times, abs=0.002)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.mov"])
def test_without_an_h264_encoder_it_is_mpeg4(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    av = pytest.importorskip("av", reason="needs PyAV (retinasdk[video])")
    monkeypatch.setattr(av, "codecs_available", av.codecs_available - {"libx264"})
    with VideoWriter(tmp_path / name) as writer:
        for number in range(3):
            writer.add(PillowImage.fromarray(shade(number)), number / 10)
    frames = read_all(Video(tmp_path / name))
    assert [number_of(image) for image, _ in frames] == [0, 1, 2]
    assert [time_s for _, time_s in frames] == pytest.approx([0.0, 0.1, 0.2], abs=0.002)
    with av.open(str(tmp_path / name)) as container:
        assert container.streams.video[0].codec_context.name == "mpeg4"


@pytest.mark.parametrize("name", ["out.avi", "out.webm", "out", "mp4"])
def test_other_suffixes_are_refused(tmp_path: Path, name: str) -> None:
    """Never MP4 bytes under another name."""
    with pytest.raises(ValueError, match=rf"{name}: video cannot be written .*; use one of \.mp4, \.m4v, \.mov, \.mkv"):
        VideoWriter(tmp_path / name)
    assert list(tmp_path.iterdir()) == []
