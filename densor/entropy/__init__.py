"""Entropy coders: symbols to bits and back, with no idea of tensors or files."""
