"""Decoding on a GPU, from the bytes of the archive. See docs/gpu.md."""
