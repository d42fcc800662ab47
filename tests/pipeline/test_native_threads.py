"""The native core keeps nothing between calls: many Python threads at once get what one alone gets."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from cases import crowd, image, random_heads, sprinkled

from retinasdk import _native

THREADS, CALLS = 8, 6


def preprocess_once(seed: int) -> bytes:
    canvas = np.empty((3, 96, 128), dtype=np.float32)
    _native.preprocess_into(
        image(seed, 60 + seed, 90),
        canvas,
        resized=(80, 120),
        mean=(1.0, 2.0, 3.0),
        std=(4.0, 5.0, 6.0),
        reverse_channels=False,
        antialias=seed % 2 == 0,
    )
    return canvas.tobytes()


def decode_once(seed: int) -> bytes:
    case = sprinkled(random_heads(seed, batch=2, sizes=[(20, 30), (5, 8)], top_k=200 + seed), seed)
    boxes, logits, class_ids, counts = _native.decode(case.logits, case.deltas, case.base_anchors, **case.options())
    used = [array[i, : counts[i]].tobytes() for array in (boxes, logits, class_ids) for i in range(2)]
    return b"".join([*used, counts.tobytes()])


def nms_once(seed: int) -> bytes:
    boxes, logits, class_ids = crowd(seed, 400 + seed, classes=3)
    counts = np.array([len(boxes)], dtype=np.int32)
    kept, kept_counts = _native.nms(
        boxes[None], logits[None], class_ids[None], counts, iou_threshold=0.5, max_detections=300
    )
    return kept.tobytes() + kept_counts.tobytes()


@pytest.mark.parametrize("call", [preprocess_once, decode_once, nms_once], ids=lambda call: call.__name__)
def test_every_thread_gets_the_same_answer(call: Callable[[int], bytes]) -> None:
    seeds = list(range(CALLS))
    alone = [call(seed) for seed in seeds]
    assert len(set(alone)) == CALLS
    with ThreadPoolExecutor(THREADS) as pool:
        rounds = list(pool.map(lambda _: [call(seed) for seed in seeds], range(THREADS)))
    assert all(answers == alone for answers in rounds)


def test_one_image_may_be_read_by_many_threads() -> None:
    picture = image(1, 120, 90)
    case = random_heads(2, batch=3, sizes=[(20, 30)])

    def both(_: int) -> tuple[bytes, bytes]:
        canvas = np.empty((3, 50, 40), dtype=np.float32)
        _native.preprocess_into(
            picture,
            canvas,
            resized=(50, 40),
            mean=(0.0, 0.0, 0.0),
            std=(1.0, 1.0, 1.0),
            reverse_channels=True,
            antialias=True,
        )
        boxes, _, _, counts = _native.decode(case.logits, case.deltas, case.base_anchors, **case.options())
        return canvas.tobytes(), boxes[0, : counts[0]].tobytes()

    with ThreadPoolExecutor(THREADS) as pool:
        assert len(set(pool.map(both, range(4 * THREADS)))) == 1
