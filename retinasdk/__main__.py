"""Runs the `retinasdk` command by `python -m retinasdk`."""

from retinasdk.cli.process import run

run()
