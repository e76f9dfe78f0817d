"""Rows of images: gradient prediction with rANS, or context mixing of pixels. See image.md."""
