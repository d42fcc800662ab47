import numpy as np
import numpy.typing as npt

def preprocess_into(
    image: npt.NDArray[np.uint8],
    canvas: npt.NDArray[np.float32],
    *,
    resized: tuple[int, int],
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    reverse_channels: bool,
    antialias: bool,
) -> None: ...
def decode(
    logits: list[npt.NDArray[np.float32]],
    deltas: list[npt.NDArray[np.float32]],
    base_anchors: list[npt.NDArray[np.float32]],
    *,
    strides: list[tuple[float, float]],
    clip_sizes: npt.NDArray[np.float32],
    logit_threshold: float,
    top_k: int,
    coder_weights: tuple[float, float, float, float],
    coder_clamp_max: float,
    class_ids: list[int],
    coder_kind: str = "center",
    coder_means: tuple[float, float, float, float] = ...,
    coder_clamp_min: float = ...,
    plus_one: bool = False,
    or_equal: bool = False,
    drop_empty: bool = False,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.int32], npt.NDArray[np.int32]]: ...
def nms(
    boxes: npt.NDArray[np.float32],
    logits: npt.NDArray[np.float32],
    class_ids: npt.NDArray[np.int32],
    counts: npt.NDArray[np.int32],
    *,
    iou_threshold: float,
    max_detections: int,
    or_equal: bool = False,
    plus_one: bool = False,
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]: ...
def merge_tiles(
    boxes: npt.NDArray[np.float32],
    logits: npt.NDArray[np.float32],
    class_ids: npt.NDArray[np.int32],
    tiles: npt.NDArray[np.int32],
    *,
    tops: npt.NDArray[np.int32],
    lefts: npt.NDArray[np.int32],
    tile_size: tuple[int, int],
    image_size: tuple[int, int],
    iou_threshold: float,
    or_equal: bool,
    plus_one: bool,
    cut_slack: tuple[float, float],
    cover_limit: float,
) -> npt.NDArray[np.int32]: ...
def simd_name() -> str: ...
