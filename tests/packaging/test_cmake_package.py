"""The installed C++ package: programs are built against it by CMake and pkg-config, static and shared, after a move."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from libretinasdk import onnxruntime_library
from paths import EXAMPLES, PHOTOS, ROOT
from PIL import Image

from retinasdk import Detector, list_models

TOOLS = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
pytestmark = [
    pytest.mark.heavy,
    pytest.mark.skipif(shutil.which("cmake", path=TOOLS) is None, reason="cmake is not on the PATH"),
    pytest.mark.skipif(sys.platform != "linux", reason="names of libraries are those of Linux"),
]
MAIN = EXAMPLES / "embed_core" / "main.cpp"

# A compiler cache, such as that of .ci/run, has the objects of other builds with these options. Without one, nothing is
# optimized, which would take twice as long.
CACHED = "CMAKE_CXX_COMPILER_LAUNCHER" in os.environ
KIND = "release" if CACHED else "debug"
FLAGS = ("-DRETINASDK_WERROR=ON", f"-DCMAKE_BUILD_TYPE={KIND.title()}", "-DCMAKE_CXX_FLAGS_DEBUG=-O0")

# What libretinasdk needs to be built. Without it, the package has the core only.
JSON_HEADERS = any(Path(folder, "nlohmann/json.hpp").exists() for folder in ("/usr/include", "/usr/local/include"))


def call(*command: str | Path, fails: bool = False, **variables: str) -> str:
    """Runs a program with the tools of this environment, and gives what it prints."""
    environment = {**os.environ, "PATH": TOOLS, "CMAKE_GENERATOR": "Ninja", **variables}
    for name in ("LD_LIBRARY_PATH", "CMAKE_PREFIX_PATH", "PKG_CONFIG_PATH"):
        environment.pop(name, None)
    result = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, check=False)
    assert (result.returncode != 0) == fails, f"{' '.join(map(str, command))}\n{result.stdout}{result.stderr}"
    return result.stdout + result.stderr if fails else result.stdout


def build(source: Path, folder: Path, *options: str) -> None:
    call("cmake", f"-S{source}", f"-B{folder}", "-DCMAKE_EXPORT_COMPILE_COMMANDS=ON", *options)
    call("cmake", "--build", folder)


@pytest.fixture(scope="module")
def install(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """install("static" or "shared") gives the folder with the package, which was moved there after the installation."""
    made: dict[str, Path] = {}

    def run(kind: str) -> Path:
        if kind not in made:
            folder = tmp_path_factory.mktemp(kind)
            shared = "ON" if kind == "shared" else "OFF"
            runtime = "ON" if JSON_HEADERS else "OFF"
            options = (f"-DBUILD_SHARED_LIBS={shared}", "-DRETINASDK_PYTHON=OFF", "-DRETINASDK_CUDA=OFF")
            options += (f"-DRETINASDK_RUNTIME={runtime}",)
            # Other compiler flags than in the programs: a flag that is passed on would be seen.
            build(ROOT, folder / "build", *options, *FLAGS)
            call("cmake", "--install", folder / "build", "--prefix", folder / "first")
            made[kind] = (folder / "first").rename(folder / "moved")
            shutil.rmtree(folder / "build")
        return made[kind]

    return run


@pytest.fixture(scope="module")
def wanted(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What the program prints that was built from the sources. tests/test_examples.py checks it."""
    folder = tmp_path_factory.mktemp("sources")
    build(EXAMPLES / "embed_core", folder, *FLAGS)
    printed = call(folder / "embed_core")
    assert "3 detections" in printed
    return printed


@pytest.mark.parametrize("kind", ["static", "shared"])
def test_programs_find_the_package(install: Callable[[str], Path], wanted: str, kind: str, tmp_path: Path) -> None:
    prefix = install(kind)
    build(EXAMPLES / "embed_core", tmp_path, f"-DCMAKE_PREFIX_PATH={prefix}")
    assert call(tmp_path / "embed_core") == wanted
    assert not (tmp_path / "retinasdk").exists()  # The sources were not used.
    needed = call("readelf", "--dynamic", tmp_path / "embed_core")
    assert ("libretinasdk_core.so.0.1" in needed) == (kind == "shared")
    # Neither warnings nor optimization nor the path of a build folder are passed on.
    commands = (tmp_path / "compile_commands.json").read_text("utf-8")
    assert re.findall(r" -(?:W|f|O|D)[^ ]*", commands) == []


@pytest.mark.skipif(not JSON_HEADERS, reason="needs nlohmann/json: apt install nlohmann-json3-dev libssl-dev")
@pytest.mark.parametrize("kind", ["static", "shared"])
@pytest.mark.parametrize("example", ["embed_c", "embed_cpp"])
def test_detectors_agree_with_python(install: Callable[[str], Path], kind: str, example: str, tmp_path: Path) -> None:
    """Boxes and scores in a photo, to the last bit, from programs with the installed runtime."""
    build(EXAMPLES / example, tmp_path / "build", f"-DCMAKE_PREFIX_PATH={install(kind)}")
    assert not (tmp_path / "build/retinasdk").exists()  # The sources were not used.
    picture = Image.open(PHOTOS / "people" / "astronaut.jpg").convert("RGB")
    picture.save(tmp_path / "photo.ppm")
    model = next(model.path for model in list_models() if model.name == "people")
    program = tmp_path / "build" / example
    score = ["0.3"] if example == "embed_c" else ["--score", "0.3"]
    library = {"RETINASDK_ONNXRUNTIME": str(onnxruntime_library())}
    printed = [
        json.loads(line) for line in call(program, model, tmp_path / "photo.ppm", *score, **library).splitlines()
    ]
    wanted = Detector(model, device="cpu", convolution="direct")(np.asarray(picture), score_threshold=0.3)
    assert [item["label"] for item in printed] == list(wanted.names)
    assert len(printed) > 1
    np.testing.assert_array_equal(np.float32([item["xyxy"] for item in printed]), wanted.xyxy)
    np.testing.assert_array_equal(np.float32([item["score"] for item in printed]), wanted.scores)


@pytest.mark.parametrize("kind", ["static", "shared"])
def test_pkg_config(install: Callable[[str], Path], wanted: str, kind: str, tmp_path: Path) -> None:
    if shutil.which("pkg-config") is None:
        pytest.skip("pkg-config is not on the PATH")
    library = install(kind) / "lib"
    pc = library / "pkgconfig" / "retinasdk-core.pc"
    version = re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text("utf-8"), re.MULTILINE)
    assert version is not None
    assert call("pkg-config", "--modversion", pc) == f"{version[1]}\n"
    options = call("pkg-config", "--cflags", "--libs", *(["--static"] if kind == "static" else []), pc).split()
    call("g++", "-std=c++17", MAIN, "-o", tmp_path / "program", *options, f"-Wl,-rpath,{library}")
    assert call(tmp_path / "program") == wanted


@pytest.mark.parametrize("kind", ["static", "shared"])
def test_installed_files(install: Callable[[str], Path], kind: str) -> None:
    prefix = install(kind)
    files = sorted(path.relative_to(prefix).as_posix() for path in prefix.rglob("*") if not path.is_dir())
    names = ["core", *(["runtime"] if JSON_HEADERS else [])]
    endings = {"static": (".a",), "shared": (".so", ".so.0.1", ".so.0.1.0")}[kind]
    without = {"ops_cuda.h", *([] if JSON_HEADERS else ["retinasdk.h", "detector.hpp"])}
    headers = {path.name for path in (ROOT / "csrc/include/retinasdk").iterdir()} - without
    assert files == sorted(
        [
            *(f"include/retinasdk/{name}" for name in headers),
            *(f"lib/libretinasdk_{name}{ending}" for name in names for ending in endings),
            *(f"lib/cmake/retinasdk/retinasdk-{name}.cmake" for name in ("config", "config-version", "targets")),
            f"lib/cmake/retinasdk/retinasdk-targets-{KIND}.cmake",
            *(f"lib/pkgconfig/retinasdk-{name}.pc" for name in names),
            "share/doc/retinasdk/LICENSE",
        ]
    )
    for name in files:
        content = (prefix / name).read_bytes()
        for path in (prefix.parent, ROOT):
            assert str(path).encode() not in content, f"{name} contains a path of the build"


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ("retinasdk 0.2 CONFIG REQUIRED", "0.2"),
        ("retinasdk CONFIG REQUIRED COMPONENTS core cuda", "built without the component cuda"),
    ],
)
def test_what_is_not_there_is_refused(
    install: Callable[[str], Path], request_: str, message: str, tmp_path: Path
) -> None:
    prefix = install("static")
    (tmp_path / "CMakeLists.txt").write_text(
        f"cmake_minimum_required(VERSION 3.21)\nproject(one CXX)\nfind_package({request_})\n"
    )
    refused = call("cmake", f"-S{tmp_path}", f"-B{tmp_path}/build", f"-DCMAKE_PREFIX_PATH={prefix}", fails=True)
    assert message in " ".join(refused.split())


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not on the PATH")
def test_a_program_in_cpp_links_the_cuda_kernels(tmp_path: Path) -> None:
    """By a C++ compiler alone, which must be told of the CUDA runtime. Without a GPU, it says so."""
    options = ("-DRETINASDK_PYTHON=OFF", "-DRETINASDK_CUDA=ON", "-DRETINASDK_RUNTIME=OFF", *FLAGS)
    # That of the wheel which `make test` builds on a machine without a GPU: a compiler cache has its objects.
    build(ROOT, tmp_path / "package", *options, "-DCMAKE_CUDA_ARCHITECTURES=87")
    call("cmake", "--install", tmp_path / "package", "--prefix", tmp_path / "installed")
    (tmp_path / "CMakeLists.txt").write_text("""
cmake_minimum_required(VERSION 3.21)
project(one CXX)
find_package(retinasdk CONFIG REQUIRED COMPONENTS core cuda)
add_executable(one main.cpp)
target_link_libraries(one PRIVATE retinasdk::cuda)
""")
    (tmp_path / "main.cpp").write_text("""
#include <retinasdk/ops_cuda.h>
#include <cstdio>
int main() {
  std::string reason;
  const int count = retinasdk::cuda::device_count(&reason);
  retinasdk::cuda::DeviceNmsOptions options{};
  options.max_detections = 100;
  std::printf("%d %zu %s", count, retinasdk::cuda::nms_scratch_bytes(1, 1000, options), reason.c_str());
}
""")
    build(tmp_path, tmp_path / "build", f"-DCMAKE_PREFIX_PATH={tmp_path / 'installed'}")
    count, scratch, *reason = call(tmp_path / "build" / "one").split(maxsplit=2)
    assert int(scratch) > 136 * 1024
    assert int(count) > 0 or reason


def test_fetch_content(wanted: str, tmp_path: Path) -> None:
    """In another project: only the library is built, and nothing of retinasdk is set, defined or installed there."""
    shutil.copy(MAIN, tmp_path)
    (tmp_path / "CMakeLists.txt").write_text(f"""
cmake_minimum_required(VERSION 3.21)
project(product VERSION 7.8 LANGUAGES CXX)
include(FetchContent)
get_cmake_property(before VARIABLES)
FetchContent_Declare(retinasdk SOURCE_DIR "{ROOT}")
FetchContent_MakeAvailable(retinasdk)
add_compile_options(-Wall -Werror)
get_cmake_property(after VARIABLES)
list(REMOVE_ITEM after ${{before}} before)
get_property(targets DIRECTORY "{ROOT}" PROPERTY BUILDSYSTEM_TARGETS)
file(WRITE ${{CMAKE_BINARY_DIR}}/left "${{after}}\\n${{targets}}\\n${{PROJECT_VERSION}} ${{CMAKE_BUILD_TYPE}}")
add_executable(product main.cpp)
target_link_libraries(product PRIVATE retinasdk::core)
install(TARGETS product)
""")
    build(tmp_path, tmp_path / "build", "-DRETINASDK_WERROR=ON", "-DRETINASDK_RUNTIME=OFF")
    assert call(tmp_path / "build/product") == wanted
    variables, targets, project = (tmp_path / "build/left").read_text("utf-8").split("\n")
    # And what CMake's own module FindThreads leaves behind.
    known = "(?i)retinasdk|fetchcontent|__|cmake_have_libc_pthread$|find_package_message_details_threads$"
    assert [name for name in variables.split(";") if not re.match(known, name)] == []
    assert targets.split(";") == ["retinasdk_options", "retinasdk_core"]
    assert project == "7.8 "
    (command,) = re.findall(
        r'"command": "([^"]*-c [^"]*main\.cpp)"', (tmp_path / "build/compile_commands.json").read_text()
    )
    assert set(re.findall(r" -[WfOD][^ ]*", command)) == {" -Wall", " -Werror"}
    call("cmake", "--install", tmp_path / "build", "--prefix", tmp_path / "installed")
    files = [path.relative_to(tmp_path / "installed") for path in (tmp_path / "installed").rglob("*") if path.is_file()]
    assert files == [Path("bin/product")]


def test_python_modules_refuse_shared_libraries(tmp_path: Path) -> None:
    options = ("-DBUILD_SHARED_LIBS=ON", "-DRETINASDK_PYTHON=ON", "-DRETINASDK_CUDA=OFF")
    refused = call("cmake", f"-S{ROOT}", f"-B{tmp_path}", *options, fails=True)
    assert "-DRETINASDK_PYTHON=OFF" in refused
