"""Element types, by the names that safetensors uses, and their counterparts elsewhere."""

from typing import Any

import numpy as np

from densor.errors import ArgumentError

# Bytes per element, frozen: these names stand in archives.
SIZES = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "F8_E8M0": 1,
    "U16": 2,
    "I16": 2,
    "F16": 2,
    "BF16": 2,
    "U32": 4,
    "I32": 4,
    "F32": 4,
    "U64": 8,
    "I64": 8,
    "F64": 8,
    "C64": 8,
    "C128": 16,
    "VOID": 1,
}

_NUMPY = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "U16": "uint16",
    "I16": "int16",
    "F16": "float16",
    "U32": "uint32",
    "I32": "int32",
    "F32": "float32",
    "U64": "uint64",
    "I64": "int64",
    "F64": "float64",
    "C64": "complex64",
    "C128": "complex128",
}
# Types that numpy has only with the package ml_dtypes; without it their bits are handed out.
_ML_DTYPES = {
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E8M0": "float8_e8m0fnu",
}
_TORCH = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E8M0": "float8_e8m0fnu",
    "U16": "uint16",
    "I16": "int16",
    "F16": "float16",
    "BF16": "bfloat16",
    "U32": "uint32",
    "I32": "int32",
    "F32": "float32",
    "U64": "uint64",
    "I64": "int64",
    "F64": "float64",
    "C64": "complex64",
    "C128": "complex128",
}
_ALIASES = {"FP": "F", "INT": "I", "UINT": "U", "FLOAT": "F", "BFLOAT": "BF", "COMPLEX": "C"}
_FROM_NUMPY = {name: key for key, name in (_NUMPY | _ML_DTYPES).items()}
_FROM_TORCH = {name: key for key, name in _TORCH.items()}


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
    return _FROM_NUMPY.get(dtype.newbyteorder("=").name)


def to_numpy(dtype: str) -> "np.dtype[Any]":
    """The numpy dtype; for BF16 and FP8 without ml_dtypes an unsigned integer of that size."""
    if dtype in _NUMPY:
        return np.dtype(_NUMPY[dtype])
    if dtype in _ML_DTYPES:
        try:
            import ml_dtypes
        except ImportError:
            return np.dtype(f"u{SIZES[dtype]}")
        found: np.dtype[Any] = np.dtype(getattr(ml_dtypes, _ML_DTYPES[dtype]))
        return found
    return np.dtype(np.uint8)


def from_torch(dtype: object) -> str | None:
    """The type of a `torch.dtype`, None for quantised and other unusual ones."""
    return _FROM_TORCH.get(str(dtype).removeprefix("torch."))


def to_torch(dtype: str) -> Any:
    """The `torch.dtype`."""
    import torch

    found = getattr(torch, _TORCH.get(dtype, ""), None)
    if found is None:
        raise ArgumentError(f"this torch has no dtype for {dtype}")
    return found
