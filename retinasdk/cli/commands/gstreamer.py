"""`retinasdk gstreamer`: makes the element `retinadetect` known to GStreamer."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from retinasdk.cli.arguments import add_command
from retinasdk.cli.output import print_text
from retinasdk.live.gstreamer import install


def add_parser(commands: Any) -> None:
    """Adds the command."""
    parser = add_command(
        commands,
        "gstreamer",
        description="Makes the element 'retinadetect', which detects objects in a pipeline, known to GStreamer, and "
        "checks that GStreamer finds it. GStreamer needs its loader for elements in Python.",
        examples=[
            (
                "Make the element known to GStreamer, and detect in a test picture",
                "retinasdk gstreamer install\ngst-launch-1.0 -m videotestsrc num-buffers=1 ! retinadetect ! fakesink",
            ),
            ("Write it to a folder for all users", "retinasdk gstreamer install --folder /opt/gstreamer"),
        ],
        takes_long=False,
    )
    element = parser.add_argument_group("Element")
    element.add_argument(
        "action",
        choices=("install", "check", "remove"),
        help="install: write the file that GStreamer looks for, and check; check: ask GStreamer; remove: delete it",
    )
    element.add_argument(
        "--folder",
        type=_folder,
        default=install.default_folder(),
        metavar="DIR",
        help="folder of plugins; another one than the default must be in GST_PLUGIN_PATH; default: "
        "~/.gstreamer-1.0/plugins",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Runs the command.

    Raises:
        MissingDependencyError: GStreamer or its loader is missing.
        OSError: The file cannot be written, or GStreamer does not find the element.
    """
    folder = arguments.folder
    if arguments.action == "remove":
        removed = install.remove(folder)
        print_text(f"there is no element in {folder}" if removed is None else f"deleted {removed}")
        return
    if arguments.action == "install":
        print_text(f"written {install.install(folder)}")
    print_text(install.check(folder))
    if folder != install.default_folder():
        print_text(f"GStreamer finds the element where this is set:\n  export GST_PLUGIN_PATH={folder}")


def _folder(text: str) -> Path:
    return Path(text).expanduser().absolute()
