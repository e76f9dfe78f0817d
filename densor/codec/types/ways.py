"""The ways in which bytes may be elements, by number, and what is counted to tell them apart."""

WAYS = 10  # bytes, words, BF16 at 2 phases, words of 4, FP32 at 4 phases, words of 8
PHASES = 8
COUNTS = 23 * 256  # of bytes modulo 8, 4, 2 and 1; exponents, and what is beside them, modulo 4
PHASED = 1 << 10  # bytes of a window that tell where elements begin
CLEAR_STEP = 1.0  # bits per byte from the most certain byte of an element to that behind it
