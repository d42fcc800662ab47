"""COCO class names: indexed by category id (torchvision), and without unused ids (all other frameworks)."""

from __future__ import annotations

BACKGROUND = "__background__"
UNUSED = "N/A"

# Index 0 is the background, which torchvision never trains; unused category ids keep their index.
_NAMES = """
__background__, person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light,
fire hydrant, N/A, stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear,
zebra, giraffe, N/A, backpack, umbrella, N/A, N/A, handbag, tie, suitcase, frisbee, skis, snowboard,
sports ball, kite, baseball bat, baseball glove, skateboard, surfboard, tennis racket, bottle, N/A,
wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange, broccoli, carrot, hot dog,
pizza, donut, cake, chair, couch, potted plant, bed, N/A, dining table, N/A, N/A, toilet, N/A, tv, laptop,
mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, N/A, book, clock, vase,
scissors, teddy bear, hair drier, toothbrush
"""
COCO_91 = tuple(name.strip() for name in _NAMES.split(","))
COCO_80 = tuple(name for name in COCO_91 if name not in (BACKGROUND, UNUSED))
