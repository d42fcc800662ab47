"""Names of the classes of DOTA 1.0, as mmrotate orders them (mmrotate/datasets/dota.py, 0.3.4)."""

DOTA_15 = (
    "plane",
    "baseball-diamond",
    "bridge",
    "ground-track-field",
    "small-vehicle",
    "large-vehicle",
    "ship",
    "tennis-court",
    "basketball-court",
    "storage-tank",
    "soccer-ball-field",
    "roundabout",
    "harbor",
    "swimming-pool",
    "helicopter",
)
