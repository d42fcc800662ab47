"""What is special about exports of TF Model Garden."""

from __future__ import annotations

from retinasdk.convert.importing.options import ImportOptions
from retinasdk.errors import ModelError
from retinasdk.spec import ModelSpec

_FIXED_THRESHOLD = 0.5  # Written into the NMS of version v2, besides the threshold of the configuration.


def refuse_low_nms_threshold(spec: ModelSpec, options: ImportOptions, command: str) -> None:
    """Refuses an IoU threshold below 0.5, with which the framework's usual NMS is not greedy.

    Its version v2 compares with 0.5 where it finds the boxes that are still there to remove others. With a lower
    threshold, a box that another one removed by an IoU of up to 0.5 goes on removing boxes.

    Raises:
        ModelError: The threshold is below 0.5, and `options.force` is False.
    """
    if spec.flavour != "tf-models" or spec.nms_iou_threshold >= _FIXED_THRESHOLD or options.force:
        return
    raise ModelError(
        f"the NMS threshold is {spec.nms_iou_threshold:g}. Below 0.5 the NMS of TF Model Garden (nms_version v2) also "
        "lets removed boxes remove others, and a model spec cannot say that. If your configuration has nms_version v1 "
        f"or batched, which do not, insist with --force (in Python: force=True): {command} --flavour tf-models "
        f"--nms-iou {spec.nms_iou_threshold:g} --force. Otherwise give a threshold of 0.5 or more"
    )
