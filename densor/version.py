"""The version of the package. The version of the format is another thing: `formats.wire`."""

__version__ = "0.19.0"
