"""The parameters of tokens, which are the payload of a MODEL frame."""

import struct
from typing import NamedTuple

from densor.codec import registry
from densor.errors import FormatError

HEAD = struct.Struct("<BBBBII")  # codec, bytes per token, digits, bits, rows, columns
MIXED_HEAD = struct.Struct("<BBBBBB")  # codec, bytes per token, digits, bits, node bits, streams
SIZES = (2, 4)  # bytes of a token
MIN_DIGITS, MAX_DIGITS = 1, 5  # hexadecimal, of the largest token
MIN_BITS, MAX_BITS = 8, 20
MAX_ROWS = 128
MAX_TOKENS = 1 << 24  # of a chunk
MAX_MIXED_BITS, MAX_NODE_BITS = 21, 22
MAX_RANKED_BITS, MAX_RANKED_NODE_BITS = 22, 23
MAX_STREAMS = 16

# Of the kernels' state
PLACES = 4  # of a slot of orders 2 and 3; two of order 1
ROOM = 64  # bytes of the stream that a token takes at most
SPECIAL_BITS = 18  # of the number of a probability of one candidate, at most


# Of the mixing kernel alone
SPECIAL_FLAGS = 1 << 16  # flags of a candidate by itself, as many as there are before them
FLAG_INPUTS, FLAG_SETS = 3, 64  # of weights
INPUTS, SETS = 4, MAX_DIGITS * 16 * 16
BIAS = 256  # an input that is always the same


# Of the ranking kernel alone
ORDER1_BITS = 16  # of the numbers of slots of order 1, at most
NEAR, SAID = 5, 272  # lengths of a match; what slots say of the first candidate
MAX_RANKS = 16  # with 0, of what is no candidate
TOTAL = 1 << 15  # what probabilities are in units of
CODERS = 4  # states of rANS, which symbols take in turns
BLOCK = 512  # tokens that a stream is dealt at a time
SEGMENT = 1 << 18  # tokens that are coded together


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

    @property
    def item(self) -> int:
        """Tokens of which a chunk has a multiple."""
        return self.rows * self.columns if self.rows > 1 else 1

    def shape_of(self, count: int) -> tuple[int, int]:
        """Rows and columns of each item in a chunk of `count` tokens."""
        return (self.rows, self.columns) if self.rows > 1 else (1, count)


class _InStreams(NamedTuple):
    """How one sequence of tokens of `size` bytes is coded, all of which are below 16^`digits`.

    `bits`: of the numbers of slots. `node_bits`: of the numbers of nodes. `streams`: in turns.
    """

    size: int
    digits: int
    bits: int
    node_bits: int
    streams: int

    @property
    def item(self) -> int:
        """Tokens of which a chunk has a multiple."""
        return 1


class Mixed(_InStreams):
    """By decisions of two that are mixed."""

    __slots__ = ()


class Ranked(_InStreams):
    """By ranks of candidates."""

    __slots__ = ()


class RankedMore(Ranked):
    """By ranks of candidates, of which more contexts tell."""

    __slots__ = ()


AnyParameters = Parameters | Mixed | Ranked


def pack(parameters: AnyParameters) -> bytes:
    """The payload of the MODEL frame."""
    if isinstance(parameters, Ranked):
        more = isinstance(parameters, RankedMore)
        codec = registry.CODEC_TOKEN_RANKS_MORE if more else registry.CODEC_TOKEN_RANKS
        return MIXED_HEAD.pack(codec, *parameters)
    if isinstance(parameters, Mixed):
        return MIXED_HEAD.pack(registry.CODEC_TOKENS, *parameters)
    size, digits, bits, rows, columns = parameters
    return HEAD.pack(registry.CODEC_TOKENS, size, digits, bits, rows, columns)


def parse(payload: bytes) -> AnyParameters:
    """The parameters; FormatError for those that cannot be."""
    if payload[0] in (registry.CODEC_TOKEN_RANKS, registry.CODEC_TOKEN_RANKS_MORE):
        fields = _of_streams(payload, MAX_RANKED_BITS, MAX_RANKED_NODE_BITS)
        more = payload[0] == registry.CODEC_TOKEN_RANKS_MORE
        return RankedMore(*fields) if more else Ranked(*fields)
    if len(payload) == MIXED_HEAD.size:
        return Mixed(*_of_streams(payload, MAX_MIXED_BITS, MAX_NODE_BITS))
    if len(payload) != HEAD.size:
        raise FormatError("model of tokens has the wrong length")
    _, size, digits, bits, rows, columns = HEAD.unpack(payload)
    _check(size, digits, bits, MAX_BITS)
    fits = 1 <= rows <= MAX_ROWS and columns <= MAX_TOKENS
    if not fits or (rows == 1) != (columns == 0):
        raise FormatError(f"model of tokens has {rows} rows of {columns} columns")
    return Parameters(size, digits, bits, rows, columns)


def _of_streams(payload: bytes, most_bits: int, most_node_bits: int) -> tuple[int, ...]:
    """The fields that methods with streams have, of so many bits at most."""
    if len(payload) != MIXED_HEAD.size:
        raise FormatError("model of ranks of tokens has the wrong length")
    _, size, digits, bits, node_bits, streams = MIXED_HEAD.unpack(payload)
    _check(size, digits, bits, most_bits)
    if not (MIN_BITS <= node_bits <= most_node_bits and 1 <= streams <= MAX_STREAMS):
        raise FormatError(f"model of tokens has {node_bits} bits of nodes, {streams} streams")
    return size, digits, bits, node_bits, streams


def _check(size: int, digits: int, bits: int, most: int) -> None:
    """FormatError for what neither method has."""
    if size not in SIZES:
        raise FormatError(f"tokens of {size} bytes")
    if not (MIN_DIGITS <= digits <= min(MAX_DIGITS, 2 * size) and MIN_BITS <= bits <= most):
        raise FormatError(f"model of tokens has {digits} digits and {bits} bits")
