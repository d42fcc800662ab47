"""The `retinasdk` command."""
