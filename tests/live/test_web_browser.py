"""The preview's page in headless Chromium: what it draws, and what its controls change."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PillowImage

from retinasdk import Detections
from retinasdk.live import Counters, Frame
from retinasdk.live.web import Preview

REQUIRED = os.environ.get("RETINASDK_REQUIRE_CHROMIUM") == "1"
if not REQUIRED:
    pytest.importorskip("selenium", reason="the page is tested with selenium")
    if shutil.which("chromium") is None or shutil.which("chromedriver") is None:
        pytest.skip("the page is tested in Chromium: apt install chromium chromium-driver", allow_module_level=True)

GREY = 60
LABELS = ("person", "<b id=evil>bold</b>")


def frame(index: int, **changes: Any) -> Frame:
    """Grey, with a person at the upper left (0.9), and the other class at the lower right (0.4)."""
    boxes = np.array([[40, 40, 120, 200], [200, 100, 300, 220]], np.float32)
    found = Detections(boxes, np.array([0.9, 0.4], np.float32), np.array([0, 1], np.int32), LABELS)
    fields = {
        "image": np.full((240, 320, 3), GREY, np.uint8),
        "detections": found,
        "source": "camera <i>1</i>",
        "index": index,
        "captured_s": 0.0,
        "age_s": 0.123,
        "time_s": None,
        "counters": Counters(captured=index + 7, processed=index, dropped=7),
    }
    return Frame(**{**fields, **changes})


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or "chromium"
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    driver.set_script_timeout(20)
    yield driver
    driver.quit()


@pytest.fixture
def preview() -> Iterator[Preview]:
    with Preview("127.0.0.1:0") as preview:
        yield preview


def wait_until(condition: Callable[[], object]) -> None:
    until = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < until, "did not come true"
        time.sleep(0.02)


def text(browser: Any, name: str) -> str:
    return str(browser.find_element("id", name).text)


def pixel(browser: Any, x: int, y: int) -> list[int]:
    """RGB of the canvas at a point of the frame, which is 320 pixels wide and shown at any size."""
    program = (
        "const canvas = document.getElementById('picture'), scale = canvas.width / 320;"
        "const [x, y] = [arguments[0], arguments[1]].map((place) => Math.round(place * scale));"
        "return [...canvas.getContext('2d').getImageData(x, y, 1, 1).data]"
    )
    return list(browser.execute_script(program, x, y))[:3]


def is_grey(color: list[int]) -> bool:
    return all(abs(value - GREY) <= 6 for value in color)


def drag(browser: Any, value: float) -> None:
    program = (
        "const slider = document.getElementById('threshold'); slider.value = arguments[0]; "
        "slider.dispatchEvent(new Event('input'))"
    )
    browser.execute_script(program, value)


def complaints(browser: Any) -> list[str]:
    return [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


def test_picture_boxes_and_numbers(browser: Any, preview: Preview) -> None:
    preview.show(frame(3))
    browser.get(preview.url)
    wait_until(lambda: text(browser, "state") == "live")
    assert text(browser, "source") == "camera <i>1</i>"
    assert [text(browser, name) for name in ("index", "age", "shown", "processed", "dropped")] == [
        "3",
        "123 ms",
        "2 of 2",
        "3",
        "7",
    ]
    assert is_grey(pixel(browser, 80, 120))
    assert is_grey(pixel(browser, 160, 30))
    for x, y in ((40, 120), (120, 120), (80, 200), (200, 180), (300, 180), (250, 220)):
        assert not is_grey(pixel(browser, x, y)), (x, y)
    preview.show(frame(4))
    wait_until(lambda: text(browser, "index") == "4")
    assert float(text(browser, "fps")) > 0
    assert complaints(browser) == []


def test_labels_do_not_cover_each_other(browser: Any, preview: Preview) -> None:
    """Two boxes of nearly the same place: the label of each is in its own color, and both are whole."""
    boxes = np.array([[40, 60, 200, 200], [42, 62, 202, 202]], np.float32)
    found = Detections(boxes, np.array([0.9, 0.4], np.float32), np.array([0, 1], np.int32), LABELS)
    preview.show(frame(1, detections=found))
    browser.get(preview.url)
    wait_until(lambda: text(browser, "state") == "live")
    canvas = "const canvas = document.getElementById('picture');"
    colors = [browser.execute_script("return color(arguments[0])", class_id) for class_id in (0, 1)]
    count = (
        canvas + "const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;"
        "let count = 0;"
        "for (let i = 0; i < data.length; i += 4) count += arguments[0].every((value, k) => data[i + k] === value);"
        "return count / canvas.width ** 2 * 320 ** 2"
    )
    # Both labels have about the same text height; what one covered would be missing from the other.
    alone = []
    for class_id in (0, 1):
        one = Detections(boxes[[class_id]], found.scores[[class_id]], found.class_ids[[class_id]], LABELS)
        preview.show(frame(2 + class_id, detections=one))
        wait_until(lambda: text(browser, "index") == str(2 + class_id))  # noqa: B023 - called at once
        alone.append(browser.execute_script(count, colors[class_id]))
    preview.show(frame(9, detections=found))
    wait_until(lambda: text(browser, "index") == "9")
    both = [browser.execute_script(count, color) for color in colors]
    for together, apart in zip(both, alone, strict=True):
        assert together == pytest.approx(apart, rel=0.15)


def test_threshold_and_classes_change_what_is_drawn(browser: Any, preview: Preview) -> None:
    preview.show(frame(1))
    browser.get(preview.url)
    wait_until(lambda: text(browser, "state") == "live")
    drag(browser, 0.5)
    assert text(browser, "shown") == "1 of 2"
    assert text(browser, "shown-threshold") == "0.50"
    assert is_grey(pixel(browser, 300, 180))
    assert not is_grey(pixel(browser, 40, 120))
    drag(browser, 0.0)
    assert not is_grey(pixel(browser, 300, 180))

    person, other = browser.find_elements("css selector", "#classes label")
    assert [row.text.split("\n")[0] for row in (person, other)] == list(LABELS)
    assert browser.find_elements("id", "evil") == []  # names are text, not HTML
    person.click()
    assert text(browser, "shown") == "1 of 2"
    assert is_grey(pixel(browser, 40, 120))
    assert not is_grey(pixel(browser, 300, 180))
    preview.show(frame(2))
    wait_until(lambda: text(browser, "index") == "2")
    assert is_grey(pixel(browser, 40, 120))  # stays off

    browser.find_element("css selector", "#json summary").click()
    wait_until(lambda: '"label": "<b id=evil>bold</b>"' in text(browser, "text"))
    assert '"person"' not in text(browser, "text").split('"detections"')[1].split('"error"')[0]
    assert complaints(browser) == []


def test_failure_end_and_token_are_told(browser: Any, preview: Preview) -> None:
    browser.get(preview.url)
    wait_until(lambda: text(browser, "state") == "waiting for a frame")
    preview.show(frame(1, detections=None, error=ValueError("too dark")))
    wait_until(lambda: text(browser, "state") == "the detector failed on this frame: ValueError: too dark")
    preview.show(frame(2))
    wait_until(lambda: text(browser, "state") == "live")
    preview.close()
    wait_until(lambda: text(browser, "state") == "the stream has ended; waiting for it to start again")

    with Preview("127.0.0.1:0", token="a-token-of-enough-letters") as guarded:
        guarded.show(frame(3))
        browser.get(guarded.url.partition("#")[0])
        wait_until(lambda: text(browser, "state").startswith("a token is needed"))
        browser.get(guarded.url)  # Only the part after # is new, so the browser by itself would not load the page.
        wait_until(lambda: text(browser, "state") == "live")


def test_it_reconnects_when_the_server_starts_again(browser: Any) -> None:
    """A monitor on a wall stays alive without anybody reloading the page."""
    with Preview("127.0.0.1:0", token="a-token-of-enough-letters") as first:
        first.show(frame(1))
        browser.get(first.url)
        wait_until(lambda: text(browser, "state") == "live")
    wait_until(lambda: text(browser, "state").startswith("the stream has ended"))
    address = first.url.removeprefix("http://").partition("/")[0]
    time.sleep(2.5)  # so that it tries at least once in vain
    assert text(browser, "state") == "the stream has ended; waiting for it to start again"
    with Preview(address, token="a-token-of-enough-letters") as second:
        second.show(frame(20))
        wait_until(lambda: text(browser, "index") == "20")
        assert text(browser, "state") == "live"
    browser.get_log("browser")  # the failed attempts are logged there


def test_a_monitor_survives_that_the_command_is_killed(
    browser: Any, model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In full screen only the picture is seen: what is wrong is said there, and an old picture does not look live."""
    for number in range(2000):
        PillowImage.new("RGB", (80, 60), (number % 200, 90, 90)).save(tmp_path / f"{number}.png")
    token = "a-token-of-enough-letters"
    monkeypatch.setenv("RETINASDK_WEB_TOKEN", token)
    command = [sys.executable, "-m", "retinasdk.cli.main", "live", str(tmp_path), "--model", str(model_path)]

    def start(port: int) -> tuple[subprocess.Popen[str], int]:
        options = ["--device", "cpu", "--max-fps", "10", "--web", str(port), "--jsonl", os.devnull, "--overwrite"]
        process = subprocess.Popen(
            [*command, *options], cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        assert process.stderr is not None
        line = process.stderr.readline()
        found = re.match(r"open http://127\.0\.0\.1:(\d+)/#token=TOKEN ", line)
        assert found is not None, line
        assert token not in line
        return process, int(found[1])

    first, port = start(0)
    try:
        browser.get(f"http://127.0.0.1:{port}/#token={token}")
        wait_until(lambda: text(browser, "state") == "file")
        browser.find_element("id", "full").click()
    finally:
        first.kill()
        first.communicate()
    notice = browser.find_element("id", "notice")
    wait_until(lambda: notice.text == "no connection; trying again")
    assert browser.execute_script("return getComputedStyle(document.getElementById('picture')).opacity") == "0.3"
    second, _ = start(port)
    try:
        wait_until(lambda: text(browser, "state") == "file")
        assert not notice.is_displayed()
        assert browser.execute_script("return getComputedStyle(document.getElementById('picture')).opacity") == "1"
        index = int(browser.execute_script("return frame.index"))
        wait_until(lambda: browser.execute_script("return frame.index") > index)
    finally:
        second.kill()
        second.communicate()
    browser.execute_script("document.exitFullscreen()")
    browser.get_log("browser")  # the failed attempts are logged there


def test_it_says_when_nothing_comes(browser: Any, preview: Preview, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retinasdk.live.web.preview._IDLE_S", 0.1)
    preview.show(frame(1))
    browser.get(preview.url)
    wait_until(lambda: text(browser, "state") == "no new frame for 1 s")
    preview.show(frame(2))
    wait_until(lambda: text(browser, "index") == "2")


def test_a_silent_connection_is_given_up(browser: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that loses its power closes nothing: only silence tells."""
    monkeypatch.setattr("retinasdk.live.web.preview._IDLE_S", 3600.0)
    read = Path.read_bytes

    def impatient(path: Path) -> bytes:
        return read(path).replace(b"SILENT_MS = 15000", b"SILENT_MS = 1000")

    monkeypatch.setattr(Path, "read_bytes", impatient)
    with Preview("127.0.0.1:0") as preview:
        preview.show(frame(1))
        browser.get(preview.url)
        wait_until(lambda: text(browser, "state") == "live")
        assert not browser.find_element("id", "notice").is_displayed()
        wait_until(lambda: text(browser, "state") == "no connection; trying again")
        preview.show(frame(2))
        wait_until(lambda: text(browser, "index") == "2")


def test_a_file_is_called_a_file_and_shows_its_progress(browser: Any, preview: Preview) -> None:
    preview.show(frame(1))
    browser.get(preview.url)
    wait_until(lambda: text(browser, "state") == "live")
    assert not browser.find_element("id", "progress").is_displayed()
    preview.show(frame(2, live=False, progress=0.25, time_s=75.2))
    wait_until(lambda: text(browser, "state") == "file")
    assert [text(browser, name) for name in ("time", "percent")] == ["1:15 of 5:01", "25%"]
    assert browser.find_element("id", "bar").get_property("value") == 0.25
    preview.show(frame(11, live=False, progress=0.6))  # a folder of images
    wait_until(lambda: text(browser, "time") == "12 of 20")
    preview.show(frame(3, live=False))  # an iterator of arrays: neither
    wait_until(lambda: text(browser, "state") == "running")
    assert not browser.find_element("id", "progress").is_displayed()


def test_pause_holds_the_picture(browser: Any, preview: Preview) -> None:
    preview.show(frame(1))
    browser.get(preview.url)
    wait_until(lambda: text(browser, "state") == "live")
    browser.find_element("id", "pause").click()
    assert (text(browser, "state"), text(browser, "pause")) == ("paused", "Resume")
    for index in range(2, 6):
        preview.show(frame(index))
        time.sleep(0.1)
    assert text(browser, "index") == "1"
    drag(browser, 0.5)
    assert text(browser, "shown") == "1 of 2"  # the controls still work
    browser.find_element("id", "pause").click()
    wait_until(lambda: text(browser, "index") == "5")  # the newest, not the next
    assert text(browser, "state") == "live"
    preview.show(frame(6))
    wait_until(lambda: text(browser, "index") == "6")


def test_snapshot_is_a_marked_jpeg(browser: Any, preview: Preview, tmp_path: Path) -> None:
    browser.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    preview.show(frame(7))
    browser.get(preview.url)
    wait_until(lambda: text(browser, "state") == "live")
    browser.find_element("id", "snapshot").click()
    path = tmp_path / "frame-7.jpg"
    wait_until(path.exists)
    with PillowImage.open(path) as picture:
        assert picture.size == (320, 240)
        assert not is_grey(list(picture.getpixel((200, 180))))  # the edge of a box
    assert complaints(browser) == []


def test_full_screen(browser: Any, preview: Preview) -> None:
    preview.show(frame(1))
    browser.get(preview.url)
    wait_until(lambda: text(browser, "state") == "live")
    browser.find_element("id", "full").click()
    wait_until(lambda: browser.execute_script("return document.fullscreenElement?.id") == "stage")
    browser.execute_script("document.exitFullscreen()")
    wait_until(lambda: browser.execute_script("return document.fullscreenElement === null"))


@pytest.mark.parametrize("shape", [(240, 320, 3), (1080, 1920, 3), (900, 300, 3)])
def test_the_picture_fills_the_window_and_keeps_its_shape(
    browser: Any, preview: Preview, shape: tuple[int, int, int]
) -> None:
    size = {"width": 1400, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    preview.show(frame(1, image=np.full(shape, GREY, np.uint8)))
    browser.get(preview.url)
    wait_until(lambda: text(browser, "state") == "live")
    shown = browser.find_element("id", "picture").size
    assert shown["width"] / shown["height"] == pytest.approx(shape[1] / shape[0], rel=0.01)
    assert browser.execute_script("return document.documentElement.scrollHeight") <= 900  # nothing to scroll to
    room = browser.find_element("id", "stage").size["width"]
    # As wide as there is room, or as high as the window without header and buttons.
    assert shown["width"] == pytest.approx(room, abs=1) or 720 <= shown["height"] <= 740

    def choose(label: str) -> int:
        browser.execute_script(
            "const size = document.getElementById('size');"
            "size.value = arguments[0]; size.dispatchEvent(new Event('change'))",
            label,
        )
        return int(browser.find_element("id", "picture").size["width"])

    sent = min(1.0, 1280 / max(shape)) * shape[1]
    assert [choose(share) for share in ("0.5", "1", "2")] == pytest.approx([sent / 2, sent, 2 * sent], abs=1)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 1400
    assert choose("") == shown["width"]


@pytest.mark.parametrize("width", [400, 360, 1200])
def test_it_fits_the_window(browser: Any, preview: Preview, width: int) -> None:
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    preview.show(frame(1, image=np.full((1080, 1920, 3), GREY, np.uint8)))
    browser.get(preview.url)
    wait_until(lambda: text(browser, "state") == "live")
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert browser.find_element("id", "picture").size["width"] <= width
