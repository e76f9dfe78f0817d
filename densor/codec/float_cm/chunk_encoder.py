"""The coding side of the mixing codec: side information, then one pass over the weights."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from densor.codec.float_cm import kernels
from densor.codec.float_cm.params import (
    Header,
    Matrices,
    Parameters,
    Words,
    is_transposed,
    pack_header,
    run,
)
from densor.float_formats import FloatFormat
from densor.runtime.types import Bytes

_SAMPLE = 1 << 16  # elements from which the kind of the lower bits is judged
_LEARNING = 8  # bits that each of their values costs until it is known
_ZEROS = 1 << 10  # one zero in so many is worth a flag
_SLAB = 1 << 18  # elements looked at together
_TOP = 7  # bits of the mantissa from which magnitudes are measured
_NORMAL = 0.32575  # log2 of the standard deviation of a normal variable over its mean size

F64 = npt.NDArray[np.float64]
I32 = npt.NDArray[np.int32]


def encode_chunk(model: Parameters, chunk: Bytes, matrices: Matrices) -> Bytes | None:
    """The payload of a chunk; None if it would be longer than the chunk."""
    size = model.form.size
    values = chunk.view(f"<u{size}").astype(np.uint32)
    has_zeros = int(np.count_nonzero(values == 0)) * _ZEROS > values.size
    groups = _groups(model, values)
    scales = _scales(model.form, values, matrices)
    data = np.empty(chunk.size, np.uint8)
    raw = np.zeros(values.size * model.rest // 8 + 2, np.uint8)
    header = Header(list(matrices), has_zeros, groups, 0)
    end, bits = run(True, model, header, data, 0, raw, values, scales)
    head = pack_header(Header(header.matrices, has_zeros, groups, end))
    raw = raw[: -(-bits // 8)]
    if bits < 0 or len(head) + end + raw.size >= chunk.size:
        return None
    return np.concatenate([np.frombuffer(head, np.uint8), data[:end], raw])


def _groups(model: Parameters, values: Words) -> Bytes:
    """How to store each group of lower bits, as in `Header`."""
    kinds = np.zeros((model.groups, 2), np.uint8)
    left = model.rest
    sample = values[:: max(1, values.size // _SAMPLE)]
    for g in range(model.groups):
        bits = (left - 1) % 8 + 1
        left -= bits
        part = (values >> np.uint32(left)) & np.uint32((1 << bits) - 1)
        if (part == part[0]).all():
            kinds[g] = kernels.CONSTANT, part[0]
        elif _tree_bits(sample >> np.uint32(left) & np.uint32((1 << bits) - 1)) < bits:
            kinds[g, 0] = kernels.TREE
    return kinds


def _tree_bits(part: Words) -> float:
    """What a tree of counters takes per element, about: order-0 entropy and what learning costs."""
    counts = np.bincount(part)
    used = counts[counts > 0]
    entropy = -(used * np.log2(used / part.size)).sum()
    return float(entropy + _LEARNING * used.size) / part.size


def _scales(form: FloatFormat, values: Words, matrices: Matrices) -> tuple[I32, I32]:
    """Scales of the rows and columns of all matrices in the order of coding, quarter octaves."""
    rows, columns = [], []
    sizes, shift = _size_table(form)
    first = 0
    for shape in matrices:
        count = shape[0] * shape[1]
        matrix = values[first : first + count].reshape(shape)
        if is_transposed(*shape):
            matrix = matrix.T
        of_rows = _row_scales(matrix, sizes, shift)
        rows.append(of_rows)
        columns.append(_column_scales(matrix, sizes, shift, of_rows))
        first += count
    return np.concatenate(rows), np.concatenate(columns)


def _size_table(form: FloatFormat) -> tuple[F64, np.uint32]:
    """Absolute value by the top bits of a number, and how far to shift it to have these.

    A number with exponent field e and mantissa 0 has the size 2^e.
    """
    bits = 1 + form.exponent + min(form.mantissa, _TOP)
    top = np.arange(1 << bits, dtype=np.int64)
    kept = bits - 1 - form.exponent
    exponent = (top >> kept) & ((1 << form.exponent) - 1)
    mantissa = (top & ((1 << kept) - 1)) / float(1 << kept)
    sizes = np.ldexp(mantissa + (exponent > 0), np.maximum(exponent, 1))
    return sizes, np.uint32(form.mantissa - kept)


def _row_scales(matrix: Words, sizes: F64, shift: np.uint32) -> I32:
    scales = np.empty(len(matrix), np.int32)
    for begin, slab in _slabs(matrix):
        magnitudes = sizes[slab >> shift]
        counts = np.count_nonzero(magnitudes, axis=1)
        scales[begin : begin + len(slab)] = _quarters(magnitudes.sum(axis=1), counts)
    return scales


def _column_scales(matrix: Words, sizes: F64, shift: np.uint32, of_rows: I32) -> I32:
    """Scales of what is left after those of the rows; 0 where the rows are too few."""
    total, counts = np.zeros(matrix.shape[1]), np.zeros(matrix.shape[1], np.int64)
    if len(matrix) < kernels.MIN_ROWS:
        return np.zeros(matrix.shape[1], np.int32)
    for begin, slab in _slabs(matrix):
        magnitudes = sizes[slab >> shift]
        counts += np.count_nonzero(magnitudes, axis=0)
        magnitudes *= np.exp2(-of_rows[begin : begin + len(slab)] / 4)[:, None]
        total += magnitudes.sum(axis=0)
    return _quarters(total, counts)


def _slabs(matrix: Words) -> Iterator[tuple[int, Words]]:
    """Rows of a matrix, some at a time, and the number of their first."""
    step = max(1, _SLAB // matrix.shape[1])
    for begin in range(0, len(matrix), step):
        yield begin, matrix[begin : begin + step]


def _quarters(sums: F64, counts: npt.NDArray[np.int64]) -> I32:
    """Logarithm of the mean size of what is not zero, as the deviation of a normal variable."""
    mean = sums / np.maximum(counts, 1)
    logs = np.log2(np.where(mean > 0, mean, 1.0)) + _NORMAL
    quarters: I32 = np.rint(4 * np.where(mean > 0, logs, 0.0)).astype(np.int32)
    return quarters
