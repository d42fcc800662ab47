"""Refuses what TF Model Garden computes and a model spec cannot say."""

from __future__ import annotations

from retinasdk.convert.importing.options import ImportOptions
from retinasdk.errors import ModelError
from retinasdk.spec import ModelSpec

_FIXED_THRESHOLD = 0.5  # Written into the NMS of version v2, besides the threshold of the configuration.


def refuse_unlike_tf_models(spec: ModelSpec, coarsest: int, options: ImportOptions, command: str) -> None:
    """Refuses an image size and an NMS threshold with which the framework gives other boxes than the spec.

    The framework pads a size that is no multiple of the coarsest stride, but clips boxes to the size before. And its
    usual NMS (version v2) compares with 0.5 where it finds the boxes that are still there to remove others: with a
    lower threshold, a box that another one removed by an IoU of up to 0.5 goes on removing boxes.

    Args:
        spec: The spec of the imported model. Nothing is checked for another framework.
        coarsest: Stride of the coarsest level in pixels.
        options: What the user gave. With `force`, nothing is checked.
        command: The command that the user can repeat with further options.

    Raises:
        ModelError: The size or the threshold is such a one.
    """
    if spec.flavour != "tf-models" or options.force:
        return
    command = f"{command} --flavour tf-models"
    size = spec.resize.fixed_size
    if size is None or any(side % coarsest for side in size):
        rule = f"{spec.resize.rule} {' x '.join(map(str, spec.resize.size))}"
        raise ModelError(
            f"the resize rule is {rule}, but the rules of TF Model Garden hold for a fixed size whose sides {coarsest} "
            "divides, the stride of the coarsest level: it pads other sizes, and clips boxes before the padding. "
            f"Export the network at such a size, and import it with: {command} --resize fit (in Python: resize='fit'). "
            "Insist with --force (in Python: force=True)"
        )
    if spec.nms_iou_threshold < _FIXED_THRESHOLD:
        raise ModelError(
            f"the NMS threshold is {spec.nms_iou_threshold:g}. Below 0.5 the NMS of TF Model Garden (nms_version v2) "
            "also lets removed boxes remove others, and a model spec cannot say that. If your configuration has "
            f"nms_version v1 or batched, which do not, insist with --force (in Python: force=True): {command} "
            f"--nms-iou {spec.nms_iou_threshold:g} --force. Otherwise give a threshold of 0.5 or more"
        )
