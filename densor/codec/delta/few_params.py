"""Parameters of changes of few elements, as they stand in a MODEL frame.

See docs/format/delta_few.md.
"""

import functools
import struct
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from densor.codec import registry
from densor.codec.delta.tokens import DIFFERENCE, Method, TokenTable, token_table
from densor.codec.zstd import zstd_compress, zstd_decompress
from densor.entropy.rans import tables
from densor.errors import FormatError

FEW = 4  # the method
MAX_CONTEXTS = 16
CLASSES = 64  # of blocks, by how many changes are expected
UNIT = 1 << 18  # a change that is expected
MAX_MAP_BITS = 12
MIN_BLOCK_BITS, MAX_BLOCK_BITS = 3, 7
_HEAD = struct.Struct("<BBBBBBBBBBH")
_FLOATS = 1
_MAP_LEVEL = 19
_FIRST_EXPECTED = 8 * UNIT
_MAX_CODE = 151

Starts = npt.NDArray[np.uint16]


def decoded_rates(codes: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint32]:
    """How often elements change, in units of 2^-18, from codes of an eighth octave."""
    octave, eighth = np.divmod(codes.astype(np.uint32), 8)
    rates: npt.NDArray[np.uint32] = np.maximum(1, (8 + eighth) << octave >> 4).astype(np.uint32)
    return rates


def rate_codes(shares: npt.NDArray[np.float64]) -> npt.NDArray[np.uint8]:
    """The codes of shares of elements that change."""
    units = np.maximum(1.0, np.minimum(shares, 0.5) * UNIT)
    octaves = np.floor(np.log2(units * 2))
    eighths = np.rint(units * 16 / 2**octaves) - 8
    codes: npt.NDArray[np.uint8] = np.clip(8 * octaves + eighths, 0, _MAX_CODE).astype(np.uint8)
    return codes


def numbers_of(method: Method) -> npt.NDArray[np.int64]:
    """What kernels want to know of a method."""
    return np.array([method.floats, method.bits, method.direct, method.mantissa], np.int64)


def first_seen(code: int) -> npt.NDArray[np.uint64]:
    """What counts as seen at the start of a chunk: changes, and changes expected, in units."""
    happened = max(1, (4 + code % 4) << (code // 4) >> 2)
    return np.array([happened, _FIRST_EXPECTED], np.uint64)


def first_code(ratio: float) -> int:
    """The code of how many changes there are for each one that is expected."""
    happened = max(1.0, min(ratio * _FIRST_EXPECTED, 2.0**31))
    octave = int(np.floor(np.log2(happened)))
    quarter = round(happened * 4 / 2**octave) - 4
    return int(min(127, 4 * octave + quarter))


@dataclass(frozen=True, eq=False)
class FewParameters:
    """`mapped`: uint8[2^B], the context of tokens; `codes`: uint8[2^B], of rates, both by
    `b >> shift` modulo 2^B. `counts`, `freqs`: frequencies, uint16[64, 256] and [contexts, 256].
    """

    method: Method
    shift: int
    block_bits: int
    mapped: npt.NDArray[np.uint8]
    codes: npt.NDArray[np.uint8]
    counts: npt.NDArray[np.uint16]
    freqs: npt.NDArray[np.uint16]

    @property
    def mask(self) -> int:
        """Of bits of the base, once they are shifted."""
        return int(self.mapped.size - 1)

    @functools.cached_property
    def rates(self) -> npt.NDArray[np.uint32]:
        """uint32[2^B]."""
        return decoded_rates(self.codes)

    @functools.cached_property
    def count_starts(self) -> Starts:
        """uint16[64, 257]."""
        return _starts(self.counts)

    @functools.cached_property
    def token_starts(self) -> Starts:
        """uint16[contexts, 257]."""
        return _starts(self.freqs)

    @functools.cached_property
    def tokens(self) -> TokenTable:
        """What tokens stand for."""
        return token_table(self.method)

    @functools.cached_property
    def numbers(self) -> npt.NDArray[np.int64]:
        """What kernels want to know of the method."""
        return numbers_of(self.method)


def _starts(freqs: npt.NDArray[np.uint16]) -> Starts:
    """Sums of the frequencies before each symbol; all belongs to symbol 0 where there are none."""
    sums = np.zeros((len(freqs), 257), np.uint16)
    np.cumsum(freqs, axis=1, out=sums[:, 1:])
    sums[sums[:, 256] == 0, 1:] = tables.ONE
    return sums


def pack(few: FewParameters) -> bytes:
    """The payload of a MODEL frame."""
    packed = zstd_compress(np.concatenate([few.mapped, few.codes]), _MAP_LEVEL)
    method = few.method
    head = _HEAD.pack(
        registry.CODEC_DELTA,
        method.size,
        _FLOATS * method.floats,
        FEW,
        method.direct,
        method.mantissa,
        len(few.freqs),
        few.shift,
        few.mapped.size.bit_length() - 1,
        few.block_bits,
        len(packed),
    )
    return head + packed + tables.pack(np.concatenate([few.counts, few.freqs]))


def parse(payload: bytes) -> FewParameters:
    """The parameters in a MODEL frame of this method; FormatError for bad ones."""
    if len(payload) < _HEAD.size:
        raise FormatError("model is too short")
    fields = _HEAD.unpack_from(payload)
    codec, size, flags, number, direct, mantissa, contexts, shift, bits, block_bits, length = fields
    if codec != registry.CODEC_DELTA or number != FEW:  # as a message of changes may have it
        raise FormatError("model of changes is of another method")
    method = Method(DIFFERENCE, size, bool(flags & _FLOATS), 0, direct, mantissa)
    if flags & ~_FLOATS or not method.known():
        raise FormatError("model of changes has impossible fields")
    end = _HEAD.size + length
    if not 1 <= contexts <= MAX_CONTEXTS or bits > MAX_MAP_BITS or len(payload) < end:
        raise FormatError("model of changes has impossible contexts")
    if shift >= 8 * size or not MIN_BLOCK_BITS <= block_bits <= MAX_BLOCK_BITS:
        raise FormatError("model of changes has impossible contexts")
    maps = np.frombuffer(zstd_decompress(payload[_HEAD.size : end], 2 << bits), np.uint8)
    mapped, codes = maps[: 1 << bits], maps[1 << bits :]
    if mapped.max() >= contexts or codes.max() > _MAX_CODE:
        raise FormatError("model of changes maps to a context that it does not have")
    freqs, taken = tables.unpack(np.frombuffer(payload, np.uint8)[end:], CLASSES + contexts)
    if len(payload) > end + taken:
        raise FormatError("model is too long")
    counts, freqs = freqs[:CLASSES], freqs[CLASSES:]
    if counts[:, (1 << block_bits) + 1 :].any():
        raise FormatError("model of changes has blocks with more changes than elements")
    valid = token_table(method).valid.copy()
    valid[0] = False
    if freqs[:, ~valid].any():
        raise FormatError("model of changes has tokens that no element can have")
    return FewParameters(method, shift, block_bits, mapped, codes, counts, freqs)
