"""How an element is cut into byte planes, per layout."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from densor.codec import registry
from densor.codec.planes.arrangements import EXPONENT_FIRST, PLAIN, WIDE_EXPONENT
from densor.dtypes import SIZES, number_size
from densor.entropy.deferred import deferred
from densor.errors import UnsupportedError
from densor.float_formats import number_format
from densor.runtime.types import Bytes


@dataclass(frozen=True)
class Layout:
    """A layout: `size` bytes per element and as many planes; see `split_kernels`."""

    number: int
    name: str
    size: int
    split: Callable[[Bytes, Bytes], None]
    merge: Callable[..., None]
    delta: bool  # whether elements may be replaced by differences


class Placed(NamedTuple):
    """Where the planes of a chunk lie, as `Layout.merge` takes it."""

    run: int  # elements of a run
    where: npt.NDArray[np.int64]  # int64[planes, runs]
    stored: npt.NDArray[np.uint8]  # uint8[planes], whether in the payload


def _layout(number: int, name: str, size: int, arrangement: int) -> Layout:
    names = f"split_{size}_{arrangement}", f"merge_{size}_{arrangement}"
    split, merge = deferred("densor.codec.planes.split_kernels", *names)
    return Layout(number, name, size, split, merge, arrangement == PLAIN)


_ALL = (
    _layout(registry.LAYOUT_BYTE, "byte", 1, PLAIN),
    _layout(registry.LAYOUT_BF16, "bf16", 2, EXPONENT_FIRST),
    _layout(registry.LAYOUT_WORD16, "word16", 2, PLAIN),
    _layout(registry.LAYOUT_FP32, "fp32", 4, EXPONENT_FIRST),
    _layout(registry.LAYOUT_WORD32, "word32", 4, PLAIN),
    _layout(registry.LAYOUT_FP64, "fp64", 8, WIDE_EXPONENT),
    _layout(registry.LAYOUT_WORD64, "word64", 8, PLAIN),
)
LAYOUTS = {layout.number: layout for layout in _ALL}
_PLAIN = {layout.size: layout for layout in _ALL if layout.delta}
_FLOATS = {layout.size: layout for layout in _ALL if not layout.delta}
_MIN_EXPONENT = 8  # bits of an exponent that gets a plane of its own


def layout_for(dtype: str) -> Layout | None:
    """The layout for an element type, None where the bytes are better left as they are."""
    if dtype == "VOID" or dtype not in SIZES:
        return None
    form = number_format(dtype)
    if form is not None and form.sign and form.exponent >= _MIN_EXPONENT:
        return _FLOATS.get(form.size)
    return _PLAIN.get(number_size(dtype))


def layout_numbered(number: int) -> Layout:
    """The layout that a model names; UnsupportedError if there is none."""
    layout = LAYOUTS.get(number)
    if layout is None:
        raise UnsupportedError(f"unknown plane layout {number}; a newer densor may read this")
    return layout


def _signed(layout: Layout) -> npt.DTypeLike:
    return f"<i{layout.size}"


def to_differences(data: Bytes, layout: Layout) -> Bytes:
    """Replaces each element by the zigzag of its difference to the one before."""
    values = data.view(_signed(layout))
    differences = np.empty_like(values)
    differences[:1] = values[:1]
    np.subtract(values[1:], values[:-1], out=differences[1:])
    zigzag: npt.NDArray[Any] = (differences << 1) ^ (differences >> (8 * layout.size - 1))
    return zigzag.view(np.uint8)


def from_differences(data: Bytes, layout: Layout) -> None:
    """Undoes `to_differences` in place."""
    zigzag = data.view(f"<u{layout.size}")
    differences = (zigzag >> 1) ^ (~(zigzag & 1) + 1)
    np.cumsum(differences, dtype=zigzag.dtype, out=zigzag)
