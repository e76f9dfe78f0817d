"""Carry-less binary arithmetic coding. See docs/format/arithmetic.md."""
