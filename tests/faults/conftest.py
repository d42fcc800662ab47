"""Fixtures of the fault loops: a folder with the inputs of all commands, and a process that runs them."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from coco_sets import own_truth, save_set
from fault_commands import CHECKPOINT, NAMES, command_list
from fault_loop import Command, World, fault_world
from pictures import blocks
from PIL import Image
from torchvision_heads import small_model

from retinasdk import Detector, ModelSpec

collect_ignore_glob = [] if sys.platform == "linux" else ["test_files.py", "test_memory.py", "test_killed.py"]


@pytest.fixture(scope="session")
def world(
    detector: Detector, network: onnx.ModelProto, spec: ModelSpec, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    """The world in which the commands of `command_list` can run."""

    def fill(folder: Path) -> None:
        onnx.save(network, str(folder / "tiny.onnx"))
        spec.save(folder / "tiny.json", onnx=folder / "tiny.onnx")
        foreign = onnx.ModelProto()
        foreign.CopyFrom(network)
        del foreign.metadata_props[:]
        onnx.save(foreign, str(folder / "foreign.onnx"))
        (folder / "photos").mkdir()
        for seed in range(2):
            Image.fromarray(blocks(90, 120, seed=seed)).save(folder / "photos" / f"{seed}.png")
        (folder / "set").mkdir()
        save_set(folder / "set", own_truth(detector, 2))
        found = detector(np.asarray(Image.open(folder / "photos" / "0.png")))
        boxes = {"boxes": found.xyxy.tolist(), "scores": found.scores.tolist(), "labels": list(found.names)}
        (folder / "boxes.json").write_text(json.dumps(boxes))
        if "export" in NAMES:
            import torch

            torch.save(small_model().state_dict(), folder / CHECKPOINT)

    with fault_world(tmp_path_factory.mktemp("faults"), fill) as made:
        yield made


@pytest.fixture(scope="session")
def commands(world: World) -> dict[str, Command]:
    """The commands by name."""
    return {command.name: command for command in command_list(world.folder)}
