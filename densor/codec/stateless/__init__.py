"""Pieces of unknown bytes, each coded by itself, outside of archives. docs/format/chunk.md."""
