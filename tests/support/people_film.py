"""A film of two photos of people, whose motion is known."""

from __future__ import annotations

from pathlib import Path

import pytest
from paths import ROOT

SIZE = (264, 400)  # height, width
COUNT = 30
FPS = 10


def write_people_film(path: Path) -> Path:
    """Writes a film: above, an astronaut moves to the right; below, an admiral to the left and back."""
    av = pytest.importorskip("av", reason="needs PyAV (retinasdk[video])")
    from PIL import Image

    photos = ROOT / "examples" / "photos" / "people"
    astronaut = Image.open(photos / "astronaut.jpg").convert("RGB").resize((120, 120))
    admiral = Image.open(photos / "grace_hopper.jpg").convert("RGB").resize((110, 128))
    with av.open(str(path), "w") as container:
        output = container.add_stream("libx264", rate=FPS, options={"crf": "16"})
        output.height, output.width = SIZE
        output.pix_fmt = "yuv420p"
        for step in range(COUNT):
            picture = Image.new("RGB", SIZE[::-1], (96, 104, 112))
            picture.paste(astronaut, (20 + 8 * step, 4))
            picture.paste(admiral, (20 + 16 * abs(15 - step), 132))
            container.mux(output.encode(av.VideoFrame.from_image(picture)))
        container.mux(output.encode(None))
    return path
