"""The CUDA code: kernels, and the functions of the CUDA runtime that they need.

Addresses are integers and point to device memory or mapped host memory. Streams are `cudaStream_t` handles as integers,
graphs are `cudaGraphExec_t`. No function waits for the device. Shapes are described in
csrc/include/retinasdk/ops_cuda.h. If a CUDA call fails, `DeviceError` is raised.
"""

def device_count() -> tuple[int, str]:
    """Returns the number of GPUs, and the reason if there is none."""

def device_properties(device: int) -> dict[str, object]:
    """Returns the properties of a GPU by name."""

def runtime_version() -> int:
    """Returns the version of the CUDA runtime that this module was built with, such as 12040."""

def driver_version() -> int:
    """Returns the newest CUDA version that the driver supports, such as 12040, or 0 if there is no driver."""

def wait_for_stream(stream: int, earlier: int) -> None:
    """Makes a stream wait for the work that another stream has so far."""

def begin_capture(stream: int) -> None:
    """Starts to record the work of a stream into a graph."""

def end_capture(stream: int) -> int:
    """Ends the recording and returns the graph."""

def launch_graph(graph: int, stream: int) -> None:
    """Starts a graph on a stream."""

def destroy_graph(graph: int) -> None:
    """Releases a graph."""

def preprocess_scratch_bytes(
    *, size: tuple[int, int], resized: tuple[int, int], padded: tuple[int, int], antialias: bool
) -> int:
    """Returns the scratch memory that `preprocess` needs, in bytes."""

def preprocess(
    *,
    format: str,
    pixels: int,
    row_bytes: int,
    chroma: int = 0,
    chroma_row_bytes: int = 0,
    matrix: str = "bt601",
    full_range: bool = False,
    size: tuple[int, int],
    resized: tuple[int, int],
    padded: tuple[int, int],
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    reverse_channels: bool,
    antialias: bool,
    source_step: float = 0.0,
    eight_bit: bool = False,
    output: int,
    dtype: str,
    scratch: int,
    scratch_bytes: int,
    stream: int,
) -> None:
    """Resizes, normalizes and pads one image into the network's input."""

def decode_scratch_bytes(
    *,
    sizes: list[tuple[int, int]],
    batch: int,
    anchors: int,
    classes: int,
    top_k: int,
    top_k_anchors: bool = False,
    cell_strides: list[tuple[int, int]] = ...,
) -> int:
    """Returns the scratch memory that `decode` needs, in bytes."""

def decode(
    *,
    logits: list[int],
    deltas: list[int],
    base_anchors: list[int],
    sizes: list[tuple[int, int]],
    strides: list[tuple[float, float]],
    level_clips: list[tuple[float, float]] = ...,
    batch: int,
    anchors: int,
    classes: int,
    dtype: str,
    top_k: int,
    coder_weights: tuple[float, float, float, float],
    coder_clamp_max: float,
    logit_threshold: int,
    class_mask: int,
    clip_sizes: int,
    boxes: int,
    out_logits: int,
    class_ids: int,
    counts: int,
    rescans: int,
    scratch: int,
    scratch_bytes: int,
    stream: int,
    coder_kind: str = "center",
    coder_means: tuple[float, float, float, float] = ...,
    coder_clamp_min: float = ...,
    inclusive_pixels: bool = False,
    or_equal: bool = False,
    drop_empty: bool = False,
    class_thresholds: int = 0,
    ignored: int = 0,
    ignored_regions: int = 0,
    top_k_anchors: bool = False,
    cell_strides: list[tuple[int, int]] = ...,
) -> None:
    """Decodes head outputs of a batch.

    `cell_strides` has a pair for each level, for the logits and the deltas. 0: channels come first, as in
    (N, C, H, W). Otherwise they come last, as in (N, H, W, C), and it is the number of values from one cell to the
    next. Values behind the channels of a cell are ignored. An empty list stands for zeros.
    """

def nms_scratch_bytes(*, batch: int, capacity: int, max_detections: int) -> int:
    """Returns the scratch memory that `nms` needs, in bytes."""

def nms(
    *,
    batch: int,
    capacity: int,
    boxes: int,
    logits: int,
    class_ids: int,
    counts: int,
    iou_threshold: float,
    max_detections: int,
    kept: int,
    kept_counts: int,
    kept_boxes: int,
    kept_logits: int,
    kept_class_ids: int,
    scratch: int,
    scratch_bytes: int,
    stream: int,
    or_equal: bool = False,
    inclusive_pixels: bool = False,
    across_classes: bool = False,
    max_per_class: int = ...,
) -> None:
    """Applies greedy NMS."""

def soft_nms_scratch_bytes(*, batch: int, capacity: int, max_detections: int, classes: int) -> int:
    """Returns the scratch memory that `soft_nms` needs, in bytes."""

def soft_nms(
    *,
    batch: int,
    capacity: int,
    boxes: int,
    logits: int,
    class_ids: int,
    counts: int,
    score_thresholds: int,
    classes: int,
    decay: str,
    sigma: float,
    iou_threshold: float,
    max_detections: int,
    kept: int,
    kept_counts: int,
    kept_boxes: int,
    kept_scores: int,
    kept_class_ids: int,
    scratch: int,
    scratch_bytes: int,
    stream: int,
    or_equal: bool = False,
    inclusive_pixels: bool = False,
    across_classes: bool = False,
    max_per_class: int = ...,
) -> None:
    """Applies Soft-NMS."""

def fuse_scratch_bytes(*, batch: int, capacity: int, max_detections: int, classes: int) -> int:
    """Returns the scratch memory that `fuse` needs, in bytes."""

def fuse(
    *,
    batch: int,
    capacity: int,
    boxes: int,
    logits: int,
    class_ids: int,
    counts: int,
    classes: int,
    fused_score: str,
    scale: str = "logit",
    models: int = 1,
    iou_threshold: float,
    max_detections: int,
    kept_counts: int,
    kept_boxes: int,
    kept_scores: int,
    kept_class_ids: int,
    scratch: int,
    scratch_bytes: int,
    stream: int,
    or_equal: bool = False,
    inclusive_pixels: bool = False,
    across_classes: bool = False,
    max_per_class: int = ...,
) -> None:
    """Applies weighted boxes fusion."""
