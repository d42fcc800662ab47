"""Says before it starts how long an image of many tiles will take, and refuses work that is most likely a mistake."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Any

from retinasdk import Detector, ImageError, Tiles
from retinasdk._util.progress import Progress
from retinasdk.cli.output import print_now
from retinasdk.cli.progress import Display, duration
from retinasdk.images import as_rgb
from retinasdk.tiling.grid import TileGrid, TilesOption, resolve, why_pointless
from retinasdk.tiling.windows import open_windows

MOST_TILES = 4000  # More of them in one image need --yes.
_MANY_TILES = 500  # From here on they are announced.
_TILES_A_CORE, _LEAST_MEASURED, _MOST_MEASURED = 4, 8, 64


class TileEstimates:
    """Announces images of many tiles. The speed is measured once for each size of tiles, on the first such image.

    Args:
        detector: The detector.
        tiles: The option `tiles` of its calls.
        is_allowed: Whether any number of tiles may be detected in: `--yes`.
        progress: Shows that the speed is being measured.
        quiet: Whether the announcement is left out.
    """

    def __init__(
        self, detector: Detector, tiles: TilesOption, *, is_allowed: bool, progress: Display, quiet: bool
    ) -> None:
        self._detector, self._tiles, self._is_allowed = detector, tiles, is_allowed
        self._progress, self._quiet = progress, quiet
        self._seconds: dict[tuple[int, int], tuple[float, int]] = {}

    def announce(self, path: str, image: Any, size: tuple[int, int]) -> None:
        """Prints how long an image will take on standard error, if it is cut into many tiles.

        Args:
            path: Name of the image, for messages.
            image: The image, as the detector takes it.
            size: Its (height, width) in pixels.

        Raises:
            ImageError: It needs `--yes`, and that was not given.
        """
        plan = resolve(self._tiles, self._detector.spec, *size)
        if plan is None or len(grid := plan.plan(*size)) < _MANY_TILES:
            return
        pointless = why_pointless(grid, self._detector.spec)
        is_refused = not self._is_allowed and (pointless is not None or len(grid) > MOST_TILES)
        if self._quiet and not is_refused:
            return
        height, width = grid.tile
        if grid.tile not in self._seconds:
            self._progress.update("measure the speed")
            self._seconds[grid.tile] = _measure(self._detector, image, plan, grid)
        seconds, measured = self._seconds[grid.tile]
        work = (
            f"{pointless or f'{len(grid):,} tiles of {width} x {height} pixels'}; they take about "
            f"{duration(len(grid) * seconds)}, estimated from the first {measured} tiles on this machine"
        )
        if is_refused:
            raise ImageError(
                f"{path}: this image would be cut into {work}. Choose larger tiles, such as --tiles 640, or add --yes"
            )
        print_now(f"{path}: {work}", sys.stderr)


def _measure(
    detector: Detector, image: Any, plan: Tiles, grid: TileGrid, clock: Callable[[], float] = time.perf_counter
) -> tuple[float, int]:
    """Returns the seconds a tile when all cores work, and the number of tiles that were measured."""
    wanted = min(_MOST_MEASURED, max(_LEAST_MEASURED, _TILES_A_CORE * (os.cpu_count() or 1)))
    columns = min(wanted, len(grid.lefts))
    rows = min(-(-wanted // columns), len(grid.tops))
    height, width = (int(grid.tops[rows - 1]) + grid.tile[0], int(grid.lefts[columns - 1]) + grid.tile[1])
    with open_windows(image, as_rgb) as windows:
        part = windows.rows(0, height)[:, :width]
        finished: list[tuple[int, float]] = []

        def note(report: Progress) -> None:
            finished.append((report.done, clock()))

        detector(part, tiles=Tiles(plan.size, plan.overlap), progress=note)
    total, end = finished[-1]
    # The first tiles also wait for the network to be loaded once more, and for caches.
    done, begin = next((done, at) for done, at in finished if 2 * done >= total or done == finished[-2][0])
    return (end - begin) / (total - done), total
