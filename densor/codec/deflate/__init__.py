"""Streams that zlib has made: undone, their content coded better, and made again bit for bit."""
