"""Detects in large images tile by tile: the grid, reading parts of files, merging."""
