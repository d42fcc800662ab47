"""Access to the GPU: its context, memory, streams, CUDA graphs, and images in its memory."""
