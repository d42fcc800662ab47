"""Records RetinaNets of ODTK for rotated boxes (`--rotated-bbox`), with ODTK's own inference code on the CPU.

ODTK is not on PyPI. Clone it (commit 65e6310), and install torch, Pillow, onnx and pycocotools:

    git clone https://github.com/NVIDIA/retinanet-examples
    python tests/support/record/odtk_rotated.py retinanet-examples

ODTK decodes and suppresses rotated boxes on the GPU only: `decode` and `nms_rotated` of odtk/box.py call functions
that its Python part does not have. Here both functions run on the CPU, from ODTK's own source: the arithmetic of a box
(csrc/cuda/decode_rotate.cu) and the whole kernel of NMS (csrc/cuda/nms_iou.cu) are cut out of the clone and compiled
for the host, outside of this repository. What Thrust and CUB do around them is written below: scores above the
threshold, the best `top_n` of a level, sorted by score. A GPU may contract multiplications and additions, so IoUs may
differ there in the last digits.

Model, data loader, resize, padding, scale and the conversion of boxes are ODTK's. Backbone and heads are small ones, so
that the files are small.
"""

from __future__ import annotations

import ctypes
import json
import platform
import subprocess
import sys
import tempfile
import types
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import PIL.Image
import torch
from torch import nn

# The folder above, and not this one: its files have the names of packages.
sys.path.pop(0)
sys.path.insert(0, str(Path(__file__).parents[1]))
from recorded_case import RecordedCase, RecordedPicture, picture

COMMIT = "65e6310"
CLASSES = 3
PICTURES = ((1, 150, 210), (2, 240, 160), (6, 97, 131))
# The seeds of the models are those with which no IoU is so near to the threshold of NMS, and no score so near to the
# last one kept, that the rounding of the resize to gray levels decides.
CASES: dict[str, dict[str, Any]] = {
    "default": {"seed": 60, "setting": "default anchors, resize 160 to 333", "resize": (160, 333)},
    "strict": {
        "seed": 31,
        "setting": "score 0.2, 60 pairs a level, NMS 0.3, 25 boxes, resize 200 to 256",
        "resize": (200, 256),
        "config": {"threshold": 0.2, "top_n": 60, "nms": 0.3, "detections": 25},
        "options": {"score_threshold": 0.2, "top_k": 60, "nms_iou_threshold": 0.3, "max_detections": 25},
    },
    "anchors": {
        "seed": 62,
        "setting": "2 ratios x 2 scales x 5 angles",
        "resize": (128, 256),
        "model": {"ratios": [1.0, 3.0], "scales": [3.0, 5.0], "angles": [-1.0, -0.5, 0.0, 0.5, 1.0]},
    },
}

_DECODE = """
#include <algorithm>
#include <cmath>
#include <cstddef>
struct float2 { float x, y; };
struct float4 { float x, y, z, w; };
static float2 make_float2(float x, float y) { return {x, y}; }
static float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
#define __host__
#define __device__
#define __global__
#define __syncthreads()
using std::abs; using std::exp; using std::isnan; using std::max; using std::min;
static const struct { int x; } threadIdx = {0};
%(float6)s
extern "C" void decode_box(int i, const float* in_boxes, float* anchors_d, size_t height, size_t width,
                           size_t scale, size_t num_anchors, size_t num_classes, float* out, int* out_class) {
  const bool has_anchors = true;
%(decode)s
  const float values[6] = {box.x1, box.y1, box.x2, box.y2, box.s, box.c};
  std::copy(values, values + 6, out);
  *out_class = cls;
}
%(nms)s
extern "C" void suppress(float threshold, int count, const int* indices, float* scores, const float* classes,
                         const float* boxes) {
  nms_rotate_kernel(count, threshold, count, indices, scores, classes, reinterpret_cast<const float6*>(boxes));
}
"""


def between(text: str, start: str, end: str) -> str:
    return text[text.index(start) : text.index(end)]


class HostKernels:
    """ODTK's decoding and NMS of rotated boxes, compiled for the CPU."""

    def __init__(self, odtk: Path, folder: Path) -> None:
        cuda = odtk / "csrc" / "cuda"
        utils, decode, nms = ((cuda / name).read_text() for name in ("utils.h", "decode_rotate.cu", "nms_iou.cu"))
        body = between(decode, "int x = i % width;", "return thrust::make_tuple(in_scores[i], box, cls);")
        source = _DECODE % {
            "float6": between(utils, "struct float6", "template <typename T>"),
            "decode": body,
            "nms": between(nms, "constexpr int   kTPB", "namespace odtk")
            + between(nms, "class Vector {", "int nms_rotate(int batch_size").replace("__syncthreads( )", ""),
        }
        (folder / "odtk.cpp").write_text(source)
        library = folder / "odtk.so"
        flags = ["-O1", "-std=c++17", "-ffp-contract=off", "-w", "-shared", "-fPIC"]
        subprocess.run(["g++", *flags, str(folder / "odtk.cpp"), "-o", str(library)], check=True)
        self._library = ctypes.CDLL(str(library))

    def decode(
        self, scores: Any, deltas: Any, stride: int, threshold: float, top_n: int, anchors: Any, rotated: bool
    ) -> tuple[Any, Any, Any]:
        """As `decode` of odtk/box.py."""
        assert rotated
        base = np.ascontiguousarray(anchors[0].numpy(), np.float32)
        batch, channels, height, width = scores.shape
        found = torch.zeros(batch, top_n), torch.zeros(batch, top_n, 6), torch.zeros(batch, top_n)
        for image in range(batch):
            flat = scores[image].reshape(-1).numpy()
            own = np.ascontiguousarray(deltas[image].numpy(), np.float32)
            kept = np.flatnonzero(flat > np.float32(threshold))
            if len(kept) > top_n:
                kept = kept[np.argsort(-flat[kept], kind="stable")][:top_n]
            for place, index in enumerate(kept.tolist()):
                box, class_id = np.zeros(6, np.float32), ctypes.c_int()
                sizes = (height, width, stride, len(base), channels // len(base))
                self._library.decode_box(
                    index,
                    _floats(own),
                    _floats(base),
                    *map(ctypes.c_size_t, sizes),
                    _floats(box),
                    ctypes.byref(class_id),
                )
                found[0][image, place], found[2][image, place] = float(flat[index]), class_id.value
                found[1][image, place] = torch.from_numpy(box)
        return found

    def nms(self, scores: Any, boxes: Any, classes: Any, threshold: float, detections: int) -> tuple[Any, Any, Any]:
        """As `nms_rotated` of odtk/box.py."""
        batch = len(scores)
        found = torch.zeros(batch, detections), torch.zeros(batch, detections, 6), torch.zeros(batch, detections)
        for image in range(batch):
            own = [np.ascontiguousarray(values[image].numpy(), np.float32) for values in (scores, boxes, classes)]
            indices = np.flatnonzero(own[0] > 0)
            indices = indices[np.argsort(-own[0][indices], kind="stable")].astype(np.int32)
            left = np.ascontiguousarray(own[0][indices])
            self._library.suppress(
                ctypes.c_float(threshold),
                len(indices),
                indices.ctypes.data_as(ctypes.c_void_p),
                _floats(left),
                _floats(own[2]),
                _floats(own[1]),
            )
            order = np.argsort(-left, kind="stable")[:detections]
            for values, kept in zip(found, (left[order], own[1][indices[order]], own[2][indices[order]]), strict=True):
                values[image, : len(order)] = torch.from_numpy(kept)
        return found


def _floats(array: Any) -> Any:
    return array.ctypes.data_as(ctypes.c_void_p)


class TinyPyramid(nn.Module):
    """Five levels of few channels, in the place of ODTK's FPN."""

    stride = 128

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.features = types.SimpleNamespace(unused_modules=[])
        self.means = nn.Conv2d(3, 3, 8, stride=4, padding=2, bias=False)  # Of 8 x 8 pixels.
        self.stem = nn.Conv2d(3, channels, 3, padding=1)
        self.down = nn.ModuleList(nn.Conv2d(channels, channels, 3, stride=2, padding=1) for _ in range(5))

    def forward(self, x: Any) -> list[Any]:
        x = torch.tanh(self.stem(self.means(x)))
        levels = []
        for layer in self.down:
            x = torch.tanh(layer(x))
            levels.append(x)
        return levels


def small_model(odtk: Any, case: dict[str, Any]) -> Any:
    torch.manual_seed(case["seed"])
    channels = 8
    odtk.backbones.Tiny = lambda: TinyPyramid(channels)
    model = odtk.model.Model("Tiny", CLASSES, rotated_bbox=True, config=case.get("config", {}), **case.get("model", {}))

    def head(outputs: int) -> Any:
        layers = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.Tanh())
        return layers.append(nn.Conv2d(channels, outputs, 3, padding=1))

    model.cls_head, model.box_head = head(CLASSES * model.num_anchors), head(6 * model.num_anchors)
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=(1.5 / layer.weight[0].numel()) ** 0.5)
                if layer.bias is not None:
                    nn.init.normal_(layer.bias, std=0.1)
        # Means: a gray level in the resize has no large effect.
        model.backbones["Tiny"].means.weight.copy_(torch.eye(3)[:, :, None, None].expand(3, 3, 8, 8) / 250)
        model.cls_head[-1].weight.mul_(1.6)
        model.cls_head[-1].bias.copy_(torch.randn(CLASSES * model.num_anchors) - 4.2)
        model.box_head[-1].weight.mul_(0.15)
        direction = torch.rand(model.num_anchors) * 6.28
        bias = model.box_head[-1].bias.view(-1, 6)
        bias[:, :4] = 0.15 * torch.randn(model.num_anchors, 4)
        bias[:, 4], bias[:, 5] = direction.sin(), direction.cos()
    return model.eval()


def infer(odtk: Any, model: Any, folder: Path, resize: tuple[int, int]) -> list[RecordedPicture]:
    """Runs ODTK's `infer` on picture files."""
    images = []
    for seed, height, width in PICTURES:
        PIL.Image.fromarray(picture(seed, height, width)).save(folder / f"{seed}.png")
        images.append({"id": seed, "file_name": f"{seed}.png"})
    annotations, output = folder / "images.json", folder / "found.json"
    annotations.write_text(json.dumps({"images": images}))
    odtk.infer.infer(
        model, str(folder), [str(output)], resize[0], resize[1], 1, mixed_precision=False, annotations=str(annotations),
        world=1, use_dali=False, rotated_bbox=True,
    )  # fmt: skip
    found = json.loads(output.read_text())["annotations"]
    return [recorded([item for item in found if item["image_id"] == size[0]], *size) for size in PICTURES]


def recorded(found: list[dict[str, Any]], seed: int, height: int, width: int) -> RecordedPicture:
    """ODTK's boxes as (center x, center y, width, height, angle): those of its "segmentation".

    ODTK turns the pixel centers of the corners, so a box is one pixel smaller than the width and height of its "bbox".
    The sides of a box outside of the image are negative there; the corners are the same with positive ones.
    """
    boxes = []
    for item in found:
        x, y, w, h, theta = item["bbox"]
        boxes.append([x + (w - 1) / 2, y + (h - 1) / 2, abs(w - 1), abs(h - 1), theta])
        right, down = boxes[-1][2] / 2, boxes[-1][3] / 2
        turned = [
            (boxes[-1][0] + a * np.cos(theta) - b * np.sin(theta), boxes[-1][1] + a * np.sin(theta) + b * np.cos(theta))
            for a, b in ((-right, -down), (-right, down), (right, down), (right, -down))
        ]
        own = np.array(item["segmentation"]).reshape(4, 2)
        assert np.abs(np.sort(np.array(turned), axis=0) - np.sort(own, axis=0)).max() < 1e-2, "the corners differ"
    scores, classes = ([item[key] for item in found] for key in ("score", "category_id"))
    return RecordedPicture.of(seed, height, width, np.array(boxes).reshape(-1, 5), scores, classes)


def export(model: Any, path: Path, size: tuple[int, int]) -> None:
    """As `Model.export` of ODTK: its forward pass for export, its names. Height and width are dynamic, too."""
    model.exporting = True
    names = [f"{kind}_{level}" for kind in ("score", "box") for level in range(1, 6)]
    axes = {name: {0: "batch", 2: "height", 3: "width"} for name in ("input_1", *names)}
    torch.onnx.export(
        model, torch.zeros(1, 3, *size), str(path), opset_version=12, input_names=["input_1"], output_names=names,
        dynamic_axes=axes, dynamo=False,
    )  # fmt: skip
    model.exporting = False


def import_odtk(source: Path, kernels: HostKernels) -> Any:
    """Imports ODTK without its compiled module, apex and DALI, which nothing here needs."""
    for name in ("apex", "apex.parallel", "odtk.dali", "odtk._C", "requests"):
        sys.modules[name] = types.ModuleType(name)
    sys.modules["apex"].amp = sys.modules["apex.parallel"].DistributedDataParallel = object  # type: ignore[attr-defined]
    sys.modules["odtk.dali"].DaliDataIterator = object  # type: ignore[attr-defined]
    for name in ("Engine", "decode", "iou", "nms"):
        setattr(sys.modules["odtk._C"], name, None)
    sys.path.insert(0, str(source))
    # Names that newer versions of torchvision and Pillow have no more.
    import torchvision.models as vision

    for module in (vision.resnet, vision.mobilenet):
        module.model_urls = dict.fromkeys(
            ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "mobilenet_v2")
        )
        module.model_urls |= dict.fromkeys(("resnext50_32x4d", "resnext101_32x8d"))
    resize = PIL.Image.Image.resize
    PIL.Image.Image.resize = lambda self, size, *rest: resize(self, tuple(size), *rest)  # type: ignore[assignment]
    import odtk.backbones
    import odtk.infer
    import odtk.model

    odtk.model.decode, odtk.model.nms_rotated = kernels.decode, kernels.nms
    return odtk


def rotated_anchors(odtk: Any, model: Any, stride: int) -> list[list[float]]:
    """ODTK's anchors as (center x, center y, width, height, angle); it counts the last pixel as inside."""
    x1, y1, x2, y2 = odtk.box.generate_anchors_rotated(stride, model.ratios, model.scales, model.angles)[0].double().T
    width, height = x2 - x1 + 1, y2 - y1 + 1
    angles = torch.tensor(model.angles).double().repeat_interleave(len(x1) // len(model.angles))
    return torch.stack([x1 + width / 2, y1 + height / 2, width, height, angles], dim=1).tolist()


def main(source: Path) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        odtk = import_odtk(source, HostKernels(source, folder))
        for case_name, case in CASES.items():
            model = small_model(odtk, case)
            images = folder / case_name
            images.mkdir()
            pictures = infer(odtk, model, images, case["resize"])
            print(case_name, [len(item.boxes) for item in pictures])
            shortest, longest = case["resize"]
            options = {"flavour": "odtk-rotated", "resize": f"shortest:{shortest},{longest}", **case.get("options", {})}
            if "model" in case:
                options["base_anchors"] = [rotated_anchors(odtk, model, 8 << level) for level in range(5)]
            recording = RecordedCase(
                framework="odtk-rotated",
                version=COMMIT,
                setting=case["setting"],
                recorded_by="tests/support/record/odtk_rotated.py",
                pictures=pictures,
                options=options,
                environment={
                    "python": platform.python_version(),
                    "torch": torch.__version__,
                    "pillow": PIL.__version__,
                    "numpy": np.__version__,
                },
            )
            path = recording.write(case_name)
            export(model, path.with_suffix(".onnx"), (256, 256))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
