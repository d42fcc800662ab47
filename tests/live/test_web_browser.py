"""The preview's page in headless Chromium: what it draws, and what its controls change."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from retinasdk import Detections
from retinasdk.live import Counters, Frame
from retinasdk.live.web import Preview

REQUIRED = os.environ.get("RETINASDK_REQUIRE_CHROMIUM") == "1"
if not REQUIRED:
    pytest.importorskip("uvicorn", reason="the preview needs the extra [web]")
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
    """RGB of the canvas at a point."""
    program = (
        "const context = document.getElementById('picture').getContext('2d');"
        "return [...context.getImageData(arguments[0], arguments[1], 1, 1).data]"
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
    wait_until(lambda: text(browser, "state") == "waiting for the first frame")
    preview.show(frame(1, detections=None, error=ValueError("too dark")))
    wait_until(lambda: text(browser, "state") == "the detector failed on this frame: ValueError: too dark")
    preview.show(frame(2))
    wait_until(lambda: text(browser, "state") == "live")
    preview.close()
    wait_until(lambda: text(browser, "state") == "the stream has ended")

    with Preview("127.0.0.1:0", token="a-token-of-enough-letters") as guarded:
        guarded.show(frame(3))
        browser.get(guarded.url.partition("#")[0])
        wait_until(lambda: text(browser, "state").startswith("a token is needed"))
        browser.get("about:blank")
        browser.get(guarded.url)
        wait_until(lambda: text(browser, "state") == "live")


@pytest.mark.parametrize("width", [360, 1200])
def test_it_fits_the_window(browser: Any, preview: Preview, width: int) -> None:
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    preview.show(frame(1, image=np.full((1080, 1920, 3), GREY, np.uint8)))
    browser.get(preview.url)
    wait_until(lambda: text(browser, "state") == "live")
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert browser.find_element("id", "picture").size["width"] <= width
