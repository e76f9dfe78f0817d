"""The binding of the cascade: its settings, the state before the first sample, and the coding."""

import functools

import numpy as np
import numpy.typing as npt

from densor.codec.audio import cascade_kernels as cascade
from densor.codec.audio.cascade_kernels import Cascade, State, Tables
from densor.codec.audio.distributions import exp_minus_of
from densor.codec.audio.params import MAX_CASCADE_DEPTH, SETTINGS, Model
from densor.codec.audio.recursive_kernels import KINDS, LAGS, ORDER, RING
from densor.codec.audio.samples import Planes, coded, restore
from densor.codec.batch import Bytes
from densor.codec.byte_cm.kernels import end_coder, start_coder
from densor.entropy.arithmetic.logistic import rate_table
from densor.entropy.arithmetic.state import AT, STATE
from densor.errors import FormatError
from densor.runtime.memory import MEMORY

_PIECE = 1 << 15  # samples after which an interrupt is noticed
_FORGET = 9
_SHIFTS = (*[0] * 6, *[1 + i // 2 for i in range(14)], *range(8, 28, 2))
_LOGISTIC = 90852  # of a mean size of 1, times 2^16
_CERTAIN = 20971  # the least chance of a counter before the first sample, 2^-22
_SEEN_BEFORE = 16
_MEAN = 64  # errors before the first one, in units of 2^-8


def cascade_of(model: Model, count: int, first: int) -> Cascade:
    """What the kernel must know of `count` instants."""
    setting = SETTINGS[model.setting]
    channels, depth = model.layout.channels, model.depth
    other = setting.other if channels > 1 else 0
    own = setting.own if channels > 1 else setting.own + setting.other
    fine, places = min(8, MAX_CASCADE_DEPTH - depth), min(16, 54 - 2 * depth)
    sizes = own, other, _FORGET, setting.every, fine, places, len(setting.taps), cascade.ROOM
    return Cascade(channels, count, depth, first, *sizes)


@functools.cache
def tables(number: int) -> Tables:
    """The constants of the kernel, for a setting."""
    setting = SETTINGS[number]
    taps, rates = np.zeros(cascade.STAGES, np.int64), np.zeros(cascade.STAGES, np.int64)
    taps[: len(setting.taps)], rates[: len(setting.rates)] = setting.taps, setting.rates
    return Tables(taps, rates, np.array(_SHIFTS, np.int64), rate_table(1024))


@functools.cache
def _chances(fine: int) -> npt.NDArray[np.uint32]:
    """uint32[LEVELS, NODES]: counters at first, as a logistic distribution has it."""
    level = np.arange(cascade.LEVELS, dtype=np.int64)[:, None]
    unit = np.maximum(0, (level >> 2) - 1 - fine)
    sizes = np.int64(1) << np.minimum(25, unit + np.array(_SHIFTS, np.int64))
    ends = np.cumsum(sizes, 1)
    mean = np.maximum((4 | level & 3) << (level >> 2), (1 << (fine + 2)) >> 4)
    low, high = (
        exp_minus_of(np.minimum((edges << fine) * (4 * _LOGISTIC) // mean, 1 << 21))
        for edges in (ends - sizes, ends)
    )
    one = np.int64(1 << 30)
    share = (high * (one + low)) // np.maximum(1, (low * (one + high)) >> 22)
    chance = np.clip((1 << 22) - share, _CERTAIN, (1 << 22) - _CERTAIN)
    found = np.full((cascade.LEVELS, cascade.NODES), 1 << 31, np.uint32)
    nodes = (chance << 10 | _SEEN_BEFORE).astype(np.uint32)[:, : cascade.BUCKETS]
    found[:, 2 : 2 + 2 * cascade.BUCKETS] = np.repeat(nodes, 2, 1)
    return found


def new_state(m: Cascade, planes: npt.NDArray[np.int32]) -> State:
    """The state before the first sample. `planes`: int32[channels, LEAD + count]."""
    c = m.channels
    numbers = np.zeros((c, cascade.NUMBERS), np.int64)
    numbers[:, : cascade.STAGES] = 1 << 16
    numbers[:, 8:11] = _MEAN << 4 << m.fine >> 8
    rows = np.repeat(_chances(m.fine)[None], 32, 0).transpose(1, 0, 2)
    counters = np.empty((cascade.SETS, *rows.shape), np.uint32)
    counters[:] = rows
    return State(
        coder=np.zeros(STATE, np.int64),
        planes=planes.reshape(-1),
        lines=np.zeros(c * cascade.LINES * cascade.ROOM, np.int32),
        places=np.arange(c) * (cascade.LINES * cascade.ROOM) + cascade.HISTORY,
        sums=np.zeros(c * KINDS * RING * LAGS, np.int64),
        matrix=np.zeros(ORDER * ORDER, np.int32),
        factor=np.zeros(ORDER * ORDER, np.int32),
        totals=np.zeros(ORDER, np.int64),
        roots=np.zeros(ORDER, np.int64),
        right=np.zeros(ORDER, np.int64),
        weights=np.zeros(c * ORDER, np.int32),
        exponents=np.zeros(c, np.int64),
        filters=np.zeros(c * cascade.STAGES * cascade.TAPS, np.int32),
        said=np.zeros(cascade.STAGES, np.int64),
        numbers=numbers.reshape(-1),
        counters=counters.reshape(-1),
    )


def encode(model: Model, data: Bytes, first: int) -> Bytes:
    """The payload of a frame whose channel `first` comes first; of noise, longer than the frame."""
    planes = coded(model, data)
    out = np.empty(2 * data.size + 64, np.uint8)
    out[0] = first
    stream = out[1:]
    size = _code(True, model, first, stream, _with_lead(planes))
    return out[: 1 + size] if size <= stream.size else out


def decode(model: Model, payload: Bytes, out: Bytes) -> None:
    """Decodes a frame into all of `out`; FormatError if it does not fit."""
    layout = model.layout
    count = out.size // layout.stride
    if not count or out.size % layout.stride or not payload.size:
        raise FormatError("audio chunk has an impossible size")
    first = int(payload[0])
    if first > (layout.channels == 2):
        raise FormatError("audio chunk has impossible sizes")
    planes = np.zeros((layout.channels, cascade.LEAD + count), np.int32)
    stream = np.require(payload[1:], np.uint8, ["C", "W"])  # as the kernel's signature has it
    if _code(False, model, first, stream, planes) != stream.size:
        raise FormatError("audio chunk does not end with its last sample")
    restore(model, np.ascontiguousarray(planes[:, cascade.LEAD :]), out)


def _with_lead(planes: Planes) -> Planes:
    return np.ascontiguousarray(np.pad(planes, ((0, 0), (cascade.LEAD, 0))))


def _code(coding: bool, model: Model, first: int, data: Bytes, planes: Planes) -> int:
    """Codes samples to `data` or back; returns where the stream ends, maybe beyond `data`."""
    m = cascade_of(model, planes.shape[1] - cascade.LEAD, first)
    with MEMORY.borrowed(4 * planes.size + (1 << 22)):
        s = new_state(m, planes)
        start_coder(coding, s.coder, data)
        piece = max(1, _PIECE // m.channels)
        for begin in range(0, m.count, piece):
            end = min(m.count, begin + piece)
            cascade.code_samples(coding, m, s, tables(model.setting), data, begin, end)
            if s.coder[AT] > data.size + 4:
                break
        if coding:
            end_coder(s.coder, data)
        return int(s.coder[AT])
