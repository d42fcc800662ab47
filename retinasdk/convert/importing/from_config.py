"""Brings the rules of a config file together with what the user gave besides, and with the graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from retinasdk.convert.configs import ConfigRules
from retinasdk.convert.flavours import Preset, load_preset
from retinasdk.convert.importing.flavour_choice import Evidence, contradictions
from retinasdk.convert.importing.heads import HeadPair
from retinasdk.convert.importing.options import ImportOptions
from retinasdk.convert.importing.report import Finding
from retinasdk.errors import ModelError


def with_config(options: ImportOptions, config: ConfigRules) -> ImportOptions:
    """Enters the rules of a config file into the fields that the user did not give.

    Raises:
        ModelError: A rule of the file cannot be used, and the user did not give it either.
    """
    changes: dict[str, Any] = {}
    origins: dict[str, str] = {}
    given = {name for name in (*config.values, *config.problems) if getattr(options, name) is not None}
    if options.has_anchor_rule:
        given.add("base_anchors")
    for name, problem in config.problems.items():
        if name not in given:
            raise ModelError(problem)
    for name, value in config.values.items():
        place = f"{config.path.name}: {config.keys[name]}"
        if name not in given:
            changes[name], origins[name] = value, f"from {place}"
        else:
            origins[name] = f"in place of {place}"
    return replace(options, config=config, origins=origins, **changes)


def preset_of_config(
    evidence: Sequence[Evidence], options: ImportOptions, config: ConfigRules, command: str
) -> tuple[Preset, Finding]:
    """Returns the rules of the framework that wrote a config, and why.

    The graph decides where a config can mean several flavours: mmdetection's own post-processing, or mmdeploy's.

    Raises:
        ModelError: The graph contradicts all of them, or the user named another one.
    """
    named = config.flavours if options.flavour == "auto" else (options.flavour,)
    if options.flavour not in ("auto", *config.flavours) and not options.force:
        raise ModelError(
            f"{config.path} is a config of {config.flavours[0]}, but you named {options.flavour}. Leave one of the two "
            "out: --flavour or --config. Insist with --force (in Python: force=True)"
        )
    contrary = [contradictions(name, evidence) for name in named]
    fitting = next((name for name, texts in zip(named, contrary, strict=True) if not texts), None)
    if fitting is None and not options.force:
        raise ModelError(
            f"the graph contradicts the rules of {' and '.join(named)}, to which {config.path} belongs: "
            f"{'; '.join(contrary[0])}. Give the config of this network, or leave --config out to let the graph tell: "
            f"{command}. Insist with --force (in Python: force=True)"
        )
    preset = load_preset(fitting or named[0])
    insisted = f", although {'; '.join(contrary[0])}" if fitting is None else ""
    return preset, Finding("given", "flavour", f"the rules of {preset.flavour}, from {config.path.name}{insisted}")


def compare_classes(heads: HeadPair, options: ImportOptions) -> None:
    """Raises `ModelError` if a config is that of a network with another number of classes."""
    config = options.config
    if config is not None and config.classes not in (None, heads.classes) and not options.force:
        raise ModelError(
            f"{config.path} has {config.classes} classes, but the network has {heads.classes}. Give the config of this "
            "network. Insist with --force (in Python: force=True)"
        )
