"""The binding of context mixing: the state before the first symbol, constants, and the coding."""

import functools
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from densor.codec.batch import Bytes
from densor.codec.table.layout import I64
from densor.codec.table.state import APM_ROWS, BUCKETS, DEPTHS, FIELDS, LINE, Code, State, Tables
from densor.entropy.arithmetic.logistic import rate_table, squash_table, stretch_table
from densor.entropy.arithmetic.state import AT, STATE
from densor.entropy.deferred import Kernels, deferred
from densor.runtime.memory import MEMORY

kernels = Kernels("densor.codec.table.mixing_kernels")
end_coder, start_coder = deferred("densor.codec.byte_cm.kernels", "end_coder", "start_coder")

GUESSES = 1 << 18
LEAST_LINES, ALL_LINES = 8, 21  # logarithms; 64 bytes each, of all contexts of a column
_PIECE = 1 << 14  # rows after which an interrupt is noticed
_BUCKETS = (0, 1, 2, 3, 4, 5, 6, 8, 11, 16, 24, 40, 80, 160, 320, 640)


class Settings(NamedTuple):
    """`rows` of the whole column; `limit`: what counters count to; whether symbols are guessed."""

    rows: int
    limit: int
    guess: bool


@functools.cache
def tables() -> Tables:
    """The constants of the kernel."""
    squash = squash_table()
    buckets = np.searchsorted(_BUCKETS, np.arange(1024), "right") - 1
    return Tables(
        squash.astype(np.uint16),
        stretch_table(squash).astype(np.int16),
        rate_table(1024),
        buckets.astype(np.uint8),
    )


def line_bits(contexts: int, rows: int) -> int:
    """The logarithm of how many lines each context has."""
    most = ALL_LINES - (contexts - 1).bit_length()
    return max(LEAST_LINES, min(most, rows.bit_length() + 1))


def new_state(contexts: int, bits: int, guess: bool) -> State:
    """The state before the first symbol."""
    weights = np.zeros((DEPTHS, contexts, BUCKETS), np.int32)
    weights[:, :, 1:] = 65536 // 4 + np.arange(1, BUCKETS) * (65536 // 40)
    cells = tables().squash[[*((4096 * i + 15) // 31 for i in range(31)), 4095]]
    return State(
        coder=np.zeros(STATE, np.int64),
        lines=np.zeros(contexts * LINE << bits, np.uint32),
        weights=weights.reshape(-1),
        apm=np.tile(cells, APM_ROWS),
        hashes=np.zeros(contexts, np.int64),
        places=np.zeros(contexts, np.int64),
        inputs=np.zeros(contexts, np.int32),
        chosen=np.zeros(contexts, np.int64),
        guesses=np.zeros(GUESSES if guess else 0, np.int32),
    )


def code_column(
    coding: bool,
    code: Code,
    contexts: I64,
    parents: I64,
    symbols: npt.NDArray[np.int32],
    data: Bytes,
    settings: Settings,
) -> int:
    """Codes all `symbols` to `data` or back; returns where the stream ends, maybe beyond `data`.

    `contexts`: int64[contexts, FIELDS]; `parents`: int64[parents, rows]. To decode, these and
    `symbols` may have the first rows alone.
    """
    count, rows = contexts.shape[0], symbols.size
    assert contexts.shape == (count, FIELDS) and parents.shape[1:] == (rows,)
    total, limit, guess = settings
    assert rows == total or (rows < total and not coding)
    bits = line_bits(count, total)
    with MEMORY.borrowed(4 * count * LINE << bits):
        state = new_state(count, bits, guess)
        start_coder(coding, state.coder, data)
        flat = np.ascontiguousarray(contexts).reshape(-1), np.ascontiguousarray(parents).reshape(-1)
        for begin in range(0, rows, _PIECE):
            end = min(rows, begin + _PIECE)
            kernels.code_symbols(
                coding, state, tables(), code, *flat, symbols, data, limit, begin, end
            )
            if state.coder[AT] > data.size + 4:
                break
        if coding:
            end_coder(state.coder, data)
        return int(state.coder[AT])
