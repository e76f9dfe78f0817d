"""Carry-less binary arithmetic coding. See spec.md."""
