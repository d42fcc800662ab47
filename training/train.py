"""Train a recipe: ``python training/train.py people``. Stopped or killed, the same command goes on."""

from __future__ import annotations

import argparse
import json
import math
import os
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TextIO

import torch
from anchors import decode
from assign import IGNORED
from backbone import MEAN, STD
from data import Batch, Samples
from evaluate import evaluate
from losses import focal_loss, giou_loss
from model import RetinaNet, flatten_heads
from recipe import Recipe, load_recipe, runs_dir
from torch import Tensor, distributed, multiprocessing, nn
from warm_start import load_exported

_SAVE_EVERY_S = 120.0
_LOG_EVERY = 25
_MEASURED_BATCHES = 8


def detection_loss(model: RetinaNet, batch: Batch, anchors: Tensor, recipe: Recipe) -> tuple[Tensor, Tensor]:
    """Focal loss and weighted GIoU loss of a batch, each divided by the count of positive anchors."""
    logits, deltas = model(_normalised(batch))
    flat_logits = flatten_heads(logits, recipe.head_classes)
    flat_deltas = flatten_heads(deltas, 4)
    positive = batch.targets >= 0
    wanted = torch.zeros_like(flat_logits)
    wanted[positive] = nn.functional.one_hot(batch.targets[positive], recipe.head_classes).float()
    learnt = batch.targets != IGNORED
    count = max(1, len(batch.boxes))
    focal = focal_loss(flat_logits[learnt], wanted[learnt], alpha=recipe.alpha, gamma=recipe.gamma) / count
    places = positive.nonzero()
    found = decode(anchors[places[:, 1]], flat_deltas[places[:, 0], places[:, 1]])
    return focal, recipe.box_weight * giou_loss(found, batch.boxes) / count


def _normalised(batch: Batch) -> Tensor:
    return ((batch.images.float() / 255 - MEAN) / STD).contiguous(memory_format=torch.channels_last)


class Run:
    """State of a training run, and its checkpoint on disk.

    The averaged copy (`ema`) is what is evaluated and exported.
    """

    def __init__(self, recipe: Recipe, folder: Path, start: Path | None = None) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe, self.folder = recipe, folder
        self.model = _build(recipe)
        self.ema = _build(recipe).requires_grad_(False)
        self.step, self.seconds = 0, 0.0
        self.optimizer = torch.optim.AdamW(_groups(self.model, recipe), betas=(0.9, 0.99))
        folder.mkdir(parents=True, exist_ok=True)
        if self.checkpoint.is_file():
            state = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
            self.model.load_state_dict(state["model"])
            self.ema.load_state_dict(state["ema"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step, self.seconds = int(state["step"]), float(state["seconds"])
        else:
            self.model.backbone.load_imagenet()
            if start is not None:
                samples = Samples(recipe, 0, 1)
                load_exported(self.model, start, [_normalised(samples[i]) for i in range(_MEASURED_BATCHES)])
            self.ema.load_state_dict(self.model.state_dict())

    @property
    def checkpoint(self) -> Path:
        return self.folder / "last.pt"

    def save(self, seconds: float) -> None:
        """Write the checkpoint after `seconds` more; a crash in the middle leaves the one before."""
        state: dict[str, Any] = {
            "recipe": self.recipe.to_json(),
            "model": self.model.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seconds": self.seconds + seconds,
        }
        partial = self.checkpoint.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(self.checkpoint)

    def set_rates(self) -> None:
        """Learning rates of the step: linear warm-up, then half a cosine down to 1 %."""
        recipe = self.recipe
        share = min(1.0, self.step / recipe.steps)
        factor = 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * share))
        factor *= min(1.0, (self.step + 1) / recipe.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = factor * (recipe.backbone_rate if group["backbone"] else recipe.head_rate)

    @torch.no_grad()
    def average(self) -> None:
        """Move the averaged copy towards the model; early on the average spans fewer steps."""
        keep = min(self.recipe.ema, (1 + self.step) / (10 + self.step))
        for mean, value in zip(self.ema.state_dict().values(), self.model.state_dict().values(), strict=True):
            if mean.is_floating_point():
                mean.lerp_(value, 1 - keep)
            else:
                mean.copy_(value)


def _build(recipe: Recipe) -> RetinaNet:
    model = RetinaNet(
        recipe.head_classes, channels=recipe.channels, depth=recipe.depth, frozen_blocks=recipe.frozen_blocks
    )
    return model.to(memory_format=torch.channels_last)


def _groups(model: RetinaNet, recipe: Recipe) -> list[dict[str, Any]]:
    """Parameter groups: backbone or not, decayed (matrices) or not (biases, norms)."""
    groups = []
    for backbone in (True, False):
        for decayed in (True, False):
            chosen = [
                p
                for name, p in model.named_parameters()
                if p.requires_grad and name.startswith("backbone.") == backbone and (p.ndim > 1) == decayed
            ]
            groups.append(
                {"params": chosen, "backbone": backbone, "weight_decay": recipe.weight_decay if decayed else 0.0}
            )
    return groups


def train(
    recipe: Recipe,
    folder: Path,
    *,
    start: Path | None = None,
    seconds: float | None = None,
    evaluate_every: int = 0,
    processes: int = 2,
) -> None:
    """Train to the recipe's last step, or for `seconds` of this call. Logs to ``log.jsonl`` in `folder`.

    start: an exported model whose weights a new run begins with; None: the backbone's ImageNet weights.

    Note [One thread a process]. Each of the `processes` takes its share of every batch on one thread, and they meet
    once a step to average gradients. Threads inside the operators meet hundreds of times a step instead, and on a
    machine that does other work too each meeting waits for the slowest.
    """
    with tempfile.TemporaryDirectory() as meeting:
        arguments = (processes, f"file://{meeting}/ranks", recipe, folder, start, seconds, evaluate_every)
        multiprocessing.spawn(_train_rank, arguments, nprocs=processes)


def _train_rank(
    rank: int,
    ranks: int,
    meeting: str,
    recipe: Recipe,
    folder: Path,
    start: Path | None,
    seconds: float | None,
    evaluate_every: int,
) -> None:
    parent = os.getppid()
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=ranks)
    run = Run(recipe, folder, start)
    distributed.barrier()
    samples = Samples(recipe, rank, ranks)
    anchors = samples.anchors
    run.model.train()
    began = saved = mark = time.monotonic()
    sums, summed = torch.zeros(3), 0
    log = (folder / "log.jsonl").open("a") if rank == 0 else None
    while run.step < recipe.steps:
        run.set_rates()
        focal, box = detection_loss(run.model, samples[run.step], anchors, recipe)
        (focal + box).backward()
        late = seconds is not None and time.monotonic() - began > seconds
        # The command was killed: its processes stop with it.
        late = late or os.getppid() != parent
        focal_mean, box_mean, stop = _average_gradients(run.model, [focal.item(), box.item(), float(late)], ranks)
        norm = nn.utils.clip_grad_norm_(run.model.parameters(), 10.0)
        if torch.isfinite(norm):
            run.optimizer.step()
        run.optimizer.zero_grad(set_to_none=True)
        run.step += 1
        last = stop > 0 or run.step == recipe.steps
        if log is not None:
            run.average()
            sums, summed = sums + torch.tensor([focal_mean, box_mean, float(norm)]), summed + 1
            if run.step % _LOG_EVERY == 0:
                now = time.monotonic()
                _report(run, log, sums / summed, summed * recipe.batch / (now - mark), now - began)
                sums, summed, mark = torch.zeros(3), 0, now
            if evaluate_every and run.step % evaluate_every == 0:
                scores = evaluate(run.ema, recipe, "val")
                log.write(json.dumps({"step": run.step, "split": "val", **asdict(scores)}) + "\n")
                print(f"{recipe.name} {run.step}  val AP {scores.summary['AP']:.3f}  AP50 {scores.summary['AP50']:.3f}")
                sums, summed, mark = torch.zeros(3), 0, time.monotonic()
            if last or time.monotonic() - saved > _SAVE_EVERY_S:
                run.save(time.monotonic() - began)
                saved = time.monotonic()
        if last:
            break
    if log is not None:
        log.close()
        print(f"{recipe.name}: step {run.step} of {recipe.steps}; {run.checkpoint}")
    distributed.destroy_process_group()


def _average_gradients(model: nn.Module, values: list[float], ranks: int) -> list[float]:
    """Average all gradients, and some values besides, over the processes."""
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    flat = torch.cat([*(g.reshape(-1) for g in gradients), torch.tensor(values)])
    distributed.all_reduce(flat)
    flat /= ranks
    offset = 0
    for gradient in gradients:
        gradient.copy_(flat[offset : offset + gradient.numel()].view(gradient.shape))
        offset += gradient.numel()
    return [float(value) for value in flat[offset:]]


def _report(run: Run, log: TextIO, means: Tensor, rate: float, seconds: float) -> None:
    recipe, minutes = run.recipe, (run.seconds + seconds) / 60
    focal, box, norm = means.tolist()
    line = {"step": run.step, "focal": focal, "box": box, "norm": norm, "samples_per_s": rate, "minutes": minutes}
    log.write(json.dumps(line) + "\n")
    log.flush()
    left = (recipe.steps - run.step) * recipe.batch / rate / 60
    print(
        f"{recipe.name} {run.step}/{recipe.steps}  focal {focal:.3f}  box {box:.3f}  norm {norm:.2f}"
        f"  {rate:.1f} samples/s  {minutes:.1f} min, {left:.0f} min left",
        flush=True,
    )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", help="name in training/recipes, or a JSON file")
    parser.add_argument("--run", help="folder in training/runs; default: the recipe's name")
    parser.add_argument("--start", type=Path, help="an exported ONNX model to go on from, such as a bundled one")
    parser.add_argument("--seconds", type=float, help="stop after so long; the same command goes on later")
    parser.add_argument("--steps", type=int, help="another length of the schedule")
    parser.add_argument("--set", nargs="*", default=[], metavar="FIELD=JSON", help="other values of recipe fields")
    parser.add_argument("--evaluate-every", type=int, default=0, help="steps between scores on the val split")
    parser.add_argument("--processes", type=int, default=2, help="each on one core; see Note [One thread a process]")
    arguments = parser.parse_args()
    values = load_recipe(arguments.recipe).to_json() | {
        k: json.loads(v) for k, v in (s.split("=", 1) for s in arguments.set)
    }
    recipe = Recipe.from_json(values)
    if arguments.steps:
        recipe = replace(recipe, steps=arguments.steps)
    train(
        recipe,
        runs_dir() / (arguments.run or recipe.name),
        start=arguments.start,
        seconds=arguments.seconds,
        evaluate_every=arguments.evaluate_every,
        processes=arguments.processes,
    )


if __name__ == "__main__":
    main()
