"""How the bits of an element are arranged in its planes, by number."""

PLAIN, EXPONENT_FIRST, WIDE_EXPONENT = 0, 1, 2
ARRANGED = (  # bytes of an element, and arrangement: what there are kernels for
    (1, PLAIN),
    (2, EXPONENT_FIRST),
    (2, PLAIN),
    (4, EXPONENT_FIRST),
    (4, PLAIN),
    (8, WIDE_EXPONENT),
    (8, PLAIN),
)
