"""Bytes of sound to samples as they are coded, and back."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from densor.codec.audio import kernels
from densor.codec.audio.layout import Layout
from densor.codec.audio.params import MAX_POINT, Model
from densor.codec.batch import Bytes
from densor.errors import FormatError

Planes = npt.NDArray[np.int32]  # int32[channels, count]

_MOST_BITS = 25  # of a float as an integer


def _kind(layout: Layout) -> str | None:
    """What numpy calls such samples; None where they need a loop."""
    if layout.unsigned or layout.size not in (2, 4):
        return None
    return f"{'>' if layout.big else '<'}i{layout.size}"


def _are_words(layout: Layout) -> bool:
    """Whether samples are words of one channel or two, which lie so often."""
    return _kind(layout) == "<i2" and layout.channels <= 2


def planes_of(layout: Layout, data: Bytes) -> Planes:
    """All samples as integers; of floats, their bits."""
    kind = _kind(layout)
    if _are_words(layout) and data.flags.c_contiguous:
        words = np.empty((layout.channels, data.size // layout.stride), np.int32)
        kernels.split_words(data, layout.channels, words.view(np.uint32).reshape(-1))
        return words
    if kind is not None and data.flags.c_contiguous:
        rows = data.view(kind).reshape(-1, layout.channels)
        found: Planes = np.require(rows.T, np.int32, ("C", "W"))  # kernels take no read-only memory
        return found
    planes = np.empty((layout.channels, data.size // layout.stride), np.int32)
    kernels.split_samples(data, layout.size, layout.big, layout.unsigned, planes)
    return planes


def model_of(layout: Layout, data: Bytes) -> Model | None:
    """What all samples of `data` have in common; None for floats that are no scaled integers."""
    return model_of_planes(layout, planes_of(layout, data))


def model_of_planes(layout: Layout, planes: Planes) -> Model | None:
    """The same of samples as `planes_of` has them."""
    if layout.floats:
        return _of_floats(layout, planes)
    least, most, bits = _survey(planes)
    model = _shifted(layout, least, most, bits)
    return model if layout.size > 2 else _with_ranks(model, planes, least, most)


def without_values(model: Model, planes: Planes) -> Model:
    """A model that takes samples as they are, where one takes their ranks."""
    return _shifted(model.layout, *_survey(planes))


def _shifted(layout: Layout, least: int, most: int, bits: int) -> Model:
    shift = (bits & -bits).bit_length() - 1 if bits else 0
    return Model(layout, _depth_of(least >> shift, most >> shift), shift=shift)


def _survey(planes: Planes) -> tuple[int, int, int]:
    """The least and the greatest of all samples, and the bits that any has set."""
    found = np.zeros(3, np.int32)
    kernels.survey(planes, found)
    least, most, bits = found.tolist()
    return least, most, bits


def _depth_of(least: int, most: int) -> int:
    """Bits of samples from `least` to `most`, with a sign."""
    return max(most, ~least).bit_length() + 1


def _with_ranks(model: Model, planes: Planes, low: int, most: int) -> Model:
    """Ranks instead of samples, where few of the values occur that are to be expected."""
    counts = np.zeros(most - low + 1, np.uint32)
    kernels.count_values(planes, low, counts)
    middle = -(low >> model.shift)
    if not kernels.find_few(counts, 1 << model.shift, middle, planes.size):
        return model
    values = (np.flatnonzero(counts) + low).astype(np.int32)
    ranked = replace(model, shift=0, values=values)
    return replace(ranked, depth=max(1, (values.size - 1).bit_length()))


def _of_floats(layout: Layout, planes: Planes) -> Model | None:
    floats = planes.view(np.float32)
    if not np.isfinite(floats).all() or (planes == np.int32(-(1 << 31))).any():
        return None
    exponents = np.frexp(floats[floats != 0])[1]
    most = int(exponents.max()) if exponents.size else 0
    for point in (7, 15, 23):  # whole numbers of so many bits within -1 and 1 are common
        if 0 <= point <= MAX_POINT and most + point < _MOST_BITS and _are_whole(floats, point):
            whole = _whole(floats, point)
            depth = _depth_of(int(whole.min()), int(whole.max()))
            return Model(layout, depth, point=point)
    return None


def _whole(floats: npt.NDArray[np.float32], point: int) -> npt.NDArray[np.int32]:
    return np.ldexp(floats, point).astype(np.int32)


def _are_whole(floats: npt.NDArray[np.float32], point: int) -> bool:
    scaled = np.ldexp(floats, point)
    return bool((scaled == np.trunc(scaled)).all())


def coded(model: Model, data: Bytes) -> Planes:
    """Samples as they are coded, see `Model`."""
    return coded_planes(model, planes_of(model.layout, data))


def coded_planes(model: Model, planes: Planes) -> Planes:
    """The same of samples as `planes_of` has them."""
    if model.layout.floats:
        return _whole(planes.view(np.float32), model.point)
    if model.values is not None:
        first = int(model.values[0])
        ranks = np.zeros(int(model.values[-1]) - first + 1, np.int32)
        ranks[model.values - first] = np.arange(model.values.size, dtype=np.int32) + model.low
        found: Planes = ranks[planes - first]
        return found
    return planes >> model.shift if model.shift else planes


def restore(model: Model, planes: Planes, data: Bytes) -> None:
    """Sets all bytes from samples as they are coded."""
    if model.layout.floats:
        if np.abs(planes.astype(np.int64)).max(initial=0) > 1 << 24:
            raise FormatError("audio chunk has numbers that are no floats")
        planes = np.ldexp(planes.astype(np.float32), -model.point).view(np.int32)
    elif model.values is not None:
        places = planes.astype(np.int64) - model.low
        planes = model.values[np.clip(places, 0, model.values.size - 1)]
    elif model.shift:
        planes = planes << np.int32(model.shift)
    at = model.layout
    kind = _kind(at)
    if _are_words(at) and data.flags.c_contiguous:
        words = np.ascontiguousarray(planes, np.int32).view(np.uint32).reshape(-1)
        kernels.join_words(words, at.channels, data)
        return
    if kind is not None and data.flags.c_contiguous:
        data.view(kind).reshape(-1, at.channels)[:] = planes.T
        return
    kernels.join_samples(np.ascontiguousarray(planes), at.size, at.big, at.unsigned, data)
