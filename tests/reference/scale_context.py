"""The codec of docs/format/scale_context.md: slow and readable.

`parse_model` and `decode` read. `Chunk` writes, also what no sensible writer would choose.
"""

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Protocol

from reference import rans
from reference.rans import Bits, BitWriter
from reference.reading import Cursor, Refused, fail

CODEC = 3
BLOCK = 32
MAX_PHASE = 6
MATRIX = struct.Struct("<IIBBBB")
CODED_ROWS, CODED_COLUMNS, ROW_DIFFERENCES, COLUMN_DIFFERENCES = 1, 2, 4, 8


class Nested(Protocol):
    """The model of low halves."""

    def decode(self, payload: bytes, original: int) -> bytes:
        """Its payload to so many bytes."""


@dataclass(frozen=True)
class Form:
    """A row of the table of forms."""

    size: int
    exponent_bits: int
    mantissa_bits: int  # those in the top
    rest_bytes: int  # per block
    sign_bytes: int

    @property
    def top_bits(self) -> int:
        return self.exponent_bits + self.mantissa_bits

    @property
    def coded_size(self) -> int:
        """Bytes of the part of an element that has a top."""
        return 1 if self.size == 1 else 2

    @property
    def low_bits(self) -> int:
        """Bits below the top, low halves apart."""
        return 8 * self.coded_size - 1 - self.top_bits


FORMS = {
    1: Form(2, 8, 3, 16, 4),
    2: Form(2, 5, 3, 32, 0),
    3: Form(1, 4, 3, 0, 4),
    4: Form(1, 5, 2, 0, 4),
    5: Form(4, 8, 3, 16, 4),
}


@dataclass(frozen=True)
class Model:
    """A MODEL frame."""

    form: Form
    phase: int
    first_exponent: int
    exponents: int
    tails: int
    frequencies: Sequence[rans.Row]
    nested: Nested | None = None

    @property
    def joint(self) -> int:
        """The number of joint symbols, which is the symbol of a top of 0."""
        return self.exponents << self.form.mantissa_bits

    @property
    def escape(self) -> int:
        return self.joint + self.tails + 1

    def decode(self, payload: bytes, original: int, base: bytes | None = None) -> bytes:
        """CHUNK."""
        return decode(self, payload, original)


def parse_model(payload: bytes, parse_nested: Callable[[bytes], Nested]) -> Model:
    """The payload of a MODEL frame."""
    if payload[1:2] and payload[1] not in FORMS:
        raise Refused("unsupported", f"form {payload[1]}")
    if len(payload) < 6:
        fail("a MODEL is too short")
    codec, number, phase, first, exponents, tails = struct.unpack_from("<BBBbBB", payload)
    assert codec == CODEC
    form = FORMS[number]
    if phase > MAX_PHASE:
        fail("phase")
    if exponents == 0:
        fail("no exponents")
    if (exponents << form.mantissa_bits) + tails + 2 > 256:
        fail("more than 256 symbols")
    frequencies, used = rans.unpack(payload[6:], (1 << phase) + 2)
    rest = payload[6 + used :]
    if rest and form.size != 4:
        fail("bytes after a MODEL")
    nested = parse_nested(rest) if rest else None
    return Model(form, phase, first, exponents, tails, frequencies, nested)


@dataclass(frozen=True)
class Matrix:
    """What the head of a chunk tells of a matrix."""

    rows: int
    columns: int
    flags: int = 0
    row_centre: int = 0
    column_centre: int = 0
    reserved: int = 0


def decode(model: Model, payload: bytes, original: int) -> bytes:
    """The payload of a CHUNK to so many bytes."""
    form = model.form
    if original % form.size:
        fail("no whole number of elements")
    n = original // form.size
    reader = Cursor(payload)
    count, base, apart_size, stream_size = reader.fields("<HhII")
    matrices = [Matrix(*reader.fields("<IIBBBB")) for _ in range(count)]
    check(matrices, n)
    blocks = -(-n // BLOCK)
    apart = Bits(reader.take(apart_size))
    rest = reader.take(blocks * form.rest_bytes)
    signs = reader.take(blocks * form.sign_bytes)
    stream = rans.Decoder(reader.take(stream_size), model.frequencies)
    offsets = stream.run(scale_contexts(model, matrices))
    scales = scales_of(matrices, offsets)
    symbols = stream.run([s % (1 << model.phase) for s in scales])
    stream.finish()
    tops = [
        top_of(model, symbol, base + (s >> model.phase), apart)
        for symbol, s in zip(symbols, scales, strict=True)
    ]
    if apart.finish() != apart_size:
        fail("bytes of what stands apart are left")
    elements = [
        sign << form.top_bits + form.low_bits | top << form.low_bits | low
        for top, (sign, low) in zip(tops, below(form, rest, signs, n), strict=True)
    ]
    coded = b"".join(v.to_bytes(form.coded_size, "little") for v in elements)
    if form.size == 4:
        coded = with_low_halves(coded, low_halves(model, reader, n))
    if reader.all():
        fail("bytes after a CHUNK")
    return coded


def check(matrices: Sequence[Matrix], n: int) -> None:
    """The heads of the matrices of a chunk of n elements."""
    for matrix in matrices:
        if matrix.rows == 0 or matrix.columns == 0:
            fail("a matrix without elements")
        if matrix.flags > 15 or matrix.reserved:
            fail("reserved bits of a matrix")
    if sum(matrix.rows * matrix.columns for matrix in matrices) != n:
        fail("the matrices have another number of elements")


def scale_contexts(model: Model, matrices: Sequence[Matrix]) -> list[int]:
    """The contexts of the first run."""
    contexts: list[int] = []
    for matrix in matrices:
        if matrix.flags & CODED_ROWS:
            contexts += [1 << model.phase] * matrix.rows
        if matrix.flags & CODED_COLUMNS:
            contexts += [(1 << model.phase) + 1] * matrix.columns
    return contexts


def scales_of(matrices: Sequence[Matrix], offsets: Sequence[int]) -> list[int]:
    """The scale of each element, from the symbols of the first run."""
    symbols = iter(offsets)
    scales: list[int] = []
    for matrix in matrices:
        rows = [matrix.row_centre] * matrix.rows
        columns = [matrix.column_centre] * matrix.columns
        if matrix.flags & CODED_ROWS:
            rows = take_line(symbols, matrix.rows, bool(matrix.flags & ROW_DIFFERENCES))
            rows = [matrix.row_centre + offset for offset in rows]
        if matrix.flags & CODED_COLUMNS:
            columns = take_line(symbols, matrix.columns, bool(matrix.flags & COLUMN_DIFFERENCES))
            columns = [matrix.column_centre + offset for offset in columns]
        scales += [(row + column) % 256 for row in rows for column in columns]
    return scales


def take_line(symbols: Iterator[int], count: int, differences: bool) -> list[int]:
    """What the scales of all rows, or of all columns, differ by from the centre."""
    offsets = [next(symbols) - 128 for _ in range(count)]
    return list(accumulate(offsets)) if differences else offsets


def top_of(model: Model, symbol: int, expected: int, apart: Bits) -> int:
    """The top that a symbol stands for."""
    form = model.form
    mantissa_bits = form.mantissa_bits
    if symbol < model.joint:
        top = symbol + ((expected + model.first_exponent) << mantissa_bits)
    elif symbol == model.joint:
        top = 0
    elif symbol < model.escape:
        exponent = expected + model.first_exponent - 1 - (symbol - model.joint - 1)
        top = (exponent << mantissa_bits) + apart.take(mantissa_bits)
    else:
        top = apart.take(form.top_bits)
    return top % (1 << form.top_bits)


def below(form: Form, rest: bytes, signs: bytes, n: int) -> list[tuple[int, int]]:
    """Sign and low bits of each element."""
    found = []
    for i in range(n):
        block, j = divmod(i, BLOCK)
        sign = low = 0
        if form.sign_bytes:
            word = int.from_bytes(signs[4 * block : 4 * block + 4], "little")
            sign = word >> j & 1
        if form.rest_bytes == 16:
            low = rest[16 * block + j % 16] >> 4 * (j // 16) & 15
        elif form.rest_bytes == 32:
            sign, low = divmod(rest[32 * block + j], 128)
        found.append((sign, low))
    return found


def low_halves(model: Model, reader: Cursor, n: int) -> bytes:
    """The low halves of elements of four bytes."""
    section = reader.all()
    if model.nested is not None:
        return model.nested.decode(section, 2 * n)
    if len(section) != 2 * n:
        fail("low halves of another length")
    return section


def with_low_halves(high: bytes, low: bytes) -> bytes:
    """Elements of four bytes from their halves."""
    return b"".join(low[i : i + 2] + high[i : i + 2] for i in range(0, len(high), 2))


# The writer


@dataclass
class Chunk:
    """The fields of a CHUNK; those that are None are as they should be."""

    matrices: Sequence[Matrix]
    base: int
    apart: bytes
    rest: bytes
    signs: bytes
    stream: bytes
    low: bytes = b""
    count: int | None = None
    apart_size: int | None = None
    stream_size: int | None = None

    def pack(self) -> bytes:
        """The payload."""
        count = len(self.matrices) if self.count is None else self.count
        apart = len(self.apart) if self.apart_size is None else self.apart_size
        stream = len(self.stream) if self.stream_size is None else self.stream_size
        head = struct.pack("<HhII", count, self.base, apart, stream)
        heads = b"".join(MATRIX.pack(*vars(matrix).values()) for matrix in self.matrices)
        return head + heads + self.apart + self.rest + self.signs + self.stream + self.low


def pack_model(model: Model, nested: bytes = b"") -> bytes:
    """The payload of a MODEL frame."""
    number = next(number for number, form in FORMS.items() if form == model.form)
    head = (CODEC, number, model.phase, model.first_exponent, model.exponents, model.tails)
    return struct.pack("<BBBbBB", *head) + rans.pack(model.frequencies) + nested


def write(
    model: Model,
    matrices: Sequence[Matrix],
    base: int,
    offsets: Sequence[int],
    tops: Sequence[tuple[int, int]],
    below: tuple[bytes, bytes],
    low: bytes = b"",
) -> Chunk:
    """A chunk. `offsets`: symbols of the first run; `tops`: symbol and what stands apart of it."""
    scales = scales_of(matrices, offsets)
    first = (bytes(offsets), scale_contexts(model, matrices))
    symbols = bytes([symbol for symbol, _ in tops])
    second = (symbols, [s % (1 << model.phase) for s in scales])
    bits = BitWriter()
    for symbol, apart in tops:
        if symbol > model.joint:
            escape = symbol >= model.escape
            bits.put(apart, model.form.top_bits if escape else model.form.mantissa_bits)
    stream = rans.encode([first, second], model.frequencies)
    return Chunk(matrices, base, bits.finish(), *below, stream, low)
