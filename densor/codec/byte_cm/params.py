"""What both sides of the text codec need: its parameters, and the state that they imply."""

import functools
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from densor.codec import registry
from densor.codec.byte_cm import contexts, counters, kernels, match
from densor.codec.byte_cm.apm import CELLS
from densor.codec.byte_cm.kernels import State, Tables
from densor.codec.byte_cm.states import STATES, states
from densor.codec.byte_cm.vectors import LANES
from densor.entropy.arithmetic.logistic import rate_table, squash_table, stretch_table
from densor.entropy.arithmetic.state import STATE
from densor.errors import FormatError, LimitError

MAX_SEGMENT = 1 << 24  # original bytes
MIN_TABLE_BITS, MAX_TABLE_BITS = 12, 28  # logarithm of the bytes of the table of bit histories
_BITS_MORE = 7  # than the size of a segment has, at most
_MODEL = struct.Struct("<BBBBI")
_PLACES = 20  # logarithm of the most places that the match model keeps
_FIRST_WEIGHT = 150000  # shared by the contexts
_COUNTS = 1024
_LINE, _HUGE_PAGE = 1 << 6, 1 << 21  # bytes


@dataclass(frozen=True)
class Parameters:
    """The parameters of a MODEL frame.

    `contexts`: which contexts are used, a bit each; `sets`: how many sets of weights; `bits`: the
    table of bit histories has at most 2^bits bytes.
    """

    contexts: int
    sets: int
    bits: int

    @property
    def chosen(self) -> npt.NDArray[np.int64]:
        """The numbers of the contexts, in order."""
        numbers = [i for i in range(contexts.CONTEXTS) if self.contexts >> i & 1]
        return np.array(numbers, np.int64)

    def table_bits(self, size: int) -> int:
        """Logarithm of the bytes of the table for a segment of `size` bytes."""
        return min(self.bits, max(MIN_TABLE_BITS, size.bit_length() + _BITS_MORE))


def pack(model: Parameters) -> bytes:
    """The payload of a MODEL frame."""
    return _MODEL.pack(registry.CODEC_BYTE_CM, model.bits, model.sets, 0, model.contexts)


def parse(payload: bytes) -> Parameters:
    """The model in a MODEL frame; FormatError or LimitError for a bad one."""
    if len(payload) != _MODEL.size:
        raise FormatError("text model has the wrong length")
    codec, bits, sets, reserved, chosen = _MODEL.unpack(payload)
    if codec != registry.CODEC_BYTE_CM or reserved or not 1 <= sets <= kernels.SETS:
        raise FormatError("text model has impossible parameters")
    if not 0 < chosen < 1 << contexts.CONTEXTS:
        raise FormatError("text model names contexts that do not exist")
    if bits < MIN_TABLE_BITS:
        raise FormatError("text model has too small a table")
    if bits > MAX_TABLE_BITS:
        raise LimitError(
            f"text model asks for a table of 2^{bits} bytes, at most 2^{MAX_TABLE_BITS}"
        )
    return Parameters(chosen, sets, bits)


@functools.cache
def tables() -> Tables:
    """The constant tables of section 2 of docs/format/byte_cm.md, for the kernel; computed once."""
    squash = squash_table()
    stretch = stretch_table(squash).astype(np.int16)
    return Tables(squash.astype(np.uint16), stretch, rate_table(_COUNTS), states().after)


def new_state(model: Parameters, size: int) -> State:
    """The state before the first byte of a segment of `size` bytes."""
    count = model.chosen.size
    bits = model.table_bits(size)
    weights = _first_weights(count)
    places = 1 << min(max((size - 1).bit_length(), 8), _PLACES)
    cells = CELLS << min(max(bits - 9, 8), 16)
    zeros = _zeros(
        histories=(np.uint8, 1 << bits),
        apm0=(np.uint16, cells),
        apm1=(np.uint16, cells),
        apm2=(np.uint16, cells),
        long_places=(np.uint32, places),
        short_places=(np.uint32, places),
        followers=(np.uint32, contexts.FOLLOWERS),
        direct=(np.uint32, kernels.DIRECT),
        weights=(np.int32, weights.size),
        state_maps=(np.uint32, STATES * count),
        inputs=(np.int32, weights.shape[1]),
        states=(np.int32, 3 * counters.TOGETHER),
    )
    for name in ("apm0", "apm1", "apm2"):
        zeros[name].reshape(-1, CELLS)[:] = first_row()
    zeros["direct"][:] = counters.FRESH
    zeros["weights"] = zeros["weights"].reshape(weights.shape)
    zeros["weights"][:] = weights
    zeros["state_maps"].reshape(count, STATES)[:] = _first_state_maps()
    return State(
        coder=np.zeros(STATE, np.int64),
        text=np.zeros(contexts.FIELDS, np.int64),
        match=np.zeros(match.MATCH, np.int64),
        hashes=np.zeros(contexts.CONTEXTS, np.int64),
        wanted=np.zeros(count, np.int64),
        slots=np.zeros(count, np.int64),
        places=np.zeros(kernels.PLACES, np.int64),
        matches=_first_matches(),
        rows=np.zeros(kernels.SETS, np.int64),
        sums=np.zeros(model.sets, np.int32),
        final=np.full((256, model.sets), 65536 // model.sets, np.int32),
        **zeros,
    )


def _zeros(**arrays: tuple[Any, int]) -> dict[str, Any]:
    """Arrays of a type and a size each, side by side: the largest begin where huge pages do, of
    which numpy asks for as many as fit, and all where cache lines do."""
    sizes = [-(-np.dtype(kind).itemsize * size // _LINE) * _LINE for kind, size in arrays.values()]
    block = np.zeros(sum(sizes) + _HUGE_PAGE, np.uint8)
    at = -block.ctypes.data % _HUGE_PAGE
    views = {}
    for (name, (kind, size)), step in zip(arrays.items(), sizes, strict=True):
        views[name] = block[at : at + step].view(kind)[:size]
        at += step
    return views


def _first_weights(count: int) -> npt.NDArray[np.int32]:
    """Each context's stretched input counts alike, and so do order 1 and the match."""
    inputs = counters.INPUTS * (count + kernels.OTHERS)
    weights = np.zeros((256 * kernels.SETS, -(-inputs // LANES) * LANES), np.int32)
    weights[:, : inputs : counters.INPUTS] = _FIRST_WEIGHT // count
    return weights


@functools.cache
def _first_state_maps() -> npt.NDArray[np.uint32]:
    """uint32[256]: what states mean at first; counts of one bit only are counted twice."""
    values = np.full(STATES, counters.FRESH, np.uint32)
    for state, (n0, n1) in enumerate(zip(states().zeros, states().ones, strict=True)):
        n0, n1 = n0 << (n1 == 0), n1 << (n0 == 0)
        values[state] = (((2 * n1 + 1) << 22) // (2 * (n0 + n1) + 2)) << 10
    return values


def first_row() -> npt.NDArray[np.uint16]:
    """uint16[32]: corrections that change nothing."""
    points = [(4096 * i + 15) // 31 for i in range(31)]
    return tables().squash[[*points, 4095]]


def _first_matches() -> npt.NDArray[np.uint32]:
    """Longer matches are trusted more: 1/2 + length / 64."""
    buckets = np.arange(match.BUCKETS, dtype=np.uint32)
    return np.minimum(2048 + 64 * buckets, 4095).astype(np.uint32) << np.uint32(20)
