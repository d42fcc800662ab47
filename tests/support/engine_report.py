"""Builds an engine and prints what the real TensorRT says about its layers, inputs and outputs, which needs no GPU.

Usage: engine_report.py MODEL ENGINE PRECISION [HEAD_LAYOUT]

It is a program of its own, because a process has one TensorRT logger, and that of retinasdk drops these lines.
"""

from __future__ import annotations

import sys
from typing import Any

from pictures import blocks

from retinasdk.tensorrt import builder, versions
from retinasdk.tensorrt.build import build_engine


def main(model: str, engine: str, precision: str, head_layout: str | None = None) -> None:
    """Prints the lines of the log that describe layers ("LayerType") and inputs and outputs ("IOMode")."""
    configure = builder._configure

    def make_logger(trt: Any) -> Any:
        class Printer(trt.ILogger):  # type: ignore[misc]  # the base is only known at run time
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, level: Any, message: str) -> None:
                for line in message.splitlines():
                    if "LayerType: " in line or "IOMode: " in line:
                        print(line.strip())

        return Printer()

    def configure_with_details(trt: Any, config: Any, options: builder.BuildOptions, origin: str) -> None:
        configure(trt, config, options, origin)
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED

    versions._make_logger = make_logger
    builder._configure = configure_with_details
    images = [blocks(300, 400, seed=seed) for seed in range(2)]
    build_engine(model, engine, precision=precision, images=images, head_layout=head_layout)


if __name__ == "__main__":
    main(*sys.argv[1:])
