"""Bytes from and to files, memory and URLs."""
