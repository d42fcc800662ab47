"""Builds the C++ modules with CMake. Metadata is in pyproject.toml, compiler flags are in CMakeLists.txt."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pybind11
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext


class CMakeBuild(build_ext):  # type: ignore[misc]
    """Configures and builds the CMake project, and installs it where setuptools expects the extension."""

    def build_extension(self, ext: Extension) -> None:
        """Builds all modules of the CMake project. RETINASDK_CMAKE_ARGS adds arguments to the call of CMake."""
        source = Path(__file__).parent.resolve()
        build = Path(self.build_temp).resolve()
        prefix = Path(self.get_ext_fullpath(ext.name)).parent.parent.resolve()
        build.mkdir(parents=True, exist_ok=True)
        configure = [
            "cmake",
            "--fresh",  # The path of pip's build environment, with Ninja in it, changes with each build.
            f"-S{source}",
            f"-B{build}",
            "-GNinja",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
            f"-DCMAKE_INSTALL_PREFIX={prefix}",
            *os.environ.get("RETINASDK_CMAKE_ARGS", "").split(),
        ]
        # CMake is that of the build requirements, which pip puts first on the PATH.
        subprocess.run(configure, check=True)
        subprocess.run(["cmake", "--build", str(build)], check=True)  # nosec B607
        # Without the C++ package (headers, static libraries), which a wheel must not contain.
        subprocess.run(["cmake", "--install", str(build), "--component", "python"], check=True)  # nosec B607

    def copy_extensions_to_source(self) -> None:
        """Copies also the modules that only CMake knows, such as `_native_cuda`, for editable installs."""
        super().copy_extensions_to_source()
        package = Path(self.get_ext_fullpath(self.extensions[0].name)).parent
        for built in (Path(self.build_lib) / "retinasdk").glob("_*"):
            if built.suffix in (".so", ".pyd", ".dll"):
                shutil.copy2(built, package / built.name)


setup(ext_modules=[Extension("retinasdk._native", sources=[])], cmdclass={"build_ext": CMakeBuild})
