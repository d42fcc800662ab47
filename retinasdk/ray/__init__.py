"""Detection in many images on many machines, with Ray Data.

`detect` adds the detections to a Ray dataset. `detect_files` works through image files, writes Parquet files and can be
continued after it was killed:

    retinasdk.ray.detect_files("s3://bucket/tiles", "s3://bucket/found", model="tree-crowns")
"""

from retinasdk.ray.datasets import detect
from retinasdk.ray.jobs import JobReport, detect_files

__all__ = ["JobReport", "detect", "detect_files"]
