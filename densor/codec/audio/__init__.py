"""Samples of sound: linear prediction with rANS, or a cascade of adaptive filters. See audio.md."""
