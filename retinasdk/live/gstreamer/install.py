"""Makes the element `retinadetect` known to GStreamer: a file for its loader of elements in Python, and a check."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from retinasdk._util.files import write_atomically
from retinasdk.errors import MissingDependencyError

ELEMENT = "retinadetect"
_FILE = f"{ELEMENT}.py"
_CHECK_S = 60.0
_INSPECT = "gst-inspect-1.0"
_LOADER_PACKAGES = "python3-gi python3-gst-1.0 gstreamer1.0-python3-plugin-loader gstreamer1.0-plugins-base"

# The loader runs every file of its folders at each start of GStreamer that finds something new.
_CONTENT = '''\
"""The GStreamer element retinadetect. Written by: retinasdk gstreamer install."""

import importlib.util
import sys

VERSION = {version!r}
ENVIRONMENT = {environment!r}
FOLDERS = {folders!r}
ELEMENT = {element!r}

if sys.version_info[:2] == VERSION:
    # Before the packages of the distribution, as in the environment itself.
    place = next((i for i, path in enumerate(sys.path) if path.endswith("-packages")), len(sys.path))
    sys.path[place:place] = [folder for folder in FOLDERS if folder not in sys.path]
spec = importlib.util.spec_from_file_location("retinasdk_gstreamer_element", ELEMENT)
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
module.installed_for = (VERSION, ENVIRONMENT)
__gstelementfactory__ = module.__gstelementfactory__
'''


def default_folder() -> Path:
    """Returns the folder of the user's own plugins, in which GStreamer looks without being told."""
    return Path.home() / ".gstreamer-1.0" / "plugins"


def install(folder: Path) -> Path:
    """Writes the file that GStreamer's loader looks for.

    Args:
        folder: A folder of plugins. The file is written into its folder `python`.

    Returns:
        The path of the file.

    Raises:
        OSError: If the file cannot be written.
    """
    element = Path(__file__).resolve().with_name("element.py")
    packages = [path for path in sys.path if path.endswith("-packages")]
    content = _CONTENT.format(
        version=sys.version_info[:2],
        environment=sys.prefix,
        folders=list(dict.fromkeys([str(element.parents[3]), *packages])),
        element=str(element),
    )
    target = folder / "python" / _FILE
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)  # GStreamer notices a change of the folder, not of the file.
    write_atomically(target, content.encode())
    return target


def remove(folder: Path) -> Path | None:
    """Deletes the file that `install` wrote. Returns its path, or None if there is none."""
    target = folder / "python" / _FILE
    if not target.exists():
        return None
    target.unlink()
    return target


def check(folder: Path) -> str:
    """Asks GStreamer for the element.

    Args:
        folder: The folder that `install` was given.

    Returns:
        The first lines of what GStreamer knows about it.

    Raises:
        MissingDependencyError: If GStreamer or its loader is missing.
        OSError: If GStreamer does not find the element, with what it said.
    """
    if shutil.which(_INSPECT) is None:
        raise MissingDependencyError(
            f"{_INSPECT} is not installed, so the element cannot be checked; "
            f"install GStreamer: apt install gstreamer1.0-tools {_LOADER_PACKAGES}"
        )
    environment = dict(os.environ)
    if folder != default_folder():
        others = environment.get("GST_PLUGIN_PATH")
        environment["GST_PLUGIN_PATH"] = str(folder) if not others else f"{folder}{os.pathsep}{others}"
    if _inspected("python", environment).returncode != 0:
        raise MissingDependencyError(
            f"GStreamer has no loader for elements in Python; install it: apt install {_LOADER_PACKAGES}"
        )
    found = _inspected(ELEMENT, environment)
    if found.returncode != 0:
        said = (found.stderr or found.stdout).strip().splitlines()[-8:]
        raise OSError(
            "GStreamer does not find the element; make it known with: retinasdk gstreamer install. It said: "
            + " ".join(said)
        )
    return "\n".join(found.stdout.strip().splitlines()[:6])


def _inspected(name: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    # Without the variables of this Python: GStreamer starts another one.
    clean = {key: value for key, value in environment.items() if key not in ("PYTHONHOME", "PYTHONPATH")}
    return subprocess.run([_INSPECT, name], capture_output=True, text=True, env=clean, timeout=_CHECK_S, check=False)
