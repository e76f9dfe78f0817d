"""The binding of residuals by decisions: the state before the first sample, and the coding."""

import numpy as np
import numpy.typing as npt

from densor.codec.batch import Bytes
from densor.codec.image import residual_kernels as residual
from densor.codec.image.mixing_state import FRESH, planes_for, run, tables
from densor.codec.image.params import Model
from densor.codec.image.pixels import QUALITIES
from densor.codec.image.predict import SIDES, TOP
from densor.codec.image.residual_kernels import (
    BIASES,
    CONTEXTS,
    FEATURES,
    INPUTS,
    MIXER_ROWS,
    NODES,
    OFFSETS,
    ROOM,
    Residual,
    ResidualState,
)
from densor.entropy.arithmetic.state import STATE
from densor.runtime.cache_lines import in_lines
from densor.runtime.memory import MEMORY

LEAST_LINES, MOST_LINES = 8, 12  # logarithms
_FIRST_WEIGHTS = 14000, 9000  # of distributions and of counters
_BYTES_OF_PLANE = 1 << 19  # of what does not depend on its size, about


def sizes_of(model: Model, size: int) -> Residual:
    """What the kernel must know of `size` bytes of rows."""
    shape = model.shape(size)
    bits = max(LEAST_LINES, min(MOST_LINES, (shape.rows * shape.width - 1).bit_length() - 1))
    return Residual(shape.rows, shape.width, shape.channels, shape.depth, 1 << bits, model.steps)


def new_state(m: Residual, planes: npt.NDArray[np.int32]) -> ResidualState:
    """The state before the first sample."""
    c, columns = m.channels, m.width + SIDES
    weights = np.zeros((c, FEATURES), np.int32)
    weights[:, 0] = 1 << 15
    mixers = np.zeros((c * sum(MIXER_ROWS), INPUTS), np.int32)
    mixers[:, :2] = _FIRST_WEIGHTS[0]
    mixers[:, 2 : INPUTS - 1] = _FIRST_WEIGHTS[1]
    cells = tables().squash[[*((4096 * i + 15) // 31 for i in range(31)), 4095]]
    return ResidualState(
        coder=np.zeros(STATE, np.int64),
        planes=planes,
        features=np.zeros(FEATURES, np.int32),
        scaled=np.zeros(FEATURES, np.int32),
        correlations=np.zeros(c * FEATURES * FEATURES, np.int32),
        gradients=np.zeros(c * FEATURES, np.int64),
        weights=weights.reshape(-1),
        next=np.zeros(c, np.int64),
        predictions=np.zeros(ROOM, np.int64),
        sizes=np.zeros(ROOM, np.int64),
        misses=np.zeros(c * 3 * columns * ROOM, np.int32),
        errors=np.zeros(c * 3 * columns, np.int32),
        means=np.tile(_first_means(m.depth), c),
        bias=np.zeros(2 * c * BIASES, np.int32),
        seen=np.zeros(2 * c * BIASES, np.int32),
        hashes=np.zeros(CONTEXTS + 2, np.int64),
        counters=in_lines((c * CONTEXTS * m.lines * NODES,), np.uint32, FRESH),
        direct=in_lines((2 * c * QUALITIES * OFFSETS * NODES,), np.uint32, FRESH),
        inputs=np.zeros(INPUTS, np.int32),
        mixers=mixers,
        apm=in_lines((c * QUALITIES * NODES, cells.size), np.uint16, cells).reshape(-1),
    )


def _first_means(depth: int) -> npt.NDArray[np.int32]:
    """int32[QUALITIES]: what errors of each class are expected to be, in units of 1/1024."""
    shift = max(0, depth - 8) >> 1
    least = [k if k < 8 else (4 + (k & 3)) << ((k - 8) // 4 + 1) for k in range(QUALITIES)]
    return np.array([(96 * value << shift) + 64 for value in least], np.int32)


def code(coding: bool, model: Model, data: Bytes, content: Bytes) -> int:
    """Codes rows, all of `content`, to `data` or back; returns where the stream ends.

    That may be beyond the bytes of `data`. Both are writable.
    """
    m = sizes_of(model, content.size)
    counters = 4 * m.channels * CONTEXTS * m.lines * NODES
    columns, rows = m.width + SIDES, m.rows + TOP
    by_place = 4 * m.channels * columns * (3 * (ROOM + 1) + rows)
    with MEMORY.borrowed(counters + m.channels * _BYTES_OF_PLANE + by_place):
        state = new_state(m, planes_for(coding, model, content))
        return run(coding, model, data, content, m, state, residual.code_residuals)
