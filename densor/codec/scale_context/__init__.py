"""Floats under contexts from row and column scales, rANS."""
