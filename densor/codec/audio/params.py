"""The parameters of a MODEL frame: what samples are made of, and how they are coded."""

import functools
import struct
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from densor.codec import registry
from densor.codec.audio import kernels
from densor.codec.audio.distributions import SCALES
from densor.codec.audio.kernels import SHAPES
from densor.codec.audio.lane_kernels import CONTEXTS
from densor.codec.audio.layout import MAX_CHANNELS, MAX_SIZE, Layout
from densor.codec.zstd import zstd_compress, zstd_decompress
from densor.errors import FormatError

LANES, CASCADE, FRAMES = 0, 1, 2  # methods
_FLAC_HEAD = struct.Struct("<BBB")
FLAC_DEPTHS = 8, 12, 16, 20, 24  # bits of a sample
MAX_FLAC_CHANNELS = 8
MAX_DEPTH = 32
MAX_POINT = 63  # binary places of floats
_HEAD = struct.Struct("<8BI")
_BIG, _UNSIGNED, _FLOATS, _VALUES = 1, 2, 4, 8  # flags
_RANGE = struct.Struct("<iHI")  # the least value, bytes of the bitmap, and packed
MAX_VALUES = 1 << 16
_ZSTD = 19

MAX_CASCADE_DEPTH = 24  # bits of a sample that a cascade takes

I32 = npt.NDArray[np.int32]


class Setting(NamedTuple):
    """Sizes of a cascade.

    `own`, `other`: samples before that are variables of the least squares, of a channel and of its
    partner, which all are the channel's where it has no partner. `every`: instants between
    solutions. `taps`, `rates`: of each stage; rates are times 2^20.
    """

    own: int
    other: int
    every: int
    taps: tuple[int, ...]
    rates: tuple[int, ...]


LIGHT, FULL = 0, 1
SETTINGS = (
    Setting(16, 8, 64, (32, 16), (8389, 8389)),
    Setting(16, 16, 8, (1024, 256, 32, 16), (10486, 8389, 8389, 8389)),
)


@functools.cache
def default_map() -> npt.NDArray[np.uint8]:
    """uint8[CONTEXTS], read-only: the distribution of each context as its averages say, normal."""
    level = np.arange(CONTEXTS) >> 1
    octaves = np.maximum((level >> 2) - 9, 0)  # those that are low bits
    scale = np.clip(level - 4 * octaves - 8, 0, SCALES - 1)
    found: npt.NDArray[np.uint8] = (SHAPES * scale).astype(np.uint8)
    found.flags.writeable = False
    return found


@dataclass(frozen=True, eq=False)
class Model:
    """All parameters.

    `depth`: bits of a sample as it is coded, with its sign. That is its rank among `values`,
    int32[n] in order, where there are any, or the sample without its `shift` lowest bits, all 0.
    Of floats it is what they are times 2^`point`. By lanes, `contexts`: uint8[CONTEXTS], the
    distribution of each. By a cascade, `setting`: its number.
    """

    layout: Layout
    depth: int
    method: int = LANES
    shift: int = 0
    point: int = 0
    values: I32 | None = None
    contexts: npt.NDArray[np.uint8] = field(default_factory=default_map)
    setting: int = 0

    @property
    def low(self) -> int:
        """The least sample as it is coded."""
        return -(1 << (self.depth - 1))


def pack_model(model: Model) -> bytes:
    """The payload of a MODEL frame."""
    at = model.layout
    flags = _BIG * at.big | _UNSIGNED * at.unsigned | _FLOATS * at.floats
    flags |= _VALUES * (model.values is not None)
    places = model.point if at.floats else model.shift
    sizes = at.channels, at.size, flags, model.depth, places, model.setting
    head = _HEAD.pack(registry.CODEC_AUDIO, model.method, *sizes, at.rate)
    if model.values is not None:
        first = int(model.values[0])
        used = np.zeros(int(model.values[-1]) - first + 1, np.uint8)
        used[model.values - first] = 1
        bitmap = _packed(np.packbits(used, bitorder="little").tobytes())
        head += _RANGE.pack(first, (used.size + 7) // 8, len(bitmap)) + bitmap
    return head if model.method == CASCADE else head + _pack_contexts(model.contexts)


@functools.lru_cache(8)
def _packed(bitmap: bytes) -> bytes:
    """A bitmap as it stands in a model, which is packed twice: to be chosen, and to be stored."""
    return zstd_compress(bitmap, _ZSTD)


def parse(payload: bytes) -> Model:
    """The model in a MODEL frame; FormatError or LimitError for a bad one."""
    if len(payload) < _HEAD.size:
        raise FormatError("audio model is too short")
    _, method, channels, size, flags, depth, places, setting, rate = _HEAD.unpack_from(payload)
    big, unsigned, floats = (bool(flags & bit) for bit in (_BIG, _UNSIGNED, _FLOATS))
    settings = len(SETTINGS) if method == CASCADE else 1
    if method not in (LANES, CASCADE) or flags > 15 or setting >= settings:
        raise FormatError("audio model has unknown parameters")
    if not 1 <= channels <= MAX_CHANNELS or not 1 <= size <= MAX_SIZE:
        raise FormatError("audio model has impossible sizes")
    if (big and size == 1) or (floats and (unsigned or size != MAX_SIZE or places > MAX_POINT)):
        raise FormatError("audio model has impossible samples")
    shift = 0 if floats else places
    most = 8 * size - shift
    if not 1 <= depth <= (most if method == LANES else min(most, MAX_CASCADE_DEPTH)):
        raise FormatError("audio model has impossible samples")
    layout = Layout(channels, size, big, unsigned, floats, rate)
    model = Model(layout, depth, method, shift, places if floats else 0, setting=setting)
    rest = payload[_HEAD.size :]
    if flags & _VALUES:
        model, rest = _with_values(model, rest)
    if method == LANES:
        return replace(model, contexts=_unpack_contexts(rest))
    if rest:
        raise FormatError("audio model is too long")
    return model


def pack_flac(depth: int, model: bytes) -> bytes:
    """The payload of a MODEL frame of FLAC files; `model`: that of their samples."""
    return _FLAC_HEAD.pack(registry.CODEC_AUDIO, FRAMES, depth) + model


def parse_flac(payload: bytes) -> tuple[int, Model]:
    """Bits of a sample, and the model of the samples of FLAC files; FormatError for a bad one."""
    if len(payload) < _FLAC_HEAD.size:
        raise FormatError("audio model is too short")
    _, _, depth = _FLAC_HEAD.unpack_from(payload)
    model = parse(payload[_FLAC_HEAD.size :])
    layout = model.layout
    plain = not (layout.big or layout.unsigned or layout.floats)
    if depth not in FLAC_DEPTHS or layout.channels > MAX_FLAC_CHANNELS or not plain:
        raise FormatError("audio model has samples that FLAC does not have")
    if layout.size != (depth + 7) // 8:
        raise FormatError("audio model has samples that FLAC does not have")
    return depth, model


def _with_values(model: Model, rest: bytes) -> tuple[Model, bytes]:
    if model.layout.floats or model.layout.size > 2 or model.shift or len(rest) < _RANGE.size:
        raise FormatError("audio model has values that it cannot have")
    first, count, size = _RANGE.unpack_from(rest)
    end = _RANGE.size + size
    if end > len(rest) or abs(first) > MAX_VALUES or count > MAX_VALUES // 8:
        raise FormatError("values of an audio model are impossible")
    bitmap = zstd_decompress(rest[_RANGE.size : end], count)
    used = np.unpackbits(np.frombuffer(bitmap, np.uint8), bitorder="little")
    values = (np.flatnonzero(used) + first).astype(np.int32)
    if not values.size:
        raise FormatError("audio model has no values")
    return replace(model, values=values), rest[end:]


def _pack_contexts(contexts: npt.NDArray[np.uint8]) -> bytes:
    """The first and the last context that differ from the default, and all between; audio.md."""
    out = np.zeros(2 + 8 * CONTEXTS, np.uint8)
    return out[: kernels.pack_contexts(contexts, default_map(), out)].tobytes()


def _unpack_contexts(rest: bytes) -> npt.NDArray[np.uint8]:
    data = np.frombuffer(rest, np.uint8)
    contexts = default_map().copy()
    if kernels.unpack_contexts(data, SCALES, contexts) != data.size:
        raise FormatError("audio model has impossible contexts")
    return contexts
