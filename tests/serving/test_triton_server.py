"""An exported repository on a real Triton server: the boxes of the Detector, over HTTP and gRPC, in dynamic batches."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import triton_server
from paths import EXAMPLES
from PIL import Image
from recorded_case import FOLDER, RecordedCase

from retinasdk import Detections, Detector, import_onnx
from retinasdk.triton import export

pytestmark = pytest.mark.skipif(triton_server.installed() is None, reason="nvidia-pytriton is not installed")
NAME = "tiny"
OUTPUTS = ("COUNT", "BOXES", "SCORES", "CLASS_IDS", "LABELS")


@pytest.fixture(scope="module")
def repository(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("repository")
    # The delay makes sure that requests of several clients meet.
    export(model_path, folder, name=NAME, max_batch=4, delay_ms=300)
    return folder


@pytest.fixture(scope="module")
def server(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[triton_server.TritonServer]:
    with triton_server.running(repository, tmp_path_factory.mktemp("triton")) as running:
        with connected(running) as client:
            client.load_model(NAME)
        yield running
        stubs = Path(f"/proc/{running.process.pid}/task/{running.process.pid}/children").read_text().split()
        assert stubs
        assert running.stop() == 0
        assert not [pid for pid in stubs if Path(f"/proc/{pid}").exists()]


def protocol(name: str) -> Any:
    return pytest.importorskip(f"tritonclient.{name}")


def connected(server: triton_server.TritonServer, over: str = "http") -> Any:
    """A client that closes its connections: one that stays open delays the stop of the server."""
    return contextlib.closing(protocol(over).InferenceServerClient(getattr(server, over)))


def ask(
    server: triton_server.TritonServer,
    *images: bytes | np.ndarray,
    over: str = "http",
    model: str = NAME,
    outputs: tuple[str, ...] = OUTPUTS,
    **parameters: Any,
) -> dict[str, np.ndarray]:
    """The outputs for one request with these images, all of one kind."""
    if isinstance(images[0], bytes):
        tensor = np.array(images, np.object_)[:, None]
        given = protocol(over).InferInput("IMAGE", tensor.shape, "BYTES")
    else:
        tensor = np.stack(images)
        given = protocol(over).InferInput("PIXELS", tensor.shape, "UINT8")
    given.set_data_from_numpy(tensor)
    with connected(server, over) as client:
        result = client.infer(model, [given], parameters=parameters or None)
    return {name: result.as_numpy(name) for name in outputs}


def encoded(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def check(outputs: dict[str, np.ndarray], *expected: Detections) -> None:
    """Compares bit for bit; what is not expected is padding."""
    most = max(map(len, expected))
    assert outputs["COUNT"].tolist() == [[len(found)] for found in expected]
    assert outputs["BOXES"].shape == (len(expected), most, 4)
    for number, found in enumerate(expected):
        count = len(found)
        for name, wanted in (("BOXES", found.xyxy), ("SCORES", found.scores), ("CLASS_IDS", found.class_ids)):
            assert outputs[name].dtype == wanted.dtype
            assert outputs[name][number, :count].tobytes() == wanted.tobytes()
        assert [label.decode() for label in outputs["LABELS"][number, :count]] == list(found.names)
        assert not outputs["BOXES"][number, count:].any()
        assert not outputs["SCORES"][number, count:].any()
        assert (outputs["CLASS_IDS"][number, count:] == -1).all()
        assert all(label == b"" for label in outputs["LABELS"][number, count:])


@pytest.mark.parametrize("over", ["http", "grpc"])
def test_boxes_are_those_of_the_detector(
    server: triton_server.TritonServer, detector: Detector, picture: Callable[..., np.ndarray], over: str
) -> None:
    photo = encoded(picture(90, 120, 4))
    expected = detector(photo)
    assert len(expected) > 3
    check(ask(server, photo, over=over), expected)
    pixels = picture(97, 131, 5)
    check(ask(server, pixels, over=over), detector(pixels))
    # Boxes of one request are padded to the largest number of them.
    pair = picture(60, 90, 1), picture(60, 90, 2)
    assert len({len(detector(image)) for image in pair}) == 2
    check(ask(server, *pair, over=over), *map(detector, pair))
    # Request parameters.
    score = float(np.sort(expected.scores)[len(expected) // 2])
    check(ask(server, photo, over=over, score=score), detector(photo, score_threshold=score))
    check(ask(server, photo, over=over, classes="dog, chair"), detector(photo, classes=["dog", "chair"]))
    check(ask(server, photo, over=over, score=1.0), detector(photo, score_threshold=1.0))  # no box


def test_a_bad_image_fails_its_request_only_and_requests_share_batches(
    server: triton_server.TritonServer, detector: Detector, picture: Callable[..., np.ndarray]
) -> None:
    images: list[Any] = [picture(50 + 7 * number, 80, number) for number in range(11)]
    bad = 6
    requests = [encoded(image) for image in images]
    requests[bad] = requests[bad][:-40]

    def answer(number: int) -> Any:
        try:
            return ask(server, requests[number], over=("http", "grpc")[number % 2])
        except protocol("utils").InferenceServerException as error:
            return error

    before = batches(server)
    with ThreadPoolExecutor(len(requests)) as pool:
        answers = list(pool.map(answer, range(len(requests))))
    refused = answers.pop(bad)
    assert "cannot be decoded" in str(refused.message())
    assert refused.status() in ("400", "StatusCode.INVALID_ARGUMENT")
    del images[bad]
    for image, outputs in zip(images, answers, strict=True):
        check(outputs, detector(image))
    made = {size: count - before.get(size, 0) for size, count in batches(server).items()}
    assert sum(size * count for size, count in made.items()) >= len(images)
    assert any(count for size, count in made.items() if size > 1), made


def batches(server: triton_server.TritonServer) -> dict[int, int]:
    """How often the model was called with how many images, as the server counts."""
    with connected(server) as client:
        (model,) = client.get_inference_statistics(NAME)["model_stats"]
    return {int(item["batch_size"]): int(item["compute_infer"]["count"]) for item in model["batch_stats"]}


def test_rotated_boxes(server: triton_server.TritonServer, repository: Path, tmp_path: Path) -> None:
    """A small ODTK network, with pictures of the recordings."""
    recording = RecordedCase.read(FOLDER / "odtk-rotated/default.json")
    import_onnx(FOLDER / "odtk-rotated/default.onnx", tmp_path / "model.onnx", **recording.options)
    export(tmp_path / "model.onnx", repository, name="turned")
    with connected(server) as client:
        client.load_model("turned")
    with Detector(tmp_path / "model.onnx", device="cpu") as detector:
        for picture in recording.pictures:
            found = detector(picture.pixels())
            assert len(found) > 0
            answer = ask(server, picture.pixels(), model="turned", outputs=(*OUTPUTS, "ROTATED_BOXES"))
            check(answer, found)
            assert found.xywhr is not None
            assert answer["ROTATED_BOXES"].tobytes() == found.xywhr.tobytes()
            assert answer["ROTATED_BOXES"].shape == (1, len(found), 5)


@pytest.mark.parametrize("over", ["http", "grpc"])
def test_the_example(
    server: triton_server.TritonServer,
    detector: Detector,
    picture: Callable[..., np.ndarray],
    tmp_path: Path,
    run_python: Callable[..., Any],
    over: str,
) -> None:
    content = encoded(picture(90, 120, 4))
    (tmp_path / "good.png").write_bytes(content)
    (tmp_path / "bad.png").write_bytes(content[:-40])
    images = [tmp_path / "bad.png", tmp_path / "good.png"]
    program = [EXAMPLES / "triton_client.py", *images, "--model", NAME, "--protocol", over]
    done = run_python(["-W", "default", *program, "--url", getattr(server, over), "--score", "0.4"])
    assert done.returncode == 1
    assert "bad.png" in done.stderr
    assert "cannot be decoded" in done.stderr
    found = detector(content, score_threshold=0.4)
    lines = done.stdout.splitlines()
    assert lines[0] == f"{images[1]}  {len(found)} detections"
    assert [line.split()[:2] for line in lines[1:]] == [[f"{item.score:.2f}", item.label] for item in found]


@pytest.mark.parametrize(
    ("images", "parameters", "message"),
    [
        ([b"/etc/hostname"], {}, "image bytes"),  # no path on the server
        ([b""], {}, "image bytes"),
        ([np.zeros((1, 1, 3), np.uint8), np.zeros((1, 1, 3), np.uint8)], {"score": "much"}, "must be a number"),
        ([np.zeros((9, 9, 3), np.uint8)], {"score": 1.5}, "0 to 1"),
        ([np.zeros((9, 9, 3), np.uint8)], {"classes": "zebra"}, "zebra"),
        ([np.zeros((0, 9, 3), np.uint8)], {}, "at least 1 x 1"),
    ],
)
def test_mistakes_are_told(
    server: triton_server.TritonServer, images: list[Any], parameters: dict[str, Any], message: str
) -> None:
    for over in ("http", "grpc"):
        with pytest.raises(protocol("utils").InferenceServerException, match=message):
            ask(server, *images, over=over, **parameters)


def test_one_of_the_inputs_is_needed(server: triton_server.TritonServer) -> None:
    http = protocol("http")
    encoded, pixels = http.InferInput("IMAGE", [1, 1], "BYTES"), http.InferInput("PIXELS", [1, 2, 2, 3], "UINT8")
    encoded.set_data_from_numpy(np.array([[b"x"]], np.object_))
    pixels.set_data_from_numpy(np.zeros((1, 2, 2, 3), np.uint8))
    with (
        connected(server) as client,
        pytest.raises(protocol("utils").InferenceServerException, match="one of the inputs"),
    ):
        client.infer(NAME, [encoded, pixels])
