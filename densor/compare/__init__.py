"""Measures codecs beside each other: one interface, one timing loop, a few adapters."""
