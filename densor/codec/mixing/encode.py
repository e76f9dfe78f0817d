"""The coding side of the mixing codec: side information, then one pass over the weights."""

import numpy as np
import numpy.typing as npt

from densor.codec.mixing import kernels
from densor.codec.mixing.model import (
    Bytes,
    Format,
    Header,
    Matrices,
    Model,
    Words,
    coded_shape,
    is_transposed,
    pack_header,
    run,
)

_SAMPLE = 1 << 16  # elements from which the kind of the lower bits is judged
_LEARNING = 8  # bits that each of their values costs until it is known
_ZEROS = 1 << 10  # one zero in so many is worth a flag
_NORMAL = 0.32575  # log2 of the standard deviation of a normal variable over its mean size

F64 = npt.NDArray[np.float64]
I32 = npt.NDArray[np.int32]


def encode_chunk(model: Model, chunk: Bytes, matrices: Matrices) -> Bytes | None:
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


def _groups(model: Model, values: Words) -> Bytes:
    """How to store each group of lower bits, as in `Header`."""
    found = np.zeros((model.groups, 2), np.uint8)
    left = model.rest
    sample = values[:: max(1, values.size // _SAMPLE)]
    for g in range(model.groups):
        bits = (left - 1) % 8 + 1
        left -= bits
        part = (values >> np.uint32(left)) & np.uint32((1 << bits) - 1)
        if (part == part[0]).all():
            found[g] = kernels.CONSTANT, part[0]
        elif _tree_bits(sample >> np.uint32(left) & np.uint32((1 << bits) - 1)) < bits:
            found[g, 0] = kernels.TREE
    return found


def _tree_bits(part: Words) -> float:
    """What a tree of counters takes per element, about: order-0 entropy and what learning costs."""
    counts = np.bincount(part)
    used = counts[counts > 0]
    entropy = -(used * np.log2(used / part.size)).sum()
    return float(entropy + _LEARNING * used.size) / part.size


def _scales(form: Format, values: Words, matrices: Matrices) -> tuple[I32, I32]:
    """Scales of the rows and columns of all matrices in the order of coding, quarter octaves."""
    rows, columns = [], []
    first = 0
    for shape in matrices:
        count = shape[0] * shape[1]
        matrix = _sizes(form, values[first : first + count]).reshape(shape)
        if is_transposed(*shape):
            matrix = matrix.T
        of_rows = _quarters(matrix, 1)
        rows.append(of_rows)
        if coded_shape(*shape)[0] >= kernels.LEAST:
            columns.append(_quarters(matrix * np.exp2(-of_rows / 4)[:, None], 0))
        else:
            columns.append(np.zeros(matrix.shape[1], np.int32))
        first += count
    return np.concatenate(rows), np.concatenate(columns)


def _sizes(form: Format, values: Words) -> F64:
    """Absolute values, 1.0 being the number whose exponent field is 0, if it were not denormal."""
    magnitude = values & np.uint32((1 << (form.exponent + form.mantissa)) - 1)
    exponent = (magnitude >> np.uint32(form.mantissa)).astype(np.int32)
    mantissa = (magnitude & np.uint32((1 << form.mantissa) - 1)) / float(1 << form.mantissa)
    return np.ldexp(mantissa + (exponent > 0), np.maximum(exponent, 1))


def _quarters(sizes: F64, axis: int) -> I32:
    """Logarithm of the mean size of what is not zero, as the deviation of a normal variable."""
    count = np.maximum(np.count_nonzero(sizes, axis=axis), 1)
    mean = sizes.sum(axis=axis) / count
    logs = np.log2(np.where(mean > 0, mean, 1.0)) + _NORMAL
    quarters: I32 = np.rint(4 * np.where(mean > 0, logs, 0.0)).astype(np.int32)
    return quarters
