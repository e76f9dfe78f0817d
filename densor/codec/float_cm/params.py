"""What both sides of the mixing codec need: formats, header of a chunk, blocks, state."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from densor.codec import registry
from densor.codec.float_cm import kernels
from densor.codec.float_cm.kernels import State
from densor.codec.float_cm.tables import tables
from densor.entropy.arithmetic.state import AT
from densor.errors import FormatError, LimitError, UnsupportedError
from densor.float_formats import FORMATS, FloatFormat, number_format
from densor.runtime.types import Bytes

Words = npt.NDArray[np.uint32]
Matrices = Sequence[tuple[int, int]]

MAX_CHUNK = 1 << 23  # original bytes
MAX_TOP = 4
_MODEL = struct.Struct("<BBBB")
_COUNT = struct.Struct("<H")
_SHAPE = struct.Struct("<II")
_LENGTH = struct.Struct("<I")
_HAS_ZEROS = 1


_BY_NUMBER = {form.float_cm: form for form in FORMATS if form.float_cm}


@dataclass(frozen=True)
class Parameters:
    """All that a chunk's payload needs to be decoded: `top` bits of the mantissa are modelled."""

    form: FloatFormat
    top: int

    @property
    def rest(self) -> int:
        """Lower bits of the mantissa, which are stored in groups of 8 and what is left, on top."""
        return self.form.mantissa - self.top

    @property
    def groups(self) -> int:
        """Number of groups of up to 8 bits that the lower mantissa bits are stored in."""
        return -(-self.rest // 8)


def format_of(dtype: str) -> FloatFormat:
    """The format of an element type; KeyError for a type that is not for this codec."""
    form = number_format(dtype)
    return _BY_NUMBER[form.float_cm if form else 0]


def pack(model: Parameters) -> bytes:
    """The payload of a MODEL frame."""
    return _MODEL.pack(registry.CODEC_FLOAT_CM, model.form.float_cm, model.top, 0)


def parse(payload: bytes) -> Parameters:
    """The model in a MODEL frame; FormatError or UnsupportedError for a bad one."""
    if len(payload) != _MODEL.size:
        raise FormatError("mixing model has the wrong length")
    codec, number, top, reserved = _MODEL.unpack(payload)
    form = _BY_NUMBER.get(number)
    if codec != registry.CODEC_FLOAT_CM or form is None:
        raise UnsupportedError(f"unknown codec or format {codec}, {number}; needs a newer densor")
    if top > min(MAX_TOP, form.mantissa) or reserved:
        raise FormatError("mixing model has impossible parameters")
    return Parameters(form, top)


@dataclass(frozen=True, eq=False)
class Header:
    """The start of a chunk's payload."""

    matrices: list[tuple[int, int]]
    has_zeros: bool  # each weight has a flag for zero
    groups: Bytes  # uint8[groups, 2]: kind and, of a constant, value
    coded: int  # bytes of the arithmetic stream, which follows; then come the raw bits


def pack_header(header: Header) -> bytes:
    """The bytes of a header, which begin a chunk's payload."""
    return b"".join(
        [
            _COUNT.pack(len(header.matrices)),
            *(_SHAPE.pack(*shape) for shape in header.matrices),
            bytes([_HAS_ZEROS * header.has_zeros]),
            header.groups.tobytes(),
            _LENGTH.pack(header.coded),
        ]
    )


def parse_header(payload: Bytes, model: Parameters, elements: int) -> tuple[Header, int]:
    """The header of a chunk of so many elements, and its size; FormatError for a bad one."""
    if elements * model.form.size > MAX_CHUNK:
        raise LimitError(f"mixing chunk has more than {MAX_CHUNK} bytes")
    if payload.size < _COUNT.size:
        raise FormatError("mixing chunk is too short")
    (count,) = _COUNT.unpack_from(payload)
    groups_at = _COUNT.size + _SHAPE.size * count + 1
    at = groups_at + 2 * model.groups
    if payload.size < at + _LENGTH.size:
        raise FormatError("mixing chunk is too short for its header")
    shapes = payload[_COUNT.size : groups_at - 1].view("<u4").reshape(count, 2).astype(object)
    matrices = [(rows, columns) for rows, columns in shapes.tolist()]
    if any(rows < 1 or columns < 1 for rows, columns in matrices):
        raise FormatError("mixing chunk has an empty matrix")
    if sum(rows * columns for rows, columns in matrices) != elements:
        raise FormatError("matrices of a mixing chunk do not add up to its elements")
    flags = int(payload[groups_at - 1])
    groups = payload[groups_at:at].reshape(-1, 2)
    if flags & ~_HAS_ZEROS or (groups[:, 0] > kernels.CONSTANT).any():
        raise FormatError("mixing chunk has unknown flags")
    _check_constants(groups, model)
    (coded,) = _LENGTH.unpack_from(payload, at)
    at += _LENGTH.size
    if coded > payload.size - at:
        raise FormatError("stream of a mixing chunk is longer than the chunk")
    return Header(matrices, bool(flags), groups, coded), at


def _check_constants(groups: Bytes, model: Parameters) -> None:
    """The topmost group has fewer bits; only constants have a value."""
    for g, (kind, value) in enumerate(groups.tolist()):
        bits = (model.rest - 1) % 8 + 1 if g == 0 else 8
        if value >> (bits if kind == kernels.CONSTANT else 0):
            raise FormatError("mixing chunk has an impossible constant")


def is_transposed(rows: int, columns: int) -> bool:
    """Whether a matrix is coded by columns, since these are the samples of which it has more."""
    return columns > rows >= kernels.MIN_ROWS_PREDICTED


def coded_shape(rows: int, columns: int) -> tuple[int, int]:
    """Rows and columns in the order of coding."""
    return (columns, rows) if is_transposed(rows, columns) else (rows, columns)


@dataclass(frozen=True, eq=False)
class Blocks:
    """Matrices cut into blocks of at most 512 columns, in the order of coding."""

    table: npt.NDArray[np.int64]  # int64[blocks, BLOCK]
    rows: int  # sum of the rows of all matrices, in the order of coding
    columns: int
    width: int  # columns of the widest block with prediction, 0 without


def blocks_of(matrices: Matrices) -> Blocks:
    """The blocks of at most WIDTH columns that the matrices of a chunk are coded in."""
    table = []
    first = row_at = column_at = 0
    width = 0
    last = 0  # columns of the latest matrix with prediction, 0 if it had several blocks
    for shape in matrices:
        rows, columns = coded_shape(*shape)
        steps = (1, rows) if is_transposed(*shape) else (columns, 1)
        count = -(-columns // kernels.WIDTH)
        most = -(-columns // count)
        predicts = rows >= kernels.MIN_ROWS_PREDICTED and min(most, columns) >= kernels.MIN_ROWS
        goes_on = predicts and count == 1 and last == columns
        for begin in range(0, columns, most):
            size = min(most, columns - begin)
            place = (first + begin * steps[1], rows, size, *steps, goes_on)
            table.append((*place, row_at, column_at + begin, begin == 0))
        if predicts:
            last = columns if count == 1 else 0
            width = max(width, most)
        first += rows * columns
        row_at += rows
        column_at += columns
    return Blocks(np.array(table, np.int64).reshape(-1, kernels.BLOCK), row_at, column_at, width)


def new_state(width: int) -> State:
    """The state before the first weight of a chunk; `width`: as in `Blocks`."""
    weights = np.zeros((kernels.NODES, kernels.INPUTS), np.int32)
    weights[:] = kernels.FIRST_WEIGHTS
    now = np.zeros(kernels.NOW, np.int64)
    now[-1] = 256  # the mixer's constant
    size = width + 1
    return State(
        weights=weights.ravel(),
        counters=np.full(kernels.COUNTERS, kernels.FRESH, np.uint32),
        now=now,
        columns=np.zeros((kernels.COLUMN_FIELDS, kernels.WIDTH), np.int64),
        recent=np.zeros((kernels.BATCH, size), np.int32),
        moments=np.zeros((size, size), np.int64),
        work=np.zeros((size, size), np.int64),
        factors=np.zeros((size, size), np.int32),
        row=np.zeros(size, np.int32),
        fitted=np.zeros(4, np.int64),
    )


def run(
    coding: bool,
    model: Parameters,
    header: Header,
    data: Bytes,
    begin: int,
    raw: Bytes,
    values: Words,
    scales: tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]] | None = None,
) -> tuple[int, int]:
    """Codes or decodes `values`; returns the end of the stream in `data` and the raw bits.

    Raw bits < 0: the data are no such chunk. `scales`: of rows and columns, given when coding.
    """
    blocks = blocks_of(header.matrices)
    if scales is None:
        scales = np.zeros(blocks.rows, np.int32), np.zeros(blocks.columns, np.int32)
    state = new_state(blocks.width)
    form = model.form
    numbers = [form.exponent, form.mantissa, model.top, int(header.has_zeros)]
    fields = np.array(numbers, np.int64)
    groups = np.ascontiguousarray(header.groups).ravel()
    table: Any = blocks.table
    bits = kernels.code_chunk(
        coding, state, tables(), data, begin, raw, values, fields, groups, table, *scales
    )
    return int(state.now[AT]), int(bits)
