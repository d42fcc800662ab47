"""Two tiles side by side, as arguments of merging."""

from __future__ import annotations

from typing import Any

# Two tiles side by side, 0 to 100 and 60 to 160, of an image of 160 x 80.
TWO: dict[str, Any] = {
    "tops": [0],
    "lefts": [0, 60],
    "tile_size": (80, 100),
    "image_size": (80, 160),
    "iou_threshold": 0.5,
    "or_equal": False,
    "inclusive_pixels": False,
    "cut_slack": (4.0, 4.0),
    "cover_limit": 0.5,
}
