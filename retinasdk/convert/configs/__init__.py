"""Reads the rules of a model from the configuration file of its training framework.

`read_config` tells the kinds of files apart. Each framework has a module of its own. No file is executed: Python files
are parsed, and YAML tags that would construct objects are not followed.
"""

from __future__ import annotations

from pathlib import Path

from retinasdk.convert.configs import detectron2, mmdetection, torchvision
from retinasdk.convert.configs.config_file import read_json
from retinasdk.convert.configs.literals import read_python
from retinasdk.convert.configs.rules import ConfigRules, UnusableValueError
from retinasdk.convert.configs.yaml_file import read_yaml
from retinasdk.errors import ModelError

__all__ = ["ConfigRules", "read_config"]


def read_config(path: Path) -> ConfigRules:
    """Reads a config of detectron2 (YAML), mmdetection (Python, JSON or YAML) or torchvision's arguments (JSON).

    Files that it names as its base (`_BASE_`, `_base_`) are read, too.

    Args:
        path: The config file, as the framework reads it or as it was dumped by the framework.

    Returns:
        The rules in it, by the names of the arguments of `import_onnx`.

    Raises:
        ModelError: The file cannot be read, is of no known kind, or describes something other than a RetinaNet whose
            rules a model spec can state.
        MissingDependencyError: The file is YAML and the package pyyaml is missing.
    """
    readers = {".yaml": read_yaml, ".yml": read_yaml, ".py": read_python, ".json": read_json}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise ModelError(
            f"{path} is no known config. Give a YAML file of detectron2, a Python, JSON or YAML file of mmdetection, "
            "or a JSON file of the arguments of torchvision's RetinaNet. The rules in a checkpoint (.pth) cannot be "
            "read: write them as options, such as --score-threshold, or as JSON"
        )
    try:
        content = reader(path)
    except (OSError, ValueError, SyntaxError, RecursionError, MemoryError) as error:
        raise ModelError(f"the config {path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ModelError(f"the config {path} holds no names and values, but {type(content).__name__}")
    for framework in (detectron2, mmdetection, torchvision):
        if framework.is_config(content):
            try:
                rules: ConfigRules = framework.rules_of(path, content)
            except UnusableValueError as error:
                raise ModelError(
                    f"{path}: {error}. Give the config that the framework itself wrote with the results of its training"
                ) from error
            return rules
    raise ModelError(
        f"{path} is no config of a known kind: it has neither MODEL.META_ARCHITECTURE (detectron2), nor "
        f"model.bbox_head (mmdetection), nor arguments of torchvision's RetinaNet ({', '.join(torchvision.ARGUMENTS)})"
    )
