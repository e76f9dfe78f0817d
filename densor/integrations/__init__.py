"""Doors to other libraries, one module each, which imports the library if it needs it."""
