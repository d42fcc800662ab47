"""The commands of `retinasdk`, one a module: `add_parser` makes its arguments, `run` does it."""
