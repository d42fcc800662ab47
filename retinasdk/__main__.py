"""Runs the `retinasdk` command by `python -m retinasdk`."""

import sys

from retinasdk.cli.main import main

sys.exit(main())
