"""Element types, by the names that safetensors uses, and their counterparts elsewhere."""

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
_ALIASES = {"FP": "F", "INT": "I", "UINT": "U", "FLOAT": "F", "BFLOAT": "BF", "COMPLEX": "C"}
_FROM_LIBRARY = {name: key for key, name in _NAMES.items()}


def parse_dtype(name: str) -> str:
    """The canonical name of a type that a user wrote, such as `bf16`, `fp8_e4m3` or `int32`."""
    upper = name.upper().replace("-", "_")
    for alias in sorted(_ALIASES, key=len, reverse=True):
        if upper.startswith(alias) and upper[len(alias) : len(alias) + 1].isdigit():
            upper = _ALIASES[alias] + upper[len(alias) :]
            break
    upper = {"F8_E4M3FN": "F8_E4M3", "F8_E8M0FNU": "F8_E8M0"}.get(upper, upper)
    if upper not in SIZES or upper == "VOID":
        known = ", ".join(sorted(key.lower() for key in SIZES if key != "VOID"))
        raise ArgumentError(f"unknown dtype {name!r}; known are {known}")
    return upper


def from_numpy(dtype: "np.dtype[Any]") -> str | None:
    """The type of a numpy dtype of any byte order, None for records, strings and the like."""
    return _FROM_LIBRARY.get(dtype.newbyteorder("=").name)


def to_numpy(dtype: str) -> "np.dtype[Any]":
    """The numpy dtype; for BF16 and FP8 without ml_dtypes an unsigned integer of that size."""
    name = _NAMES.get(dtype)
    if name is None:
        return np.dtype(np.uint8)
    if hasattr(np, name):
        return np.dtype(name)
    try:
        import ml_dtypes
    except ImportError:
        return np.dtype(f"u{SIZES[dtype]}")
    found: np.dtype[Any] = np.dtype(getattr(ml_dtypes, name, f"u{SIZES[dtype]}"))
    return found


def from_torch(dtype: object) -> str | None:
    """The type of a `torch.dtype`, None for quantised and other unusual ones."""
    return _FROM_LIBRARY.get(str(dtype).removeprefix("torch."))


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
