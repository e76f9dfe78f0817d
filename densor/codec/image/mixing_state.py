"""The binding of context mixing: the state before the first sample, constants, and the coding."""

import functools
from typing import Any

import numpy as np
import numpy.typing as npt

from densor.codec.batch import Bytes
from densor.codec.byte_cm.kernels import end_coder, start_coder
from densor.codec.byte_cm.vectors import LANES
from densor.codec.image import kernels, pixels
from densor.codec.image import mixing_kernels as mixing
from densor.codec.image.gradient import planes_of, split
from densor.codec.image.local import CELLS, WINDOWS, sections_of
from densor.codec.image.mixing_kernels import Image, State, Tables
from densor.codec.image.params import LOCAL, Model
from densor.codec.image.predict import SIDES
from densor.codec.image.recursive import FEATURES, SETTINGS
from densor.codec.image.shapes import SHAPES, VALUES
from densor.entropy.arithmetic.logistic import (
    ONE,
    exp_minus,
    rate_table,
    rounded,
    squash_table,
    stretch_table,
)
from densor.entropy.arithmetic.state import AT, STATE
from densor.runtime.cache_lines import in_lines
from densor.runtime.memory import MEMORY

FRESH = 1 << 31  # a counter: probability 1/2, nothing counted
LEAST_LINES, MOST_LINES = 8, 16  # logarithms
ALL_LINES = 22  # of all contexts and channels together: 256 MiB
_PIECE = 1 << 15  # samples after which an interrupt is noticed
_TRUST = (0, 100, 160, 190, 210, 222, 232, 238, 242, 246, 248, 250, 252, 253, 254, 255)
_QUARTERS = (65536, 55109, 46341, 38968)  # 2^16 / 2^(i / 4)
_FIRST_WEIGHTS = 13000, 6500  # of predictors and of contexts
_COUNTS = 1024


@functools.cache
def tables() -> Tables:
    """The constants of the kernel."""
    squash = squash_table()
    stretch = stretch_table(squash).astype(np.int16)
    trust = np.array([*_TRUST, *[256] * (256 - len(_TRUST))], np.int32)
    inverse = [(_QUARTERS[i % 4] << 11) >> (i // 4) for i in range(pixels.SCALES)]
    narrow, wide = _distribution(((5, 1, 1),)), _distribution(((4, 5, 4), (1, 1, 3)))
    return Tables(
        *(squash.astype(np.uint16), stretch, rate_table(_COUNTS), trust),
        *(narrow, wide, np.array(inverse, np.int64)),
    )


def _distribution(parts: tuple[tuple[int, int, int], ...]) -> npt.NDArray[np.int32]:
    """int32[2 CENTRE + 1]: a mix of logistic distributions at every 16th of the scale.

    `parts`: of each, its share in fifths and what distances are multiplied with, a fraction.
    """
    half = [
        sum(
            share * (ONE * ONE // (ONE + exp_minus(x * above, 16 * below)))
            for share, above, below in parts
        )
        // 5
        for x in range(pixels.CENTRE + 1)
    ]
    upper = [rounded(value, 22) for value in half]
    lower = [pixels.ALL - value for value in upper[:0:-1]]
    return np.array([*lower, *upper], np.int32)


def image_of(model: Model, size: int) -> Image:
    """What the kernel must know of `size` bytes of rows."""
    shape = model.shape(size)
    most = min(MOST_LINES, ALL_LINES - (shape.channels * model.contexts - 1).bit_length())
    bits = max(LEAST_LINES, min(most, (shape.rows * shape.width - 1).bit_length() - 1))
    sizes = shape.rows, shape.width, shape.channels, shape.depth
    sets = mixing.BASIC_SETS + (model.contexts > VALUES)
    predictors, linear = (8, 1 + WINDOWS) if model.method == LOCAL else (6, len(SETTINGS))
    return Image(*sizes, model.contexts, sets, 1 << bits, model.steps, predictors, linear)


def new_state(m: Image, planes: npt.NDArray[np.int32]) -> State:
    """The state before the first sample."""
    c, predictors = m.channels, m.predictors
    linear, windows = c * m.linear, c * (m.linear - 1) * (m.linear > len(SETTINGS))
    weights = np.zeros((linear, FEATURES), np.int32)
    weights[:, 0] = 1 << 15
    inputs = -(-(predictors + mixing.CONTEXTS + 2) // LANES) * LANES
    match = predictors + VALUES  # after which the constant stands
    mixers = in_lines((c * sum(mixing.ROWS[: m.sets]), inputs), np.int32, 0)
    mixers[:, :predictors] = _FIRST_WEIGHTS[0] * 6 // predictors
    mixers[:, predictors : match + 1] = _FIRST_WEIGHTS[1]
    if m.contexts > VALUES:
        mixers[:, match + 2 : match + 2 + SHAPES] = _FIRST_WEIGHTS[1]
    cells = tables().squash[[*((4096 * i + 15) // 31 for i in range(31)), 4095]]
    matches = np.full((c, mixing.LENGTHS, 16), FRESH, np.uint32)
    matches[:] += np.arange(mixing.LENGTHS, dtype=np.uint32)[:, None] << 26
    return State(
        coder=np.zeros(STATE, np.int64),
        planes=planes,
        features=np.zeros(FEATURES, np.int32),
        scaled=np.zeros(FEATURES, np.int32),
        correlations=np.zeros(linear * FEATURES * FEATURES, np.int32),
        gradients=np.zeros(linear * FEATURES, np.int64),
        weights=weights.reshape(-1),
        next=np.zeros(linear, np.int64),
        sections=np.zeros(windows * 2 * (sections_of(m.width) + 1) * CELLS, np.int32),
        left=np.zeros(windows * CELLS, np.int32),
        window=np.zeros(windows // WINDOWS * CELLS, np.int32),
        errors=np.zeros(c * predictors * 3 * (m.width + SIDES), np.int32),
        sums=np.zeros(2 * c * predictors * pixels.QUALITIES, np.int64),
        bias=np.zeros(2 * c * predictors * mixing.BIASES, np.int64),
        raw=np.zeros((mixing.RAW_PARTS + 1) * mixing.PREDICTORS, np.int64),
        hashes=np.zeros(3 * mixing.CONTEXTS, np.int64),
        counters=in_lines((c * m.contexts * m.lines * 16,), np.uint32, FRESH),
        inputs=np.zeros(inputs, np.int32),
        mixers=mixers,
        outputs=np.zeros(m.sets, np.int32),
        final=np.full((16 * c, m.sets), 65536 // m.sets, np.int32),
        apm0=in_lines((c * mixing.APM_ROWS[0], cells.size), np.uint16, cells).reshape(-1),
        apm1=in_lines((c * mixing.APM_ROWS[1], cells.size), np.uint16, cells).reshape(-1),
        places=np.zeros(mixing.PLACES, np.uint32),
        match=np.zeros(2, np.int64),
        matches=matches.reshape(-1),
    )


def code(coding: bool, model: Model, data: Bytes, content: Bytes) -> int:
    """Codes rows, all of `content`, to `data` or back; returns where the stream ends.

    That may be beyond the bytes of `data`. Both are writable.
    """
    m = image_of(model, content.size)
    windows = 8 * m.channels * WINDOWS * (sections_of(m.width) + 1) * CELLS
    counters = 64 * m.channels * m.contexts * m.lines
    used = counters + 4 * content.size + windows * (model.method == LOCAL)
    with MEMORY.borrowed(used):
        planes = planes_for(coding, model, content)
        return run(coding, model, data, content, m, new_state(m, planes), mixing.code_rows)


def planes_for(coding: bool, model: Model, content: Bytes) -> npt.NDArray[np.int32]:
    """Planes of rows that are coded, or room for those that are decoded."""
    shape = model.shape(content.size)
    return split(shape, content) if coding else planes_of(shape)


def run(
    coding: bool, model: Model, data: Bytes, content: Bytes, m: Any, state: Any, code_rows: Any
) -> int:
    """Calls a kernel for all rows; returns where the stream ends. `m`, `state`: as it has them."""
    start_coder(coding, state.coder, data)
    rows = max(1, _PIECE // (m.width * m.channels))
    for begin in range(0, m.rows, rows):
        code_rows(coding, m, state, tables(), data, begin, min(m.rows, begin + rows))
        if state.coder[AT] > data.size + 4:
            break
    if coding:
        end_coder(state.coder, data)
    else:
        kernels.join_rows(model.shape(content.size), state.planes, content)
    return int(state.coder[AT])
