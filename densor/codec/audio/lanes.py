"""The binding of the fast method: work space and bounds for its kernels, and the payload."""

import functools
import struct
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from densor.codec.audio import kernels, lane_kernels
from densor.codec.audio.distributions import costs, frequencies
from densor.codec.audio.fitting import TRIAL, Fitter, Shape, middle
from densor.codec.audio.kernels import MOST, ROW
from densor.codec.audio.lane_kernels import CONTEXTS, LANES, LEAD, Frame, Lanes
from densor.codec.audio.params import Model
from densor.codec.audio.samples import Planes, coded, restore
from densor.codec.batch import Bytes
from densor.entropy.rans.constants import FIRST
from densor.entropy.rans.decode import decode_table
from densor.entropy.rans.encode import encode_table
from densor.errors import FormatError

_HEAD = struct.Struct("<BBBBI")  # block, channel that is first, own and other weights, their bytes
LEAST_BLOCK, MOST_BLOCK = 8, 20  # logarithms
_MOST_LEVEL = 240  # averages stay below 2^30
_MOST_ROOM = 6  # bytes that a sample takes, at most

I32 = npt.NDArray[np.int32]


class Modelled(NamedTuple):
    """What is coded of a frame."""

    frame: Frame
    rows: I32  # int32[blocks, channels, ROW]
    starts: I32  # int32[channels, LANES]: the first sample of each lane
    levels: Bytes  # uint8[channels]: contexts to begin with
    tokens: Bytes
    contexts: Bytes
    errors: npt.NDArray[np.uint32]

    def counts(self) -> npt.NDArray[np.uint32]:
        """How often each token comes under each context."""
        found = np.zeros((CONTEXTS, 256), np.uint32)
        lane_kernels.count_tokens(self.tokens, self.contexts, found)
        return found


def bits_of(model: Model, data: Bytes) -> float:
    """Bits that samples take, about."""
    piece = _middle_of(model, data)
    bits: float = Fitter(len(piece), model.depth).bits(piece, Shape())
    return bits * (data.size // model.layout.size) / piece.size


def first_channel(model: Model, data: Bytes) -> int:
    """The channel of two that is to be coded first, 0 with one or more than two."""
    return Fitter(model.layout.channels, model.depth).first(_middle_of(model, data))


def _middle_of(model: Model, data: Bytes) -> Planes:
    """Samples from the middle as they are coded."""
    stride = model.layout.stride
    begin, end = middle(data.size // stride)
    return coded(model, data[begin * stride : end * stride])


def _frame(planes_shape: tuple[int, int], model: Model, block: int, first: int) -> Frame:
    channels, count = planes_shape
    return Frame(channels, count, -(-count // LANES), model.depth, 0, 0, 1 << block, first, 0)


def _with_weights(f: Frame, rows: I32) -> Frame:
    """The frame of some weights, which are as many as are used."""
    used = _used(rows)
    return f._replace(own=used.own, other=used.other, paired=int(f.depth <= 16 and used.short))


class Used(NamedTuple):
    """What rows of weights have: as many of a sort, and whether all fit 16 bits; the most that the
    sizes of those of a row add up to."""

    own: int
    other: int
    short: bool
    most: int


def _used(rows: I32) -> Used:
    """Weights of own samples and of the partner's count up to the last one that is not 0."""
    found = np.zeros(len(Used._fields), np.int64)
    kernels.survey_weights(rows.reshape(-1), found)
    own, other, wide, most = found.tolist()
    return Used(own, other, not wide, most)


def _lanes(f: Frame) -> Lanes:
    return Lanes(
        np.empty(f.channels * (LEAD + f.steps) * LANES, np.uint32),
        np.zeros((f.channels * 2 * LEAD + 1) * LANES, np.uint32),
        np.zeros(f.channels * LANES, np.uint32),
        np.empty(f.channels * 2 * LANES, np.uint32),
        np.zeros(LANES, np.int64),
        np.full(LANES, FIRST, np.uint32),
    )


def _begin(f: Frame, w: Lanes, levels: Bytes) -> None:
    """Sets the averages as they are before the first error."""
    level = levels.astype(np.int64) >> 1
    means = ((4 | level & 3) << (level >> 2)) >> 2
    w.averages[:] = np.repeat(means, 2 * LANES)


def _levels(planes: Planes, depth: int) -> Bytes:
    """The context that suits the errors of fixed prediction, about."""
    found = np.empty(len(planes), np.uint8)
    kernels.first_levels(planes, max(0, depth - lane_kernels.DEEP), found)
    return found


def modelled(model: Model, planes: Planes) -> Modelled:
    """What the fast method codes of a frame; `planes`: its samples as they are coded."""
    fitter = Fitter(len(planes), model.depth)
    begin, end = middle(planes.shape[1], TRIAL >> 1)
    shape = fitter.shape(np.ascontiguousarray(planes[:, begin:end]))
    rows = fitter.weights(planes, shape)
    f = _with_weights(_frame(planes.shape, model, shape.block, shape.first), rows)
    w = _lanes(f)
    lane_kernels.to_lanes(planes.view(np.uint32).reshape(-1), f, w.samples)
    levels = _levels(planes, model.depth)
    _begin(f, w, levels)
    n = f.channels * (f.steps - 1) * LANES
    found = np.empty(n, np.uint8), np.empty(n, np.uint8), np.empty(n, np.uint32)
    starts = _starts(f, w).copy()
    lane_kernels.model_lanes(f, w, np.ascontiguousarray(rows).reshape(-1), *found)
    return Modelled(f, rows, starts, levels, *found)


def _starts(f: Frame, w: Lanes) -> I32:
    """A view of the first sample of each lane."""
    rows = w.samples.view(np.int32).reshape(f.channels, LEAD + f.steps, LANES)
    return rows[:, LEAD]


def choose_contexts(counts: npt.NDArray[np.uint32], depth: int, usual: Bytes) -> Bytes:
    """The cheapest distribution for each context; `usual` where there is nothing to go by."""
    found = usual.copy()
    table = costs(depth)
    kernels.choose_contexts(
        *(counts.reshape(-1), table, (table.size - kernels.TRIED) // 256),
        *(np.empty(kernels.TRIED), found),
    )
    return found


def payload_of(model: Model, found: Modelled, starts: npt.NDArray[np.uint32]) -> Bytes:
    """The payload of a frame; `starts`: of the distributions, by rANS."""
    f = found.frame
    out = np.zeros(400 * found.rows.shape[0] * f.channels, np.uint8)
    rows = np.ascontiguousarray(found.rows)
    weights = out[: (kernels.pack_weights(rows, out) + 7) >> 3]
    head = _HEAD.pack(f.block.bit_length() - 1, f.first, f.own, f.other, weights.size)
    wide = found.starts.astype("<i4").view(np.uint8).reshape(-1, 4)
    firsts = wide[:, : -(-f.depth // 8)].reshape(-1)
    states = np.full(LANES, FIRST, np.uint32)
    words = np.empty(_MOST_ROOM * found.errors.size + 64, np.uint8)
    places = np.empty(2 * found.tokens.size, np.uint8)
    lane_kernels.place_tokens(found.tokens, found.contexts, model.contexts, places)
    at = lane_kernels.put_lanes_of(
        *(f.depth, found.contexts, found.errors, places, starts, states, words)
    )
    parts = np.frombuffer(head, np.uint8), found.levels, firsts, weights
    return np.concatenate([*parts, states.astype("<u4").view(np.uint8), words[at:]])


@functools.cache
def starts_table() -> npt.NDArray[np.uint32]:
    """What the encoder looks up of all distributions."""
    return encode_table(frequencies())


class Slots(NamedTuple):
    """What a decoder looks up."""

    rows: npt.NDArray[np.uint32]  # uint32[CONTEXTS]
    table: npt.NDArray[np.uint32]  # uint32[distributions << 12]


@functools.cache
def _slots_table() -> npt.NDArray[np.uint32]:
    """What the decoder looks up of all distributions."""
    return decode_table(frequencies())


def slots_of(model: Model) -> Slots:
    """The tables of the distributions that a model has."""
    return Slots(model.contexts.astype(np.uint32), _slots_table())


def decode(model: Model, slots: Slots, payload: Bytes, out: Bytes) -> None:
    """Decodes a frame into all of `out`; FormatError if it does not fit."""
    layout = model.layout
    channels, count = layout.channels, out.size // layout.stride
    width = -(-model.depth // 8)
    at = _HEAD.size + channels * (1 + LANES * width)
    if not count or out.size % layout.stride or payload.size < at:
        raise FormatError("audio chunk has an impossible size")
    payload = np.ascontiguousarray(payload)
    block, first, own, other, size = _HEAD.unpack(payload[: _HEAD.size].tobytes())
    if not LEAST_BLOCK <= block <= MOST_BLOCK or first > (channels == 2) or max(own, other) > MOST:
        raise FormatError("audio chunk has impossible sizes")
    f = _frame((channels, count), model, block, first)._replace(own=own, other=other)
    if channels == 1 and other:
        raise FormatError("audio chunk has impossible sizes")
    w = _lanes(f)
    levels = payload[_HEAD.size : _HEAD.size + channels]
    if (levels >= _MOST_LEVEL).any():
        raise FormatError("audio chunk has impossible levels")
    _begin(f, w, levels)
    firsts = payload[_HEAD.size + channels : at].reshape(-1, width)
    _starts(f, w)[:] = _signed(firsts, model.depth).reshape(channels, LANES)
    rows, short = _weights(f, payload[at : at + size], size)
    f = f._replace(paired=int(f.depth <= 16 and short))
    at += size
    states = payload[at : at + 4 * LANES]
    if states.size < 4 * LANES:
        raise FormatError("audio chunk is too short")
    w.states[:] = states.view("<u4") if states.flags.aligned else states.copy().view("<u4")
    if (w.states < FIRST).any():
        raise FormatError("audio chunk begins with an impossible state")
    end = payload.size - at - 4 * LANES
    words = np.zeros(end + (f.channels + 2) * 6 * LANES, np.uint8)
    words[:end] = payload[at + 4 * LANES :]
    if lane_kernels.take_lanes(f, w, rows, words, 0, *slots) != end or (w.states != FIRST).any():
        raise FormatError("audio chunk does not end with its last sample")
    planes = np.empty((channels, count), np.int32)
    lane_kernels.from_lanes(w.samples, f, planes.view(np.uint32).reshape(-1))
    restore(model, planes, out)


def _signed(firsts: Bytes, depth: int) -> I32:
    """Numbers of some bytes, the lowest first; FormatError for one of more bits than samples."""
    wide = np.zeros((len(firsts), 4), np.uint8)
    wide[:, : firsts.shape[1]] = firsts
    spare = 32 - 8 * firsts.shape[1]
    found: I32 = wide.view("<i4").astype(np.int32).reshape(-1) << np.int32(spare) >> np.int32(spare)
    if (found >> (depth - 1) != found >> 31).any():
        raise FormatError("audio chunk begins with an impossible sample")
    return found


def _weights(f: Frame, data: Bytes, size: int) -> tuple[I32, bool]:
    """Rows of all blocks, as `take_lanes` has them, and whether weights fit 16 bits."""
    blocks = max(1, f.count // f.block)
    if data.size < size or blocks * f.channels * 2 > data.size:
        raise FormatError("audio chunk has too few weights")
    rows = np.zeros((blocks, f.channels, ROW), np.int32)
    used = kernels.unpack_weights(data, rows)
    if used < 0 or (used + 7) >> 3 != size or (used & 7 and data[-1] >> (used & 7)):
        raise FormatError("audio chunk has impossible weights")
    has = _used(rows)
    if has.own > f.own or has.other > f.other or has.most >= 1 << (16 if f.depth <= 16 else 20):
        raise FormatError("audio chunk has impossible weights")
    return rows.reshape(-1), has.short
