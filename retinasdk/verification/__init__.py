"""Compares one model on two backends, tensor by tensor and box by box."""
