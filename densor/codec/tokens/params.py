"""The parameters of tokens, which are the payload of a MODEL frame."""

import struct
from typing import NamedTuple

from densor.codec import registry
from densor.errors import FormatError

HEAD = struct.Struct("<BBBBII")  # codec, bytes per token, digits, bits, rows, columns
SIZES = (2, 4)  # bytes of a token
MIN_DIGITS, MAX_DIGITS = 1, 5  # hexadecimal, of the largest token
MIN_BITS, MAX_BITS = 8, 20
MAX_ROWS = 128
MAX_TOKENS = 1 << 24  # of a chunk

# Of the kernel's state
PLACES = 4  # of a slot of orders 2 and 3; two of order 1
ROOM = 64  # bytes of the stream that a token takes at most
SPECIAL_BITS = 18  # of the number of a probability of one candidate, at most


class Parameters(NamedTuple):
    """How tokens of `size` bytes are coded, all of which are below 16^`digits`.

    `bits`: of the numbers of slots. `rows`, `columns`: of an item of several codebooks; 1 and 0
    for one sequence.
    """

    size: int
    digits: int
    bits: int
    rows: int = 1
    columns: int = 0

    def shape_of(self, count: int) -> tuple[int, int]:
        """Rows and columns of each item in a chunk of `count` tokens."""
        return (self.rows, self.columns) if self.rows > 1 else (1, count)


def pack(parameters: Parameters) -> bytes:
    """The payload of the MODEL frame."""
    size, digits, bits, rows, columns = parameters
    return HEAD.pack(registry.CODEC_TOKENS, size, digits, bits, rows, columns)


def parse(payload: bytes) -> Parameters:
    """The parameters; FormatError for those that cannot be."""
    if len(payload) != HEAD.size:
        raise FormatError("model of tokens has the wrong length")
    _, size, digits, bits, rows, columns = HEAD.unpack(payload)
    if size not in SIZES:
        raise FormatError(f"tokens of {size} bytes")
    if not (MIN_DIGITS <= digits <= min(MAX_DIGITS, 2 * size) and MIN_BITS <= bits <= MAX_BITS):
        raise FormatError(f"model of tokens has {digits} digits and {bits} bits")
    fits = 1 <= rows <= MAX_ROWS and columns <= MAX_TOKENS
    if not fits or (rows == 1) != (columns == 0):
        raise FormatError(f"model of tokens has {rows} rows of {columns} columns")
    return Parameters(size, digits, bits, rows, columns)
