"""Doors to other libraries, one module each; every one imports the library that it is named for."""
