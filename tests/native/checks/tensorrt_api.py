"""Every name of TensorRT's API that the stand-ins offer exists in the real bindings of that version.

The tests run the SDK over stand-ins (tests/support/fakes), which offer nothing else; so no name that the SDK uses is
missing in a version that it claims. NVIDIA's bindings come from PyPI without TensorRT's libraries, for which empty ones
stand in: nothing can be run, but everything can be asked for.

    python tests/native/checks/tensorrt_api.py FOLDER
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "support"))

from fakes import fake_gpu
from random_retinanet import random_retinanet

from retinasdk.cuda.device import CudaDevice

# (PyPI's package, version, the library's major number)
RELEASES = (
    ("tensorrt_cu12_bindings", "10.3.0", 10),
    ("tensorrt_cu12_bindings", "10.13.3.9", 10),
    ("tensorrt_cu12_bindings", "10.16.1.11", 10),
    ("tensorrt_cu13_bindings", "11.4.0.106", 11),
)
ENUMS = ("NetworkDefinitionCreationFlag", "BuilderFlag", "MemoryPoolType", "TensorIOMode", "TensorFormat", "DataType")
SYMBOLS = (
    "createInferBuilder_INTERNAL createInferRefitter_INTERNAL createInferRuntime_INTERNAL getPluginRegistry "
    "createNvOnnxParserRefitter_INTERNAL createNvOnnxParser_INTERNAL getBuilderPluginRegistry getNvOnnxParserVersion "
    "initLibNvInferPlugins"
)

# Runs beside the real bindings: prints what is missing.
ASK = """
import json, sys
import tensorrt_bindings as trt
missing, offered = [], json.load(sys.stdin)
for kind, names in offered["classes"].items():
    found = getattr(trt, kind, None)
    missing += [kind] if found is None else [f"{kind}.{name}" for name in names if not hasattr(found, name)]
for kind, members in offered["enums"].items():
    for name, value in members.items():
        member = getattr(getattr(trt, kind, None), name, None)
        if member is None or (value is not None and int(member) != value):
            missing.append(f"{kind}.{name} = {member}")
print(json.dumps({"version": trt.__version__, "missing": missing}))
"""


def offered(version: str) -> dict[str, Any]:
    """Public names by the real class's name, and members of enumerations with the values that matter."""
    with fake_gpu(tensorrt=version):
        trt: Any = sys.modules["tensorrt"]
        context = CudaDevice()
        with context.current():
            names = {kind: public(thing) for kind, thing in objects(trt).items()}
        context.close()
        enums: dict[str, Any] = {kind: {member.name: None for member in getattr(trt, kind)} for kind in ENUMS}
        flags = trt.NetworkDefinitionCreationFlag
        enums["NetworkDefinitionCreationFlag"] = {member.name: int(member) for member in flags}
    names["IProgressMonitor"] = ["phase_start", "step_complete", "phase_finish"]  # what the SDK's own overrides
    return {"classes": names, "enums": enums}


def public(thing: Any) -> list[str]:
    return [name for name in dir(thing) if not name.startswith("_")]


def objects(trt: Any) -> dict[str, Any]:
    """One of each kind that the SDK meets."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        def log(self, severity: Any, message: str) -> None:
            pass

    builder, runtime = trt.Builder(Logger()), trt.Runtime(Logger())
    network, config = builder.create_network(0), builder.create_builder_config()
    parser = trt.OnnxParser(network, Logger())
    assert not parser.parse(b"rubbish")
    error = parser.get_error(0)
    shape = (1, 3, 64, 64)
    assert parser.parse(random_retinanet()[0].SerializeToString())
    profile = builder.create_optimization_profile()
    profile.set_shape("images", shape, shape, shape)
    config.add_optimization_profile(profile)
    engine = runtime.deserialize_cuda_engine(builder.build_serialized_network(network, config))
    return {
        "ILogger": trt.ILogger,
        "Builder": builder,
        "INetworkDefinition": network,
        "ITensor": network.get_input(0),
        "OnnxParser": parser,
        "ParserError": error,
        "IOptimizationProfile": profile,
        "IBuilderConfig": config,
        "ITimingCache": config.create_timing_cache(b""),
        "IExecutionContext": engine.create_execution_context(),
        "ICudaEngine": engine,
        "Runtime": runtime,
    }


def fetch(package: str, version: str, folder: Path) -> Path:
    """The bindings, unpacked, and empty libraries of the names that they want."""
    place = folder / f"{package}-{version}"
    if not place.is_dir():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(place)]
        subprocess.run([*pip, f"{package}=={version}"], check=True)
    return place


def empty_libraries(major: int, folder: Path) -> Path:
    place = folder / f"empty-{major}"
    place.mkdir(parents=True, exist_ok=True)
    source = place / "empty.c"
    source.write_text("".join(f"void* {symbol}(void) {{ return 0; }}\n" for symbol in SYMBOLS.split()))
    for name in ("nvinfer", "nvinfer_plugin", "nvonnxparser"):
        library = f"lib{name}.so.{major}"
        gcc = ["gcc", "-shared", "-fPIC", f"-Wl,-soname,{library}", "-o", str(place / library), str(source)]
        subprocess.run(gcc, check=True)
    return place


def main() -> None:
    """Command line."""
    folder = Path(sys.argv[1]).resolve()
    failed = False
    for package, version, major in RELEASES:
        bindings, libraries = fetch(package, version, folder), empty_libraries(major, folder)
        asked = offered(version)
        answer = subprocess.run(
            [sys.executable, "-c", ASK],
            input=json.dumps(asked),
            env={**os.environ, "PYTHONPATH": str(bindings), "LD_LIBRARY_PATH": str(libraries)},
            capture_output=True,
            text=True,
            check=False,
        )
        if answer.returncode != 0:
            sys.exit(f"{package} {version} cannot be imported:\n{answer.stderr}")
        told = json.loads(answer.stdout)
        count = sum(map(len, asked["classes"].values())) + sum(map(len, asked["enums"].values()))
        print(f"TensorRT {told['version']}: {count} names asked for, missing: {told['missing'] or 'none'}")
        failed |= bool(told["missing"])
    sys.exit(failed)


if __name__ == "__main__":
    main()
