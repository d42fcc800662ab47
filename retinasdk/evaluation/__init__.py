"""Scores a detector on annotated images: COCO average precision, and a report with charts and pictures."""
