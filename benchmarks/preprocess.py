"""The network's input from the same image by retinasdk, and with the library of a framework, one thread each.

    python benchmarks/preprocess.py [--sizes 1080x1920 480x640] [--rounds N]

detectron2 resizes with Pillow, mmdetection with OpenCV, torchvision with PyTorch. The rest of their preprocessing is
written with NumPy, OpenCV or PyTorch, as the framework does it: normalization, channels first, padding with zeros. The
results are compared. Then a frame of a camera or decoder, in NV12, is converted to RGB, as OpenCV does. Peers that are
not installed are left out.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from importlib.metadata import packages_distributions
from importlib.util import find_spec

import numpy as np
import numpy.typing as npt
from PIL import Image
from timing import interleave, print_machine, print_ratio, print_times

from retinasdk import _native
from retinasdk.convert.flavours import flavour_spec
from retinasdk.pipeline.preprocess import Transform, preprocess
from retinasdk.spec import ModelSpec

Pixels = npt.NDArray[np.uint8]
Tensor = npt.NDArray[np.float32]
Call = Callable[[], Tensor]


def noise(height: int, width: int) -> Pixels:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def padded(image: Tensor, size: tuple[int, int]) -> Tensor:
    """(3, h, w) to (1, 3, *size), with zeros at the right and at the bottom."""
    canvas = np.zeros((1, 3, *size), np.float32)
    canvas[0, :, : image.shape[1], : image.shape[2]] = image
    return canvas


def in_order(image: Pixels, spec: ModelSpec) -> Pixels:
    return image[..., ::-1] if spec.normalise.channels == "BGR" else image


def with_pillow(image: Pixels, spec: ModelSpec, transform: Transform) -> Tensor:
    resized = np.asarray(Image.fromarray(image).resize(transform.resized[::-1], Image.Resampling.BILINEAR))
    pixels = in_order(resized, spec).astype(np.float32).transpose(2, 0, 1)
    mean, std = (np.array(values, np.float32)[:, None, None] for values in (spec.normalise.mean, spec.normalise.std))
    return padded((pixels - mean) / std, transform.padded)


def with_opencv(image: Pixels, spec: ModelSpec, transform: Transform) -> Tensor:
    import cv2

    resized = cv2.resize(image, transform.resized[::-1], interpolation=cv2.INTER_LINEAR)
    pixels = in_order(resized, spec).astype(np.float32)
    cv2.subtract(pixels, np.array(spec.normalise.mean, np.float64)[None], pixels)
    cv2.multiply(pixels, 1 / np.array(spec.normalise.std, np.float64)[None], pixels)
    return padded(pixels.transpose(2, 0, 1), transform.padded)


def with_torch(image: Pixels, spec: ModelSpec, transform: Transform) -> Tensor:
    """Normalizes before the resize, as torchvision does."""
    import torch

    with torch.inference_mode():
        pixels = torch.from_numpy(image).permute(2, 0, 1).contiguous().to(torch.float32)
        mean, std = (torch.tensor(values)[:, None, None] for values in (spec.normalise.mean, spec.normalise.std))
        normalized = ((pixels - mean) / std)[None]
        resized = torch.nn.functional.interpolate(normalized, transform.resized, mode="bilinear", align_corners=False)
        return padded(resized[0].numpy(), transform.padded)


PEERS = {
    "detectron2": ("Pillow", "PIL", with_pillow),
    "mmdet": ("OpenCV", "cv2", with_opencv),
    "torchvision": ("PyTorch", "torch", with_torch),
}


def measure(flavour: str, image: Pixels, rounds: int) -> None:
    """Prints the times for one image, and how far the results differ."""
    library, module, theirs = PEERS[flavour]
    if find_spec(module) is None:
        return
    spec = flavour_spec(flavour)
    transform = Transform.plan((image.shape[0], image.shape[1]), spec)
    calls: dict[str, Call] = {
        "retinasdk": lambda: preprocess([image], [transform], spec).tensor,
        library: lambda: theirs(image, spec, transform),
    }
    difference = np.abs(calls["retinasdk"]() - calls[library]()).max()
    (height, width), (new_height, new_width) = transform.original, transform.padded
    print(f"\n{flavour}: {height} x {width} to {new_height} x {new_width}; they differ by at most {difference:.1e}")
    times = interleave(calls, rounds=rounds)
    print_times(times)
    print_ratio(times, library, "retinasdk", target="above 1")


def measure_frame(height: int, width: int, rounds: int) -> None:
    """Prints the times to convert a frame from NV12 to RGB, by BT.601 with video range."""
    import cv2

    # Within the video range. OpenCV also limits luma before the conversion, which changes colors that do not exist.
    luma, chroma = noise(height, width)[..., 0] % 220 + 16, noise(height // 2, width // 2)[..., :2] % 225 + 16
    calls: dict[str, Callable[[], Pixels]] = {
        "retinasdk": lambda: _native.yuv_to_rgb(luma, chroma, matrix="bt601", full_range=False),
        "OpenCV": lambda: cv2.cvtColorTwoPlane(luma, chroma, cv2.COLOR_YUV2RGB_NV12),
    }
    difference = np.abs(calls["retinasdk"]().astype(int) - calls["OpenCV"]()).max()
    print(f"\nNV12 to RGB: {height} x {width}; they differ by at most {difference} gray levels")
    times = interleave(calls, rounds=rounds)
    print_times(times)
    print_ratio(times, "OpenCV", "retinasdk", target="above 1")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=("1080x1920", "480x640"), help="height x width of the images")
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    if find_spec("torch"):
        import torch

        torch.set_num_threads(1)
    if find_spec("cv2"):
        import cv2

        cv2.setNumThreads(1)
    packages = packages_distributions()  # OpenCV has several.
    print_machine("retinasdk", "numpy", *(packages[module][0] for _, module, _ in PEERS.values() if module in packages))
    for size in arguments.sizes:
        height, width = map(int, size.split("x"))
        for flavour in PEERS:
            measure(flavour, noise(height, width), arguments.rounds)
        if find_spec("cv2"):
            measure_frame(height, width, arguments.rounds)


if __name__ == "__main__":
    main()
