"""The table of which TensorRT runs on which GPU, and which one to install for a GPU.

The table says "unknown" wherever nobody has said or shown it: then TensorRT itself decides. Sources, read in November
2026, by the marks that the rows carry:

- [RTX]: the support matrices of TensorRT for RTX 1.0, 1.1, 1.4 and 1.5, docs.nvidia.com/deeplearning/tensorrt-rtx. They
  list 7.5, 8.6, 8.9 and 12.0, and from 1.5 on 12.1.
- [builder]: the builder of TensorRT for RTX 1.7.1 accepts 7.5, 8.0, 8.6, 8.9, 12.0 and 12.1 as targets. It refuses 7.2,
  8.7, 9.0, 10.0, 10.1, 10.3 and 11.0. Run without a GPU. Its Python names are the same from 1.4 on, but for 12.1.
- [H200]: TensorRT for RTX 1.7.1 did not run on an H200 (9.0), and TensorRT 8.5.3 built an engine there.
- [8.x]: the support matrices of TensorRT 8.5.3 and 8.6.1, whose newest GPU is 9.0.
- [10.1]: the support matrix of TensorRT 10.1, "SM 7.0 or higher".
- [10.5]: its release notes end the support of 7.0. TensorRT-LLM issue 2400 shows the error on a V100.
- [10.7]: this version answers "SM 120 is not supported by this TensorRT release" (tita_rl_sim2sim2real issue 7).
- [10.8]: the changelog of github.com/NVIDIA/TensorRT adds SM 100 and SM 120.
- [11.1]: CMakeLists.txt of github.com/NVIDIA/TensorRT compiles for 7.5, 8.0, 8.6, 8.9, 9.0, 10.0, 11.0 and 12.0, and
  runs the kernels of 10.0 on 10.3 and those of 12.0 on 12.1.
- [B300]: TensorRT-Edge-LLM issue 206 uses TensorRT 10.13.2 on a B300 (10.3).
- [GB10]: Triton pull request 8860: 10.16.1 builds on a GB10 (12.1), where an earlier version lacked convolutions.
- [JetPack]: the TensorRT of each JetPack: 8.5.2 for Xavier and Orin, 8.6.2 and 10.3 for Orin, 10.13.3 for Thor, 10.16.2
  for Orin and Thor. TensorRT 11.4.0 has no support for JetPack; 11.4.1 has it again.
- [DRIVE]: the TensorRT 10.10.10 of DRIVE OS 7.0.3 supports 10.1, the Thor of CUDA 12.
"""

from __future__ import annotations

import re

Chip = tuple[int, int]  # compute capability
_Version = tuple[int, ...]
_Steps = tuple[tuple[_Version, bool | None], ...]

_ALWAYS: _Steps = (((8, 5), True),)
_NEVER: _Steps = (((1, 0), False),)

# For each GPU the answers in the order of versions: each holds from its version on, until the next.
_STEPS: dict[str, dict[Chip, _Steps]] = {
    "tensorrt": {
        (7, 0): (((8, 5), True), ((10, 5), False)),  # [8.x] [10.1] [10.5]
        (7, 2): (((8, 5), True), ((8, 6), None), ((10, 5), False)),  # [JetPack] [10.5]
        (7, 5): _ALWAYS,  # [8.x] [10.1] [11.1]
        (8, 0): _ALWAYS,
        (8, 6): _ALWAYS,
        (8, 7): (((8, 5), True), ((10, 4), None), ((10, 16), True), ((11, 0), None), ((11, 4, 1), True)),  # [JetPack]
        (8, 9): _ALWAYS,  # [8.x] [10.1] [11.1]
        (9, 0): _ALWAYS,  # the same, and [H200]
        (10, 0): (((8, 5), False), ((10, 8), True)),  # [8.x] [10.8] [11.1]
        (10, 1): (((8, 5), False), ((10, 8), None)),  # [8.x]; True only for the one of [DRIVE]
        (10, 3): (((8, 5), False), ((10, 8), None), ((10, 13), True)),  # [8.x] [B300] [11.1]
        (11, 0): (((8, 5), False), ((10, 8), None), ((10, 13), True)),  # [8.x] [JetPack] [11.1]
        (12, 0): (((8, 5), False), ((10, 8), True)),  # [8.x] [10.7] [10.8] [11.1]
        (12, 1): (((8, 5), False), ((10, 8), None), ((10, 16), True)),  # [8.x] [GB10] [11.1]
    },
    "tensorrt_rtx": {
        (7, 0): _NEVER,  # [RTX]
        (7, 2): _NEVER,  # [RTX] [builder], as all of them below
        (7, 5): (((1, 0), True),),
        (8, 0): (((1, 0), None),),  # no matrix lists it, but the builder accepts it
        (8, 6): (((1, 0), True),),
        (8, 7): _NEVER,
        (8, 9): (((1, 0), True),),
        (9, 0): _NEVER,  # and [H200]
        (10, 0): _NEVER,
        (10, 1): _NEVER,
        (10, 3): _NEVER,
        (11, 0): _NEVER,
        (12, 0): (((1, 0), True),),
        (12, 1): (((1, 0), False), ((1, 5), True)),
    },
}
_NEWEST_KNOWN = {"tensorrt": (11, 4), "tensorrt_rtx": (1, 7)}

# On these boards, TensorRT comes with JetPack and not from pip.
_JETSONS = {
    (7, 2): "JetPack 5 with its TensorRT 8.5, the last one for this board",
    (8, 7): "the TensorRT of its JetPack",
    (11, 0): "the TensorRT of JetPack 7",
}


def runs_on(product: str, version: str | None, chip: Chip) -> bool | None:
    """Returns whether a TensorRT runs on a GPU, as far as it is known.

    Args:
        product: "tensorrt", or "tensorrt_rtx" for TensorRT for RTX.
        version: Its version, for example "10.3.0". None: unknown.
        chip: Compute capability of the GPU.

    Returns:
        True or False, or None if it is unknown.

    Example:
        >>> runs_on("tensorrt_rtx", "1.7.1", (9, 0)), runs_on("tensorrt", "10.13.3", (9, 0))
        (False, True)
    """
    numbers = tuple(int(number) for number in re.findall(r"\d+", version or "")[:3])
    if not numbers or numbers[:2] > _NEWEST_KNOWN[product]:
        return None
    answers = [answer for first, answer in _STEPS[product].get(chip, ()) if first <= numbers]
    return answers[-1] if answers else None


def how_to_install(chip: Chip, cuda: str | None) -> str:
    """Returns how to install a TensorRT that runs on a GPU, as an imperative without a full stop.

    Args:
        chip: Compute capability of the GPU.
        cuda: Version of CUDA that the driver supports, for example "12.6". None: unknown.

    Example:
        >>> how_to_install((12, 0), "13.0")
        "install TensorRT with: pip install 'tensorrt-cu13>=10.8'"
    """
    if chip in _JETSONS:
        return f"install {_JETSONS[chip]}: sudo apt install python3-libnvinfer"
    major = (cuda or "").partition(".")[0]
    package = f"tensorrt-cu{major}" if major in ("12", "13") else "tensorrt"
    return f"install TensorRT with: pip install '{package}{_versions_for(chip)}'"


def _versions_for(chip: Chip) -> str:
    """The newest versions of TensorRT that are known to run on the GPU, as pip understands it."""
    steps = _STEPS["tensorrt"].get(chip, ())
    ends = [*(first for first, _ in steps[1:]), None]
    spans = [(first, end) for (first, answer), end in zip(steps, ends, strict=False) if answer]
    if not spans:
        return ""
    first, end = spans[-1]
    limits = [">=" + _dotted(first)] if first > (8, 5) else []
    return ",".join([*limits, *(["<" + _dotted(end)] if end else [])])


def _dotted(version: _Version) -> str:
    return ".".join(map(str, version))
