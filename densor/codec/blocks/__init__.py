"""Blocks of several fields, as in GGUF."""
