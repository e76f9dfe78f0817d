"""Second opinions: the format and each codec once more, slowly, from the specifications alone.

Nothing here imports the package; `network` alone is given the package's quantised weights.
"""
