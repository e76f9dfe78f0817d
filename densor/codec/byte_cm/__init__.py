"""Bytes by context mixing."""
