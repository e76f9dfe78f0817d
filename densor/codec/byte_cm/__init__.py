"""Codec 9: bytes by context mixing, bit by bit (PAQ)."""
