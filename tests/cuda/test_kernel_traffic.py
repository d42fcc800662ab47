"""Tests what the CUDA kernels of decode and NMS read and write, for any share of logits that pass the threshold.

The counts are those of the emulated device. docs/how/kernel-traffic.md says what they show.
"""

from __future__ import annotations

import functools
import shutil

import pytest
from traffic_counts import TOOLS, Traffic, check_counters, count_traffic

_RATES = (0.003, 0.05, 0.5, 1.0)
_SHAPES: dict[str, dict[str, float]] = {
    "small": {"height": 400, "width": 672, "classes": 20},  # 1,012,320 logits
    "real": {},  # the default, 800 x 1344 with 91 classes: 18,345,600 logits, and the counts of kernel-traffic.md
}
# The targets.
_READS_OF_A_LOGIT = 2
_BUSIEST_SHARE = {"small": 1 / 10, "real": 1 / 20}  # of all logits, read by one block
# Each passing logit costs two bytes: its class is looked up in the mask of enabled classes, once for each reading.
_BESIDE_BYTES_OF_A_PASSING_LOGIT = 2
_BESIDE_BYTES = 3_000_000  # read by all blocks of decode beside the logits and the masks
_WRITTEN_BYTES = 5_000_000  # by all blocks of decode
_NMS_BYTES = 500_000  # read and written by the busiest block of NMS
_ATOMICS = 512  # on global memory, of one block
_BARRIERS = 300  # of one block

pytestmark = pytest.mark.skipif(any(shutil.which(tool) is None for tool in TOOLS), reason="counting needs GCC")


@functools.cache
def _traffic(shape: str, **options: float) -> Traffic:
    return count_traffic(**_SHAPES[shape], **options)


_shapes = pytest.mark.parametrize("shape", ["small", pytest.param("real", marks=pytest.mark.heavy)])
_rates = pytest.mark.parametrize("passing", _RATES)
_types = pytest.mark.parametrize("half", [0, 1], ids=["float32", "float16"])


def test_the_counters_are_right() -> None:
    assert check_counters() == "traffic_harness: the counts are right\n"


@_shapes
@_types
@_rates
def test_the_wanted_share_passes(passing: float, half: int, shape: str) -> None:
    traffic = _traffic(shape, passing=passing, half=half)
    assert traffic.passing / traffic.logits == pytest.approx(passing, rel=0.01)
    assert traffic.detections == 300


@_shapes
@_types
@_rates
def test_no_logit_is_read_more_than_twice(passing: float, half: int, shape: str) -> None:
    traffic = _traffic(shape, passing=passing, half=half)
    assert min(traffic.reads_per_logit) >= 1
    assert traffic.most_reads <= _READS_OF_A_LOGIT, traffic.reads_per_logit


@_shapes
@_types
def test_the_second_reading_is_for_crowds(half: int, shape: str) -> None:
    """In a photo full of objects, about 0.3 % of the logits pass. Then each logit is read once."""
    assert _traffic(shape, passing=0.003, half=half).most_reads == 1


@_shapes
@_types
@_rates
def test_no_block_reads_more_than_its_share(passing: float, half: int, shape: str) -> None:
    traffic = _traffic(shape, passing=passing, half=half)
    for launch in traffic.launches:
        assert launch.busiest.logit_bytes <= _BUSIEST_SHARE[shape] * traffic.logit_bytes, launch


@_types
@pytest.mark.parametrize("passing", [0.003, 1.0])
def test_a_larger_batch_gives_no_block_more_work(passing: float, half: int) -> None:
    one, three = (_traffic("small", passing=passing, half=half, batch=batch) for batch in (1, 3))
    assert three.logits == 3 * one.logits
    assert three.most_reads <= _READS_OF_A_LOGIT, three.reads_per_logit
    for launch, same in zip(three.launches, one.launches, strict=True):
        assert launch.kernel == same.kernel
        assert launch.busiest.logit_bytes <= 1.1 * same.busiest.logit_bytes


@_types
@pytest.mark.parametrize("passing", [0.003, 1.0])
def test_channels_last_are_read_alike(passing: float, half: int) -> None:
    """Channels are padded to a multiple of eight, 180 of them to 184: a vector may hold logits of two cells."""
    traffic = _traffic("small", passing=passing, half=half, channels_last=1)
    assert min(traffic.reads_per_logit) >= 1
    assert traffic.most_reads <= (1 if passing == 0.003 else _READS_OF_A_LOGIT), traffic.reads_per_logit
    for launch in traffic.launches:
        assert launch.busiest.logit_bytes <= _BUSIEST_SHARE["small"] * 184 / 180 * traffic.logit_bytes, launch


@_shapes
@_types
@_rates
def test_decode_moves_little_beside_the_logits(passing: float, half: int, shape: str) -> None:
    traffic = _traffic(shape, passing=passing, half=half)
    total = [launch.total for launch in traffic.decode]
    beside = sum(counts.read_bytes - counts.logit_bytes for counts in total)
    assert beside <= _BESIDE_BYTES + _BESIDE_BYTES_OF_A_PASSING_LOGIT * traffic.passing
    assert sum(counts.written_bytes for counts in total) <= _WRITTEN_BYTES


@_shapes
@_types
@_rates
def test_atomics_and_barriers_of_a_block(passing: float, half: int, shape: str) -> None:
    for launch in _traffic(shape, passing=passing, half=half).launches:
        assert launch.busiest.atomics <= _ATOMICS, launch
        assert launch.busiest.barriers <= _BARRIERS, launch


@_shapes
@_types
@_rates
def test_nms_reads_candidates_only(passing: float, half: int, shape: str) -> None:
    for launch in _traffic(shape, passing=passing, half=half).nms:
        assert launch.total.logit_bytes == 0
        assert launch.busiest.read_bytes + launch.busiest.written_bytes <= _NMS_BYTES, launch


def test_nms_of_a_crowd_is_shared_by_many_blocks() -> None:
    """One class and a low limit: the best candidates give fewer than 300 detections, so NMS goes on with the rest."""
    traffic = count_traffic(**{**_SHAPES["small"], "classes": 1}, passing=1.0, iou=0.1)
    assert traffic.candidates > 3000
    assert traffic.detections < 300
    for launch in traffic.nms:
        assert launch.busiest.read_bytes + launch.busiest.written_bytes <= _NMS_BYTES, launch
        assert launch.busiest.barriers <= _BARRIERS, launch
