"""Floats by context mixing."""
