"""The Markdown of what gpu.py measured, engine by engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from record_page import table

POSTPROCESS_TARGET = 0.05  # decode + NMS over the network, for ResNet-50 at 800 x 1344 in int8

# MLPerf Inference, closed division, RetinaNet: ResNeXt-50, 264 classes, 800 x 800, int8, NMS included, one image at a
# time, 90th percentile in ms. mlcommons/inference_results_v3.0 and v3.1, mlperf_log_summary.txt of these systems.
PUBLISHED = {"H100 PCIe (Supermicro, v3.0)": 2.074, "Jetson AGX Orin (NVIDIA, v3.1)": 11.672}


@dataclass
class Case:
    """What was measured of one engine; times are medians in ms, bandwidths in GB/s."""

    model: str
    precision: str
    input: tuple[int, ...]
    classes: int
    anchors: int
    logits_mb: float
    engine_mb: float
    build_seconds: float
    passing: float  # share of logits above the threshold
    levels_read_twice: int
    detections: int
    stages_ms: dict[str, float]
    kernels_ms: dict[str, float]
    frame_ms: dict[str, float]
    frame_p90_ms: float  # of the replayed graph
    replay_over_plain: float  # round by round
    frames_per_second: dict[str, float]
    decode_gb_s: float
    preprocess_gb_s: float

    @property
    def postprocess_share(self) -> float:
        """Decode + NMS over the network."""
        return (self.stages_ms["decode"] + self.stages_ms["nms"]) / self.stages_ms["network"]


def page(facts: dict[str, str], bandwidth: float, copy_bytes: int, cases: Sequence[Case]) -> str:
    """The Markdown of all that was measured."""
    lines = ["# Frames on the GPU", "", *(f"- {name}: {fact}" for name, fact in facts.items())]
    lines += [f"- copy inside the GPU's memory, {copy_bytes >> 20} MiB: {bandwidth:.0f} GB/s, read and written", ""]
    for case in cases:
        lines += [*_page_of(case, bandwidth), ""]
    lines += ["## Published, for the scale", "", "Another network, ResNeXt-50 of 264 classes, and no photo to resize:"]
    lines += [
        "MLPerf Inference, closed, RetinaNet at 800 x 800, int8, NMS included, one image at a time, 90th percentile."
    ]
    lines += ["", *table(("system", "ms"), [(name, f"{ms:.3f}") for name, ms in PUBLISHED.items()])]
    return "\n".join(lines) + "\n"


def _page_of(case: Case, bandwidth: float) -> list[str]:
    batch, _, height, width = case.input
    floor_ms = case.logits_mb / bandwidth
    frame = case.frame_ms["graph replay"]
    return [
        f"## {case.model}, {case.precision}, {height} x {width}",
        "",
        f"{batch} image, {case.anchors:,} anchors x {case.classes} classes = {case.logits_mb:.1f} MB of logits, "
        f"{100 * case.passing:.3f} % above the threshold, {case.detections} detections; levels read twice: "
        f"{case.levels_read_twice}. Engine of {case.engine_mb:.1f} MB, built in {case.build_seconds:.0f} s.",
        "",
        *table(("stage", "ms", "of the network"), [
            (name, f"{ms:.4f}", f"{100 * ms / case.stages_ms['network']:.2f} %") for name, ms in case.stages_ms.items()
        ]),
        "",
        *table(("kernels, ten in a graph", "ms"), [(name, f"{ms:.4f}") for name, ms in case.kernels_ms.items()]),
        "",
        f"- decode + NMS over the network: {100 * case.postprocess_share:.2f} %, target for ResNet-50 at 800 x 1344 in "
        f"int8: at most {100 * POSTPROCESS_TARGET:.0f} %",
        f"- decode reads its logits at {case.decode_gb_s:.0f} GB/s, {100 * case.decode_gb_s / bandwidth:.0f} % of the "
        f"copy's; at the copy's speed it would take {floor_ms:.4f} ms",
        f"- preprocess reads and writes at {case.preprocess_gb_s:.0f} GB/s, "
        f"{100 * case.preprocess_gb_s / bandwidth:.0f} % of the copy's",
        "",
        *table(("whole frame", "ms"), [(name, f"{ms:.3f}") for name, ms in case.frame_ms.items()]),
        "",
        f"- graph replay over plain launches, round by round: {case.replay_over_plain:.3f}; 90th percentile of the "
        f"replay {case.frame_p90_ms:.3f} ms; outside of the GPU's stages {frame - sum(case.stages_ms.values()):.3f} ms",
        f"- frames per second: {', '.join(f'{rate:.1f} ({name})' for name, rate in case.frames_per_second.items())}",
    ]  # fmt: skip
