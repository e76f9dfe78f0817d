"""The coding side of tokens."""

import numpy as np
import numpy.typing as npt

from densor.codec.batch import Batch, Bytes
from densor.codec.chunks import ChunkEncoder
from densor.codec.kind import BATCH_BYTES, Data, Kind
from densor.codec.levels import Level
from densor.codec.tokens.params import (
    MAX_BITS,
    MAX_DIGITS,
    MAX_RANKED_BITS,
    MAX_ROWS,
    SIZES,
    AnyParameters,
    Mixed,
    Parameters,
    Ranked,
    RankedMore,
    pack,
)
from densor.codec.tokens.payload import coded
from densor.codec.tokens.state import Tokens
from densor.codec.zstd import zstd_compress

CHUNK = BATCH_BYTES  # bytes
_OTHER_CHUNK = 1 << 23  # of the oldest method, below level 9
MIN_BYTES = 1 << 13  # that are looked at unasked: below, hardly anything repeats
_SAMPLE = 1 << 15  # tokens that are tried, from the middle
_LONG_SAMPLE = 1 << 17  # to tell methods from each other
_MAX_SHARE = 0.95  # of what the sample takes more simply
_MATURE = 1 << 20  # tokens of a batch from which on ranks gain so much over the sample:
_GAIN = 1.03
_LEAST_BITS = 10
_LIGHT_BITS = 21  # of the levels in between
_MANY = 1 << 17  # tokens from which on there are several streams, below level 9
_FEW_STREAMS, _STREAMS = 4, 16  # the latter of the fastest levels, for `_MATURE` tokens
_FLAT = 1024  # columns of what has no rows, see kind.py
_MIN_TIME = 16  # tokens of a codebook


def suits(batch: Batch, level: Level) -> bool:
    """Whether a batch is said to be tokens, or at levels 5 to 9 looks like that."""
    kind = batch.kind
    if batch.base is not None or batch.session is not None or not _whole(batch):
        return False
    if kind.tokens:
        return True
    if not level.tokens or batch.data.size < MIN_BYTES or not _may_be(kind):
        return False
    middle = _middle(batch, _SAMPLE)
    tokens = _tokens(middle, kind.unit)
    digits = _digits(tokens)
    if digits > MAX_DIGITS:
        return False
    size = min(_coded_size(p, tokens, kind) for p in _candidates(batch, digits, tokens.size))
    return size < _MAX_SHARE * _simply(middle, kind.unit)


def _whole(batch: Batch) -> bool:
    kind = batch.kind
    numbers = kind.data in (Data.ELEMENTS, Data.MATRICES) and kind.unit in SIZES
    return numbers and batch.data.size > 0 and batch.data.size % kind.unit == 0


def _may_be(kind: Kind) -> bool:
    """Whether this is integers, or numbers of a type that was guessed from plain bytes."""
    flat = len(kind.parts) == 1 and kind.parts[0][1] == _FLAT
    return kind.integers or (kind.dtype in ("F16", "F32") and flat)


def _middle(batch: Batch, count: int) -> Bytes:
    """So many tokens from the middle, whole items of several codebooks."""
    kind = batch.kind
    rows, columns = _books(batch)
    item = kind.unit * rows * max(1, columns)
    size = max(1, count * kind.unit // item) * item
    if size >= batch.data.size:
        return batch.data
    begin = (batch.data.size - size) // 2 // item * item
    return batch.data[begin : begin + size]


def _tokens(data: Bytes, size: int) -> Tokens:
    return data.view(f"<u{size}").astype(np.uint32)


def _digits(tokens: npt.NDArray[np.unsignedinteger]) -> int:
    """Hexadecimal digits of the largest."""
    return max(1, -(-int(tokens.max()).bit_length() // 4))


def _simply(data: Bytes, size: int) -> float:
    """Bytes by the fastest Zstandard, or by a code for each byte of tokens or differences."""
    numbers = data.view(f"<u{size}")
    by_codes = min(_entropy(numbers), _entropy(np.diff(numbers, prepend=numbers[:1])))
    return min(by_codes, len(zstd_compress(data, 1)))


def _entropy(numbers: npt.NDArray[np.unsignedinteger]) -> float:
    """Bytes that the bytes of numbers take, each under the distribution of its place."""
    bits = 0.0
    for plane in numbers.view(np.uint8).reshape(-1, numbers.itemsize).T:
        counts = np.bincount(plane)
        counts = counts[counts > 0]
        bits += float((counts * np.log2(plane.size / counts)).sum())
    return bits / 8


def _candidates(batch: Batch, digits: int, count: int) -> list[AnyParameters]:
    """One sequence of so many tokens, by ranks and simply; and codebooks, if the shape may be that.

    Few tokens also by mixing, which does best now and then, but is slow.
    """
    unit = batch.kind.unit
    streams = _FEW_STREAMS if count >= _MANY else 1
    found: list[AnyParameters] = [_sequence(unit, digits, count, MAX_BITS, streams)]
    if batch.data.size < _MANY * unit:
        found.append(Mixed(*found[0]))
    bits = _bits(min(batch.data.size, CHUNK) // unit)
    found.append(Parameters(unit, digits, bits))
    rows, columns = _books(batch)
    if rows > 1:
        found.append(Parameters(unit, digits, bits, rows, columns))
    return found


def _bits(count: int, most: int = MAX_BITS) -> int:
    """Of the numbers of slots, for so many tokens."""
    return min(max(count.bit_length() - 2, _LEAST_BITS), most)


def _sequence(size: int, digits: int, count: int, most_bits: int, streams: int) -> Ranked:
    """Parameters of one sequence, in chunks of so many tokens."""
    bits = _bits(count, most_bits)
    return Ranked(size, digits, bits, bits + 1, streams)


def _books(batch: Batch) -> tuple[int, int]:
    """Rows and columns of codebooks, if the shape may be that of some; else 1 and 0."""
    rows, columns = batch.kind.books
    if 1 < rows <= MAX_ROWS and columns >= _MIN_TIME:
        item = rows * columns * batch.kind.unit
        if item <= _OTHER_CHUNK and batch.data.size % item == 0:
            return rows, columns
    return 1, 0


def _coded_size(parameters: AnyParameters, tokens: Tokens, kind: Kind) -> int:
    """Bytes of a sample, or those that it has where it does not get smaller."""
    stream = coded(parameters, tokens, tokens.size * kind.unit)
    return tokens.size * kind.unit if stream is None else stream.size


def propose(batch: Batch, level: Level) -> ChunkEncoder | None:
    """An encoder for a batch of tokens; None where some are too large."""
    kind = batch.kind
    digits = _digits(batch.data.view(f"<u{kind.unit}"))
    if digits > MAX_DIGITS:
        return None
    tokens = _tokens(_middle(batch, _LONG_SAMPLE), kind.unit)
    candidates = _candidates(batch, digits, tokens.size)
    best = min(candidates, key=lambda p: _coded_size(p, tokens, kind) * _handicap(p, batch))
    if isinstance(best, Parameters):
        chunk = CHUNK if level.bytes == "full" else _OTHER_CHUNK
        return _encoder(batch, level, best, chunk // (kind.unit * best.item) * best.item)
    count = min(batch.data.size, CHUNK) // kind.unit
    if isinstance(best, Ranked):
        more = level.bytes == "full" and _more_contexts(tokens, digits, kind)
        best = _sequence(kind.unit, digits, count, _most_bits(level), _streams(level, count))
        best = RankedMore(*best) if more else best
    return _encoder(batch, level, best, CHUNK // kind.unit)


def _more_contexts(tokens: Tokens, digits: int, kind: Kind) -> bool:
    """Whether a sample gets smaller by more contexts, which take longer."""
    few = _sequence(kind.unit, digits, tokens.size, MAX_BITS, 1)
    return _coded_size(RankedMore(*few), tokens, kind) < _coded_size(few, tokens, kind)


def _most_bits(level: Level) -> int:
    """Of the numbers of slots: fewer collide in larger tables, which take more memory."""
    return {"zstd": MAX_BITS, "full": MAX_RANKED_BITS}.get(level.bytes, _LIGHT_BITS)


def _streams(level: Level, count: int) -> int:
    """Of ranks, for chunks of so many tokens."""
    if level.bytes == "full" or count < _MANY:
        return 1
    return _STREAMS if level.bytes == "zstd" and count >= _MATURE else _FEW_STREAMS


def _handicap(parameters: AnyParameters, batch: Batch) -> float:
    """What a size of a sample counts for: ranks, which learn longer, get ahead behind it."""
    simple = isinstance(parameters, Parameters) and parameters.rows == 1
    return _GAIN if simple and batch.data.size >= _MATURE * batch.kind.unit else 1.0


def _encoder(batch: Batch, level: Level, parameters: AnyParameters, count: int) -> ChunkEncoder:
    """For chunks of so many tokens."""
    chunks = batch.in_chunks_of(count * batch.kind.unit)
    return ChunkEncoder(TokensEncoder(parameters), chunks, level.zstd)


class TokensEncoder:
    """A `ChunkCoder`; the model adapts within each chunk, so that nothing is counted before."""

    repeats = True

    def __init__(self, parameters: AnyParameters) -> None:
        self._parameters = parameters

    def model(self) -> bytes:
        """The payload of the MODEL frame."""
        return pack(self._parameters)

    def encode(self, chunk: Bytes, index: int) -> Bytes:
        """The payload of a chunk; the chunk itself where that is not longer."""
        stream = coded(self._parameters, _tokens(chunk, self._parameters.size), chunk.size)
        return chunk if stream is None else stream
