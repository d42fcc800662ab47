"""Writes pictures to files."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retinasdk._util.files import write_atomically

if TYPE_CHECKING:
    from PIL import Image


def write_picture(path: Path, picture: Image.Image, **options: Any) -> None:
    """Writes a picture completely or not at all, so that a full disk leaves an older one as it is.

    Args:
        path: The file to write. Its suffix chooses the format. If it exists, it is replaced.
        picture: The picture.
        **options: Passed on to Pillow, such as `quality`.

    Raises:
        ValueError: If Pillow writes no format with this suffix.
        OSError: If the file cannot be written. An existing file is then unchanged.
    """
    from PIL import Image

    format_name = Image.registered_extensions().get(path.suffix.lower())
    if format_name is None or format_name not in Image.SAVE:
        raise ValueError(f"{path}: pictures cannot be written with the suffix {path.suffix!r}; use .jpg or .png")
    file = io.BytesIO()
    picture.save(file, format_name, **options)
    write_atomically(path, file.getvalue())
