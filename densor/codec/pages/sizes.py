"""Sizes that the kernels of pages and those who call them know."""

# Runs of numbers
GROUP = 8  # values that are packed together
MOST_GROUPS = 63  # in a run
MAX_BITS = 24  # of a value
MOST_BEHIND = 255  # values behind the last one

# Blocks of Snappy
BLOCK = 1 << 16  # bytes that matches stay within
SLACK = 16  # bytes behind what is read
MIN_TABLE, MAX_TABLE = 8, 15  # bits of the table of places
OWN = 32  # beside these: as the library up to 1.1.8 and others do it

# Blocks of LZ4
LZ4_TABLE = 13  # bits of the table of places

# Blocks of differences
MOST_BLOCK = 1 << 16  # differences
LEAST_MINIBLOCK = 8  # a part of them has a multiple of this
