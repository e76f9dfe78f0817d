"""Codec 4: floats by context mixing, under predicted distributions."""
