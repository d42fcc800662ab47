"""Image messages of ROS 2 that are damaged: each is an `ImageError`, so that a stream counts it and goes on."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from retinasdk import ImageError
from retinasdk.live.ros import picture_of


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"height": 0, "data": b""}, r"must have at least 1 x 1 pixels, got 2 x 0"),
        ({"width": 0}, r"must have at least 1 x 1 pixels, got 0 x 2"),
        ({"height": 2**31}, "cannot be decoded"),
        ({"width": 2**32 - 1}, "cannot be decoded"),
        ({"step": 0}, "cannot be decoded"),
        ({"data": b"abc"}, "cannot be decoded"),
        ({"encoding": "32FC1"}, "'32FC1' is not supported; publish one of rgb8"),
    ],
)
def test_sizes_that_do_not_fit(fields: dict[str, Any], message: str) -> None:
    given = {"height": 2, "width": 2, "step": 6, "encoding": "rgb8", "data": bytes(range(12)), **fields}
    given["data"] = np.frombuffer(given["data"], np.uint8)
    with pytest.raises(ImageError, match=message):
        picture_of(SimpleNamespace(**given))
