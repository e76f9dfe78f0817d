"""The parameters of a MODEL frame: what rows of samples are made of, and how they are coded."""

import struct
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from densor.codec import registry
from densor.codec.batch import Bytes
from densor.codec.image import kernels
from densor.codec.image.kernels import NO_COLOUR, ORDERED, Shape
from densor.codec.image.layout import MAX_CHANNELS, Layout
from densor.codec.image.local import sections_of
from densor.codec.image.mixing_kernels import CONTEXTS as MAX_CONTEXTS
from densor.codec.image.predict import LEVELS, SETS
from densor.codec.image.zoom import MAX_FACTOR, NONE, Zoom
from densor.entropy.rans.tables import Freqs, pack, unpack
from densor.errors import FormatError, LimitError

GRADIENT, MIXING, RESIDUAL, LOCAL = 0, 1, 2, 3  # methods; LOCAL is MIXING with windows
CONTEXTS = SETS * LEVELS
MAX_WAVEFRONT, MAX_SCALE = 16, 8
MAX_STEPS = 32
MAX_ROW = 1 << 19  # samples of a row that is coded by mixing
MAX_SECTIONS = 1 << 12  # of a row in all its planes, see `local.py`
MAX_MIXED = 1 << 24  # bytes of a chunk that is coded by mixing
_MAX_TOKEN = kernels.DIRECT + 4 * 8 + 3  # of errors of 16 bits
_HEAD = struct.Struct("<10BI")
_TWO_BYTES, _BIG, _VALUES, _ZOOM = 1, 2, 4, 8  # flags
_BITMAP = 32  # bytes


@dataclass(frozen=True, eq=False)
class Model:
    """All parameters.

    `depth`: bits of a sample as it is coded. That is its rank among `values`, bool[256], where
    there are any, or the sample without its `shift` lowest bits, all 0. `colour`: which transform,
    see `kernels`.
    `zoom`: what each pixel of `layout` stands for.
    By gradients, `wavefront`: rows that are coded together; `scale`: of activities; `freqs`:
    uint16[CONTEXTS, 256], of tokens. By mixing, `contexts` and `steps` of `mixing.Image`; by
    residuals, `steps`.
    """

    layout: Layout
    depth: int
    colour: int = NO_COLOUR
    method: int = GRADIENT
    wavefront: int = 0
    scale: int = 0
    contexts: int = 0
    steps: int = 0
    shift: int = 0
    values: npt.NDArray[np.bool_] | None = None
    zoom: Zoom = NONE
    freqs: Freqs = field(default_factory=lambda: np.zeros((CONTEXTS, 256), np.uint16))

    def shape(self, size: int) -> Shape:
        """What kernels must know of `size` bytes of rows."""
        at = self.layout
        rows = size // at.stride
        sizes = rows, at.width, at.channels, at.size, int(at.big), self.depth, self.colour
        return Shape(*sizes, at.stride)


def pack_model(model: Model) -> bytes:
    """The payload of a MODEL frame."""
    at = model.layout
    flags = _TWO_BYTES * (at.size == 2) | _BIG * at.big | _VALUES * (model.values is not None)
    flags |= _ZOOM * (model.zoom != NONE)
    mixing = model.method != GRADIENT
    settings = (model.contexts, model.steps) if mixing else (model.wavefront, model.scale)
    coded = at.channels, flags, model.depth, model.colour, *settings, at.padding, model.shift
    head = _HEAD.pack(registry.CODEC_IMAGE, model.method, *coded, at.width)
    if model.zoom != NONE:
        head += bytes(model.zoom)
    if model.values is not None:
        head += np.packbits(model.values, bitorder="little").tobytes()
    return head if mixing else head + pack(model.freqs)


def parse(payload: bytes) -> Model:
    """The model in a MODEL frame; FormatError or LimitError for a bad one."""
    if len(payload) < _HEAD.size:
        raise FormatError("image model is too short")
    _, method, channels, flags, depth, colour, first, second, padding, shift, width = (
        _HEAD.unpack_from(payload)
    )
    size = 2 if flags & _TWO_BYTES else 1
    layout = Layout(width, channels, size, bool(flags & _BIG), padding)
    model = Model(layout, depth, colour, method, shift=shift)
    if method not in (GRADIENT, MIXING, RESIDUAL, LOCAL) or flags > 15 or colour > ORDERED:
        raise FormatError("image model has unknown parameters")
    if not width or not 1 <= channels <= MAX_CHANNELS or not 1 <= depth <= 8 * size - shift:
        raise FormatError("image model has impossible sizes")
    if (layout.big and size == 1) or (colour and channels < 3):
        raise FormatError("image model has impossible samples")
    rest = payload[_HEAD.size :]
    if flags & _ZOOM:
        model, rest = _with_zoom(model, rest)
    if flags & _VALUES:
        model, rest = _with_values(model, rest)
    if method != GRADIENT:
        return _by_mixing(model, first, second, rest)
    return _by_gradients(model, first, second, rest)


def _with_zoom(model: Model, rest: bytes) -> tuple[Model, bytes]:
    zoom = Zoom(*rest[:2]) if len(rest) >= 2 else NONE
    if zoom == NONE or model.layout.padding or not all(1 <= f <= MAX_FACTOR for f in zoom):
        raise FormatError("image model has pixels that cannot stand for several")
    return replace(model, zoom=zoom), rest[2:]


def _with_values(model: Model, rest: bytes) -> tuple[Model, bytes]:
    if model.layout.size != 1 or model.layout.padding or model.shift or len(rest) < _BITMAP:
        raise FormatError("image model has values that it cannot have")
    bitmap = np.frombuffer(rest[:_BITMAP], np.uint8)
    values = np.unpackbits(bitmap, bitorder="little").astype(np.bool_)
    if not values.any():
        raise FormatError("image model has no values")
    return replace(model, values=values), rest[_BITMAP:]


def _by_mixing(model: Model, contexts: int, steps: int, rest: bytes) -> Model:
    known = 1 <= contexts <= MAX_CONTEXTS if model.method in (MIXING, LOCAL) else not contexts
    if not known or steps > MAX_STEPS or rest:
        raise FormatError("image model has impossible contexts")
    if model.colour not in (NO_COLOUR, ORDERED):
        raise FormatError("image model has a transform that mixing does without")
    if model.layout.width * model.layout.channels > MAX_ROW:
        raise LimitError(f"rows of an image have more than {MAX_ROW} samples")
    if model.method == LOCAL and not fits_windows(model.layout):
        raise LimitError(f"rows of an image have more than {MAX_SECTIONS} sections")
    return replace(model, contexts=contexts, steps=steps)


def fits_windows(layout: Layout) -> bool:
    """Whether rows may be coded with windows."""
    return sections_of(layout.width) * layout.channels <= MAX_SECTIONS


def _by_gradients(model: Model, wavefront: int, scale: int, rest: bytes) -> Model:
    if not 1 <= wavefront <= MAX_WAVEFRONT or scale > MAX_SCALE:
        raise FormatError("image model has impossible parameters")
    freqs, used = unpack(np.frombuffer(rest, np.uint8), CONTEXTS)
    if used != len(rest) or freqs[:, _MAX_TOKEN + 1 :].any():
        raise FormatError("image model has impossible frequencies")
    return replace(model, wavefront=wavefront, scale=scale, freqs=freqs)


def reduced(model: Model, data: Bytes) -> Bytes:
    """Rows with samples as they are coded, see `Model`; `data` itself where they are the same."""
    if model.values is not None:
        ranks = (np.cumsum(model.values) - 1).astype(np.uint8)
        return ranks[data]
    if not model.shift:
        return data
    found = np.array(data)
    _put_samples(model.layout, found, model.layout.samples(data) >> model.shift)
    return found


def restore(model: Model, data: Bytes) -> None:
    """Turns rows back, in place, into what `reduced` was given."""
    if model.values is not None:
        values = np.flatnonzero(model.values)
        ranked = np.full(256, values[-1], np.uint8)
        ranked[: values.size] = values
        data[:] = ranked[data]
    elif model.shift:
        _put_samples(model.layout, data, model.layout.samples(data) << model.shift)


def _put_samples(layout: Layout, data: Bytes, samples: npt.NDArray[Any]) -> None:
    """Puts samples into whole rows; numpy's operators have made them native."""
    rows = data.reshape(-1, layout.stride)
    order = f"{'>' if layout.big else '<'}u{layout.size}"
    rows[:, : layout.stride - layout.padding] = samples.astype(order).view(np.uint8)
