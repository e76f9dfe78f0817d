"""Element types, by the names that safetensors uses, and their counterparts elsewhere."""

import functools
import math
from typing import Any

import numpy as np

from densor.errors import ArgumentError
from densor.float_formats import FORMATS, PAIRS

_INTEGERS = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "U16": "uint16",
    "I16": "int16",
    "U32": "uint32",
    "I32": "int32",
    "U64": "uint64",
    "I64": "int64",
}
_COMPLEX = {"C64": "complex64", "C128": "complex128"}
_FLOATS = {form.name: form.library for form in FORMATS}
_NAMES = _INTEGERS | _FLOATS | _COMPLEX  # as numpy, ml_dtypes and torch call them
INTEGERS = frozenset(_INTEGERS)

# Bytes per element, frozen: these names stand in archives.
SIZES = {dtype: np.dtype(name).itemsize for dtype, name in (_INTEGERS | _COMPLEX).items()}
SIZES |= {form.name: form.size for form in FORMATS} | {"VOID": 1}
# Types that archives have since densor 0.4. Readers before that refuse entries of them, and pass
# over the tensors of a file that are.
LATER = {
    "F8_E4M3FNUZ": 1,
    "F8_E5M2FNUZ": 1,
    "F8_E4M3B11FNUZ": 1,
    "F8_E4M3IEEE": 1,
    "F8_E3M4": 1,
    "F8_E5M3": 1,  # no sign; since 0.19
    "C32": 4,
    "BC32": 4,
    "BITS8": 1,
    "BITS16": 2,
    "BITS1X8": 1,
    "BITS2X4": 1,
    "BITS4X2": 1,
    "F4_X2": 1,  # two F4, which torch counts as one element
    "F4_B": 1,
    "F6_E2M3_B": 1,
    "F6_E3M2_B": 1,
    # One element in each byte, of which it takes only some bits.
    **{f"{kind}{bits}_B": 1 for kind in "IU" for bits in range(1, 8)},
}
SIZES.update(LATER)
# Bits per element of types that are packed without gaps, the first element in the lowest bits.
PACKED = {
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    **{f"{kind}{bits}": bits for kind in "IU" for bits in (1, 2, 4)},
}

_LATER_IN_SAFETENSORS = ("F8_E4M3FNUZ", "F8_E5M2FNUZ")

# Types that are coded as another one is, of which an element has the same fields.
_CODED_AS = {
    "F8_E4M3FNUZ": "F8_E4M3",
    "F8_E4M3B11FNUZ": "F8_E4M3",
    "F8_E4M3IEEE": "F8_E4M3",
    "F8_E5M2FNUZ": "F8_E5M2",
    "BITS16": "U16",
}
_CODED_AS_PAIRS = {"C32": "F16", "BC32": "BF16"}

_NAMES |= {
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "F8_E4M3B11FNUZ": "float8_e4m3b11fnuz",
    "F8_E4M3IEEE": "float8_e4m3",
    "F8_E3M4": "float8_e3m4",
    "F8_E5M3": "float8_e5m3fnu",
    "C32": "complex32",
    "BC32": "bcomplex32",
    "F4_X2": "float4_e2m1fn_x2",
    "F4_B": "float4_e2m1fn",
    "F6_E2M3_B": "float6_e2m3fn",
    "F6_E3M2_B": "float6_e3m2fn",
    "BITS8": "bits8",
    "BITS16": "bits16",
    "BITS1X8": "bits1x8",
    "BITS2X4": "bits2x4",
    "BITS4X2": "bits4x2",
    **{f"I{bits}_B": f"int{bits}" for bits in range(1, 8)},
    **{f"U{bits}_B": f"uint{bits}" for bits in range(1, 8)},
}
_ALIASES = {"FP": "F", "INT": "I", "UINT": "U", "FLOAT": "F", "BFLOAT": "BF", "COMPLEX": "C"}
_LONGER = {"F8_E4M3FN": "F8_E4M3", "F8_E8M0FNU": "F8_E8M0", "F8_E5M3FNU": "F8_E5M3"}
_FROM_LIBRARY = {name: key for key, name in _NAMES.items()}


def is_known(dtype: str) -> bool:
    """Whether this is the name of an element type that tensors can have."""
    return (dtype in SIZES and dtype != "VOID") or dtype in PACKED


def nbytes(dtype: str, count: int) -> int | None:
    """Bytes of so many elements of a known type; None where they do not fill the last byte."""
    if dtype in SIZES:
        return SIZES[dtype] * count
    bits = PACKED[dtype] * count
    return None if bits % 8 else bits // 8


def in_bytes(dtype: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of the bytes of a tensor of packed elements; flat where rows are no whole bytes."""
    bits = PACKED[dtype]
    if shape and shape[-1] * bits % 8 == 0:
        return (*shape[:-1], shape[-1] * bits // 8)
    return (math.prod(shape) * bits // 8,)


def in_safetensors(dtype: str, shape: tuple[int, ...]) -> tuple[str, tuple[int, ...]] | None:
    """The type and shape by which a safetensors file has a tensor, None if it can have none."""
    if dtype == "F4_X2" and shape:
        return "F4", (*shape[:-1], 2 * shape[-1])
    if dtype == "VOID" or (dtype in LATER and dtype not in _LATER_IN_SAFETENSORS):
        return None
    return dtype, shape


def coding_of(dtype: str, shape: tuple[int, ...]) -> tuple[str, tuple[int, ...]]:
    """The type and shape that elements are coded in, whatever they mean."""
    if dtype in _CODED_AS_PAIRS:
        return _CODED_AS_PAIRS[dtype], (*shape, 2)
    if dtype in PACKED:
        return "U8", in_bytes(dtype, shape)
    if dtype in LATER and SIZES[dtype] == 1:
        return _CODED_AS.get(dtype, "U8"), shape
    return _CODED_AS.get(dtype, dtype), shape


def parse_dtype(name: str) -> str:
    """The canonical name of a type that a user wrote, such as `bf16`, `fp8_e4m3` or `int32`."""
    if not isinstance(name, str):
        raise ArgumentError(f"a dtype is given by its name, such as 'bf16', not by {name!r:.80}")
    upper = name.upper().replace("-", "_")
    for alias in sorted(_ALIASES, key=len, reverse=True):
        if upper.startswith(alias) and upper[len(alias) : len(alias) + 1].isdigit():
            upper = _ALIASES[alias] + upper[len(alias) :]
            break
    upper = _LONGER.get(upper, upper)
    if upper not in SIZES or upper == "VOID":
        known = ", ".join(
            sorted(key.lower() for key in SIZES if key not in LATER and key != "VOID")
        )
        raise ArgumentError(f"unknown dtype {name!r}; known are {known}")
    return upper


def from_library(name: str) -> str | None:
    """The type that numpy, ml_dtypes or torch call so, such as `bfloat16`; None for others."""
    return _FROM_LIBRARY.get(name)


@functools.lru_cache
def from_numpy(dtype: "np.dtype[Any]") -> str | None:
    """The type of a numpy dtype of any byte order, None for records, strings and the like."""
    if dtype.hasobject:  # some of which have no byte order
        return None
    return _FROM_LIBRARY.get(dtype.newbyteorder("=").name)


@functools.lru_cache
def to_numpy(dtype: str) -> "np.dtype[Any]":
    """The numpy dtype; where there is none without ml_dtypes, an unsigned integer of that size.

    That of packed elements is uint8: they are handed out as bytes.
    """
    name = _NAMES.get(dtype, "")
    if hasattr(np, name):
        return np.dtype(name)
    bits = np.dtype(f"u{SIZES.get(dtype, 1)}")
    try:
        import ml_dtypes
    except ImportError:
        return bits
    found: np.dtype[Any] = np.dtype(getattr(ml_dtypes, name, bits))
    return found


def from_torch(dtype: object) -> str | None:
    """The type of a `torch.dtype`, None for quantised and other unusual ones."""
    return _FROM_LIBRARY.get(str(dtype).removeprefix("torch."))


def for_torch(dtype: str, shape: tuple[int, ...]) -> tuple[str, tuple[int, ...]]:
    """The type and shape that torch has: packed elements are bytes there, but F4 two in one."""
    if dtype not in PACKED:
        return dtype, shape
    import torch

    paired = dtype == "F4" and hasattr(torch, "float4_e2m1fn_x2")
    return "F4_X2" if paired else "U8", in_bytes(dtype, shape)


def to_torch(dtype: str) -> Any:
    """The `torch.dtype`."""
    import torch

    found = getattr(torch, _NAMES.get(dtype, ""), None)
    if found is None:
        raise ArgumentError(f"this torch has no dtype for {dtype}")
    return found


def number_size(dtype: str) -> int:
    """Bytes of a number of an element type: of a complex one, there are two to an element."""
    return SIZES[PAIRS.get(dtype, dtype)]
