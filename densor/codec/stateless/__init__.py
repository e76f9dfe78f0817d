"""Pieces of 8 to 128 KB of bytes that nothing is known of, each coded by itself. docs/format/chunk.md."""
