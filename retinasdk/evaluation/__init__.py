"""The parts of `retinasdk.evaluate`: annotations, categories, COCO's numbers, the report's charts and pictures."""
