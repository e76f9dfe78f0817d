"""What both sides of the text codec need: parameters, constants, the state before a segment."""

import functools
import struct
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from densor.codec import registry
from densor.codec.text import contexts, counters, kernels, match
from densor.codec.text.kernels import State, Tables
from densor.codec.text.states import STATES, states
from densor.entropy.arithmetic.kernels import STATE
from densor.entropy.arithmetic.logistic import rate_table, squash_table, stretch_table
from densor.errors import FormatError, LimitError

Bytes = npt.NDArray[np.uint8]

MAX_SEGMENT = 1 << 24  # original bytes
LEAST_BITS, MOST_BITS = 12, 28  # logarithm of the bytes of the table of bit histories
_MODEL = struct.Struct("<BBBBI")
_VECTOR = 8  # inputs are padded to a multiple
_PLACES = 20  # logarithm of the most places that the match model keeps
_FIRST_WEIGHT = 150000  # shared by the histories of all contexts
_COUNTS = 1024


@dataclass(frozen=True)
class Model:
    """The parameters of a MODEL frame.

    `contexts`: which contexts are used, a bit each; `sets`: how many sets of weights; `bits`: the
    table of bit histories has 2^bits bytes.
    """

    contexts: int
    sets: int
    bits: int


def pack(model: Model) -> bytes:
    """The payload of a MODEL frame."""
    return _MODEL.pack(registry.CODEC_TEXT, model.bits, model.sets, 0, model.contexts)


def parse(payload: bytes) -> Model:
    """The model in a MODEL frame; FormatError or LimitError for a bad one."""
    if len(payload) != _MODEL.size:
        raise FormatError("text model has the wrong length")
    codec, bits, sets, reserved, chosen = _MODEL.unpack(payload)
    if codec != registry.CODEC_TEXT or reserved or not 1 <= sets <= kernels.SETS:
        raise FormatError("text model has impossible parameters")
    if not 0 < chosen < 1 << contexts.CONTEXTS:
        raise FormatError("text model names contexts that do not exist")
    if not LEAST_BITS <= bits <= MOST_BITS:
        raise LimitError(f"text model asks for a table of 2^{bits} bytes")
    return Model(chosen, sets, bits)


def run(coding: bool, model: Model, data: Bytes, content: Bytes) -> int:
    """Codes `content` to `data` or back; returns where the stream ends, maybe beyond `data`."""
    numbers = [i for i in range(contexts.CONTEXTS) if model.contexts >> i & 1]
    state = _new_state(model, len(numbers), content.size)
    kernels.code_segment(coding, state, _tables(), data, content, np.array(numbers, np.int64))
    return int(state.coder[2])


@functools.cache
def _tables() -> Tables:
    squash = squash_table()
    return Tables(
        squash.astype(np.uint16),
        stretch_table(squash).astype(np.int16),
        rate_table(_COUNTS),
        states().after,
    )


@functools.cache
def _first_meanings() -> npt.NDArray[np.uint32]:
    """uint32[256]: what states mean at first; counts of one bit only are counted twice."""
    found = np.full(STATES, counters.FRESH, np.uint32)
    for state, (n0, n1) in enumerate(zip(states().zeros, states().ones, strict=True)):
        n0, n1 = n0 << (n1 == 0), n1 << (n0 == 0)
        found[state] = (((2 * n1 + 1) << 22) // (2 * (n0 + n1) + 2)) << 10
    return found


def _new_state(model: Model, count: int, size: int) -> State:
    """The state before the first byte of a segment of `size` bytes, under `count` contexts."""
    inputs = counters.INPUTS * count + kernels.OTHERS
    weights = np.zeros((256 * kernels.SETS, -(-inputs // _VECTOR) * _VECTOR), np.int32)
    weights[:, : counters.INPUTS * count : counters.INPUTS] = _FIRST_WEIGHT // count
    weights[:, counters.INPUTS * count : inputs - 3] = _FIRST_WEIGHT // count
    places = 1 << min(max((size - 1).bit_length(), 8), _PLACES)
    rows = 1 << min(max(model.bits - 9, 8), 16)
    row = _tables().squash[[(4096 * i + 15) // 31 for i in range(31)] + [4095]].astype(np.uint16)
    return State(
        coder=np.zeros(STATE, np.int64),
        text=np.zeros(contexts.FIELDS, np.int64),
        match=np.zeros(match.MATCH, np.int64),
        followers=np.zeros(contexts.FOLLOWERS, np.uint32),
        long_places=np.zeros(places, np.uint32),
        short_places=np.zeros(places, np.uint32),
        hashes=np.zeros(contexts.CONTEXTS, np.int64),
        wanted=np.zeros(count, np.int64),
        slots=np.zeros(count, np.int64),
        places=np.zeros(kernels.PLACES, np.int64),
        histories=np.zeros(1 << model.bits, np.uint8),
        meanings=np.tile(_first_meanings(), count),
        matches=_first_matches(),
        direct=np.full(kernels.DIRECT, counters.FRESH, np.uint32),
        inputs=np.zeros(weights.shape[1], np.int32),
        weights=weights,
        rows=np.zeros(kernels.SETS, np.int64),
        sums=np.zeros(model.sets, np.int32),
        final=np.full((256, model.sets), 65536 // model.sets, np.int32),
        cells0=np.tile(row, rows),
        cells1=np.tile(row, rows),
        cells2=np.tile(row, rows),
    )


def _first_matches() -> npt.NDArray[np.uint32]:
    """Longer matches are trusted more: 1/2 + length / 64."""
    buckets = np.arange(match.BUCKETS, dtype=np.uint32)
    return np.minimum(2048 + 64 * buckets, 4095).astype(np.uint32) << np.uint32(20)
