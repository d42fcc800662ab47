"""Builds retinasdk._native by one call of CMake; metadata is in pyproject.toml, compiler flags in CMakeLists.txt."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pybind11
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext


class CMakeBuild(build_ext):  # type: ignore[misc]
    """Configures, builds and installs the CMake project into the place where setuptools wants the extension."""

    def build_extension(self, ext: Extension) -> None:
        source = Path(__file__).parent.resolve()
        build = Path(self.build_temp).resolve()
        prefix = Path(self.get_ext_fullpath(ext.name)).parent.parent.resolve()
        build.mkdir(parents=True, exist_ok=True)
        configure = [
            "cmake",
            "--fresh",  # pip's build environment, and Ninja in it, lies elsewhere each time
            f"-S{source}",
            f"-B{build}",
            "-GNinja",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
            f"-DCMAKE_INSTALL_PREFIX={prefix}",
            *os.environ.get("RETINASDK_CMAKE_ARGS", "").split(),
        ]
        subprocess.run(configure, check=True)
        subprocess.run(["cmake", "--build", str(build), "--target", "install"], check=True)

    def copy_extensions_to_source(self) -> None:
        """For editable installs: also what CMake installed besides `_native`, which setuptools does not know of."""
        super().copy_extensions_to_source()
        package = Path(self.get_ext_fullpath(self.extensions[0].name)).parent
        for built in (Path(self.build_lib) / "retinasdk").glob("_*"):
            if built.suffix in (".so", ".pyd", ".dll"):
                shutil.copy2(built, package / built.name)


setup(ext_modules=[Extension("retinasdk._native", sources=[])], cmdclass={"build_ext": CMakeBuild})
