"""The entropy stages of byte planes: how the bytes of a plane are coded by classes."""
