"""Tiled detection in large images: the grid of tiles, reading parts of files, and merging."""
