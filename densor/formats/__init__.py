"""Containers and files: which tensors and bytes are in them, put back byte for byte."""
