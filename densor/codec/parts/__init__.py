"""Chunks made of parts, each with parameters of its own."""
