"""The parameters of a MODEL frame: what rows of samples are made of, and how they are coded."""

import struct
from dataclasses import dataclass, field, replace

import numpy as np

from densor.codec import registry
from densor.codec.image import kernels
from densor.codec.image.kernels import Shape
from densor.codec.image.predict import LEVELS, SETS
from densor.entropy.rans.tables import Freqs, unpack
from densor.errors import FormatError

GRADIENT, MIXING = 0, 1  # methods
CONTEXTS = SETS * LEVELS
MAX_CHANNELS, MAX_LANES, MAX_SCALE = 64, 16, 8
MAX_PADDING = 63
_MAX_TOKEN = kernels.DIRECT + 4 * 8 + 3  # of errors of 16 bits
_HEAD = struct.Struct("<BBBBBBBBI")
_TWO_BYTES, _BIG = 1, 2  # flags


@dataclass(frozen=True)
class Layout:
    """Rows of samples as they lie in memory.

    `width` in pixels, `channels` of each, `size`: bytes of a sample, 1 or 2; `big`: its high byte
    comes first; `padding`: bytes after each row, all 0.
    """

    width: int
    channels: int = 1
    size: int = 1
    big: bool = False
    padding: int = 0

    @property
    def stride(self) -> int:
        """Bytes from row to row."""
        return self.width * self.channels * self.size + self.padding


@dataclass(frozen=True)
class Model:
    """All parameters.

    `depth`: bits of a sample; `colour`: which transform, see `kernels`; `lanes`: rows that are
    coded together; `scale`: of activities; `freqs`: uint16[CONTEXTS, 256], of tokens. By mixing
    there are no lanes and no frequencies, and `scale` is the number of contexts.
    """

    layout: Layout
    depth: int
    colour: int
    method: int = GRADIENT
    lanes: int = 1
    scale: int = 0
    freqs: Freqs = field(default_factory=lambda: np.zeros((CONTEXTS, 256), np.uint16))

    def shape(self, size: int) -> Shape:
        """What kernels must know of `size` bytes of rows."""
        at = self.layout
        rows = size // at.stride
        sizes = rows, at.width, at.channels, at.size, int(at.big), self.depth, self.colour
        return Shape(*sizes, at.stride)


def pack_head(model: Model) -> bytes:
    """The payload of a MODEL frame up to its frequencies."""
    at = model.layout
    flags = _TWO_BYTES * (at.size == 2) | _BIG * at.big | at.padding << 2
    if at.padding << 2 > 0xFF:
        raise ValueError("rows have too much padding")
    settings = model.method, at.channels, flags, model.depth, model.colour, model.lanes, model.scale
    return _HEAD.pack(registry.CODEC_IMAGE, *settings, at.width)


def parse(payload: bytes) -> Model:
    """The model in a MODEL frame; FormatError for a bad one."""
    if len(payload) < _HEAD.size:
        raise FormatError("image model is too short")
    _, method, channels, flags, depth, colour, lanes, scale, width = _HEAD.unpack_from(payload)
    size = 2 if flags & _TWO_BYTES else 1
    layout = Layout(width, channels, size, bool(flags & _BIG), flags >> 2)
    model = Model(layout, depth, colour, method, lanes, scale)
    if method not in (GRADIENT, MIXING):
        raise FormatError(f"image model has unknown method {method}")
    if not width or not 1 <= channels <= MAX_CHANNELS or not 1 <= depth <= 8 * size:
        raise FormatError("image model has impossible sizes")
    if (layout.big and size == 1) or colour > kernels.ORDERED or (colour and channels < 3):
        raise FormatError("image model has impossible samples")
    if method == MIXING:
        return _of_mixing(model, payload)
    if not 1 <= lanes <= MAX_LANES or scale > MAX_SCALE:
        raise FormatError("image model has impossible parameters")
    freqs, used = unpack(np.frombuffer(payload, np.uint8)[_HEAD.size :], CONTEXTS)
    if _HEAD.size + used != len(payload) or freqs[:, _MAX_TOKEN + 1 :].any():
        raise FormatError("image model has impossible frequencies")
    return replace(model, freqs=freqs)


def _of_mixing(model: Model, payload: bytes) -> Model:
    raise FormatError("not yet")
