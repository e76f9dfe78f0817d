"""Interleaved static rANS: symbols under many contexts, one table each."""
