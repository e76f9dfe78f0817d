"""The numbers of the rANS coder, see spec.md."""

STATES = 32
BITS = 12  # of a probability
FIRST = 1 << 16  # what every state ends with, and the least that it may be
CONTEXTS = 32  # for which tables of those fit in registers
LIKELY = 3  # symbols, 0 to 2, that nearly all may be
LOOK = 64  # bytes that a group may look at
