"""The .densor container: frames, entries, index; reading and writing."""
