"""What both sides know of a chunk of changes. See docs/format/delta.md."""

import struct

HEAD = struct.Struct("<QB")  # where the chunk's bytes are in the base, mode
LENGTH = struct.Struct("<I")  # of the stream; it and the extra bits follow
SAME, CODED, FEW_CODED = 0, 1, 2  # modes
BLOCK = 1 << 12  # elements that are looked at before a way to find their tokens is chosen
WIDE = 1 << 16  # elements to code at a time: what is made of them stays in L2
DECODED = 1 << 14  # elements whose tokens are decoded at a time
RUN = 64  # bytes that vectors have at most
SLACK = 12  # bytes behind the extra bits that may be looked at

# What may be wrong with a coded chunk
MALFORMED, SHORT, EXTRAS_OTHER = -1, -2, -3
STREAM_SHORT, STREAM_BEGIN, STREAM_END, STREAM_LEFT = -4, -5, -6, -7
ERRORS = {
    MALFORMED: "chunk of changes is malformed",
    SHORT: "chunk of changes is too short",
    EXTRAS_OTHER: "chunk of changes has another number of extra bits than it needs",
    STREAM_SHORT: "rANS stream is too short",
    STREAM_BEGIN: "rANS stream begins with an impossible state",
    STREAM_END: "rANS stream ends before its last symbol",
    STREAM_LEFT: "rANS stream does not end with its last symbol",
}

# Of changes of few elements, what kernels have at once:
NEAR = 32  # rates that they look up
SUMS = (1 << 11) + 16 + (1 << 8)  # sums of rates: up to each element, and of blocks
