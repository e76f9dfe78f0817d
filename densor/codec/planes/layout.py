"""How an element is cut into byte planes, per layout."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from densor.codec import registry
from densor.codec.planes import kernels
from densor.errors import UnsupportedError

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Layout:
    """A layout: `size` bytes per element and as many planes."""

    number: int
    name: str
    size: int
    split: Callable[[Bytes, Bytes], None]
    merge: Callable[..., None]
    delta: bool  # whether elements may be replaced by differences


def _copy(data: Bytes, planes: Bytes) -> None:
    planes[:] = data


_K = kernels
_ALL = (
    Layout(registry.LAYOUT_BYTE, "byte", 1, _copy, _K.merge_byte, True),
    Layout(registry.LAYOUT_BF16, "bf16", 2, _K.split_bf16, _K.merge_bf16, False),
    Layout(registry.LAYOUT_WORD16, "word16", 2, _K.split_word16, _K.merge_word16, True),
    Layout(registry.LAYOUT_FP32, "fp32", 4, _K.split_fp32, _K.merge_fp32, False),
    Layout(registry.LAYOUT_WORD32, "word32", 4, _K.split_word32, _K.merge_word32, True),
    Layout(registry.LAYOUT_FP64, "fp64", 8, _K.split_fp64, _K.merge_fp64, False),
    Layout(registry.LAYOUT_WORD64, "word64", 8, _K.split_word64, _K.merge_word64, True),
)
LAYOUTS = {layout.number: layout for layout in _ALL}

# Which layout suits which element type; the rest is coded as plain bytes.
_BY_DTYPE = {
    "U8": registry.LAYOUT_BYTE,
    "I8": registry.LAYOUT_BYTE,
    "BOOL": registry.LAYOUT_BYTE,
    "F8_E4M3": registry.LAYOUT_BYTE,
    "F8_E5M2": registry.LAYOUT_BYTE,
    "F8_E8M0": registry.LAYOUT_BYTE,
    "BF16": registry.LAYOUT_BF16,
    "F16": registry.LAYOUT_WORD16,
    "U16": registry.LAYOUT_WORD16,
    "I16": registry.LAYOUT_WORD16,
    "F32": registry.LAYOUT_FP32,
    "C64": registry.LAYOUT_FP32,
    "U32": registry.LAYOUT_WORD32,
    "I32": registry.LAYOUT_WORD32,
    "F64": registry.LAYOUT_FP64,
    "C128": registry.LAYOUT_FP64,
    "U64": registry.LAYOUT_WORD64,
    "I64": registry.LAYOUT_WORD64,
}


def layout_for(dtype: str) -> Layout | None:
    """The layout for an element type, None where the bytes are better left as they are."""
    number = _BY_DTYPE.get(dtype)
    return None if number is None else LAYOUTS[number]


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
