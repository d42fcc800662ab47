"""The parameters of the node, with descriptions and ranges: see `ros2 param describe /detector NAME`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

from retinasdk import Detector


@dataclass(frozen=True)
class Parameter:
    """One parameter: its default, what it means, what it may be, and whether it can be changed while the node runs."""

    default: Any
    description: str
    choices: tuple[str, ...] = ()
    range: tuple[float, float] | None = None
    is_dynamic: bool = False


PARAMETERS = {
    "model": Parameter("people", "Name of a bundled model, or path of an ONNX file or engine."),
    "device": Parameter("auto", "Where the network runs: 'auto', 'cpu', 'cuda' or 'cuda:N'."),
    "score": Parameter(0.5, "Only scores above it are published.", range=(0.0, 1.0), is_dynamic=True),
    "classes": Parameter([""], "Only these class labels are published. [''] publishes all.", is_dynamic=True),
    "tiles": Parameter(0, "Side of tiles in pixels for large images. 0 does not tile.", range=(0, 65536)),
    "track": Parameter(False, "Whether objects get a number that they keep from image to image, the field 'id'."),
    "image_topic": Parameter("image", "Topic of the images. The transport 'compressed' adds '/compressed'."),
    "detections_topic": Parameter("detections", "Topic of the vision_msgs/Detection2DArray."),
    "annotated_topic": Parameter("detections/image", "Topic of the annotated images, sensor_msgs/Image in rgb8."),
    "annotate": Parameter(True, "Whether to offer annotated images. They are drawn only if someone subscribes."),
    "transport": Parameter("raw", "Type of the images.", choices=("raw", "compressed")),
    "policy": Parameter(
        "latest",
        "Images that arrive during a detection: 'latest' keeps the newest; 'all' keeps 'depth', then drops the oldest.",
        choices=("latest", "all"),
    ),
    "reliability": Parameter(
        "best_effort",
        "QoS of the subscription. 'reliable' receives nothing from a best-effort publisher.",
        choices=("best_effort", "reliable"),
    ),
    "depth": Parameter(10, "QoS depth, and the number of images that wait under the policy 'all'.", range=(1, 1000)),
}


def declare(node: Any) -> dict[str, Any]:
    """Declares all parameters.

    Args:
        node: The node.

    Returns:
        The values by name.

    Raises:
        ValueError: If a value is not one of the choices.
    """
    values = {}
    for name, parameter in PARAMETERS.items():
        description = parameter.description
        if parameter.choices:
            description += f" One of: {', '.join(parameter.choices)}."
        descriptor = ParameterDescriptor(description=description, read_only=not parameter.is_dynamic)
        if parameter.range is not None:
            low, high = parameter.range
            if isinstance(parameter.default, float):
                descriptor.floating_point_range = [FloatingPointRange(from_value=low, to_value=high)]
            else:
                descriptor.integer_range = [IntegerRange(from_value=int(low), to_value=int(high))]
        value = node.declare_parameter(name, parameter.default, descriptor).value
        if parameter.choices and value not in parameter.choices:
            raise ValueError(f"parameter {name} must be one of {', '.join(parameter.choices)}, got {value!r}")
        values[name] = value
    return values


def subscription_qos(values: dict[str, Any]) -> QoSProfile:
    """Returns the quality of service of the subscription."""
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=values["depth"] if values["policy"] == "all" else 1,
        reliability=ReliabilityPolicy[values["reliability"].upper()],
        durability=DurabilityPolicy.VOLATILE,
    )


class Settings:
    """Calls the detector with the parameters that may change while the node runs.

    Args:
        node: The node whose parameters are followed.
        detector: The detector.
        values: The values of the parameters.

    Raises:
        ValueError: If the model has no class of a given label.
    """

    def __init__(self, node: Any, detector: Detector, values: dict[str, Any]) -> None:
        self._detector = detector
        self._score: float = values["score"]
        self._tiles: int | None = values["tiles"] or None
        self._classes = self._checked(values["classes"])
        node.add_on_set_parameters_callback(self._set)

    def __call__(self, image: Any) -> Any:
        """Detects in one image. See `retinasdk.Detector`."""
        return self._detector(image, score_threshold=self._score, classes=self._classes, tiles=self._tiles)

    def _checked(self, classes: Any) -> list[str] | None:
        labels = [label for label in classes if label]
        unknown = sorted(set(labels) - set(self._detector.labels))
        if unknown:
            raise ValueError(
                f"parameter classes: the model has no class {', '.join(unknown)}; it has: "
                f"{', '.join(self._detector.labels[:50])}"
            )
        return labels or None

    def _set(self, parameters: list[Any]) -> SetParametersResult:
        new = {parameter.name: parameter.value for parameter in parameters}
        try:
            classes = self._checked(new["classes"]) if "classes" in new else self._classes
        except ValueError as error:
            return SetParametersResult(successful=False, reason=str(error))
        self._classes, self._score = classes, new.get("score", self._score)
        return SetParametersResult(successful=True)
