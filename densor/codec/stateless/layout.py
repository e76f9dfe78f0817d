"""What both sides know of a piece, after docs/format/chunk.md."""

from densor.codec import registry

HEAD = 8  # bytes of the header
MAX_SIZE = (1 << 24) - 1  # bytes of a piece
RAW, ZSTD, BYTES, WORDS, BF16, FP32 = range(6)  # ways
ELEMENTS = {  # by way: layout and bytes
    BYTES: (registry.LAYOUT_BYTE, 1),
    WORDS: (registry.LAYOUT_WORD16, 2),
    BF16: (registry.LAYOUT_BF16, 2),
    FP32: (registry.LAYOUT_FP32, 4),
}
PLANE_RAW, PLANE_CONSTANT, PLANE_HUFFMAN = range(3)
STREAM_HEAD = 18  # of a coded plane: first and last symbol, four sizes
SLACK = 8  # zeros behind the streams of a plane
CODES = 512  # uint32: a code, and what is needed to assign it
EDGE = 9 * 64  # bytes

# What is wrong with a piece, as the kernel says it.
TOO_SHORT, UNKNOWN_MODE, NOT_A_CODE, BAD_STREAM, TOO_LONG, WRONG_CHECK = range(1, 7)
