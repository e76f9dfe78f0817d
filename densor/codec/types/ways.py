"""The ways in which bytes may be elements, by number, and what is counted to tell them apart."""

WAYS = 10  # bytes, words, BF16 at 2 phases, words of 4, FP32 at 4 phases, words of 8
PHASES = 8
COUNTS = 3 * PHASES * 256  # of bytes, exponents, and what is beside exponents, by phase
