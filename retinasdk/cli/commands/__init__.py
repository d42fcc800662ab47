"""The commands of `retinasdk`, one per module: `add_parser` defines its options, `run` runs it."""
