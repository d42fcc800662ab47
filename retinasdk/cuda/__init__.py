"""The CUDA device: its context, memory, streams, graphs, and images that lie on it."""
