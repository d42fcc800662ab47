"""`python -m retinasdk` is the `retinasdk` command."""

import sys

from retinasdk.cli.main import main

sys.exit(main())
