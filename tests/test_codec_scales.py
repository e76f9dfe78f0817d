"""The scale-context codec against a decoder and a writer made from its specification."""

import io
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import rans_reference as rans
import reference_decoder
import scales_reference as reference
from helpers import CHUNK, MODEL, random_state, take_apart, to_bf16, to_fp8, weights
from scales_reference import FORMS, Form, Matrix

import densor
from densor.codec.decoders import decoder_for
from densor.codec.kind import Kind, kind_of
from densor.codec.levels import level_settings
from densor.codec.planar.coder import PlanarCoder
from densor.codec.planar.layout import layout_numbered
from densor.codec.registry import LAYOUT_WORD16
from densor.codec.scales.coder import ScalesCoder
from densor.codec.scales.tables import History

Bits = npt.NDArray[np.unsignedinteger[Any]]
LEVEL = level_settings(6)
FORM_OF = {"BF16": 1, "F16": 2, "F8_E4M3": 3, "F8_E5M2": 4, "F32": 5, "C64": 5}
DTYPES = tuple(FORM_OF)
SMALL = ((), (1,), (31,), (32,), (33,), (7, 64), (64, 7), (5, 4, 3, 3))
LARGE = ((300, 65), (4, 96, 80))
CONTENTS = (
    *("normal", "zeros", "many zeros", "minus zeros", "nans", "infinities", "denormals"),
    *("constant", "random", "wild rows", "integers"),
)


def content(name: str, dtype: str, shape: Sequence[int]) -> Bits:
    """Bit patterns of a tensor. C64: two elements each."""
    form = FORMS[FORM_OF[dtype]]
    rng = random_state(name, dtype, tuple(shape))
    shape = (*shape, 2) if dtype == "C64" else tuple(shape)
    unsigned = np.dtype(f"<u{form.size}")
    bits = 8 * form.size
    fraction = bits - 1 - form.exponent_bits
    noise = rng.integers(0, 256, (*shape, form.size), np.uint8).view(unsigned)[..., 0]
    sign = noise & unsigned.type(1 << (bits - 1))
    infinity = unsigned.type(((1 << form.exponent_bits) - 1) << fraction)
    normal = rng.standard_normal(shape)
    rows = shape[:1] + (1,) * (len(shape) - 1)
    if name == "normal":
        columns = shape[-1:]
        scale = np.exp(rng.standard_normal(rows)) * np.exp(rng.standard_normal(columns) / 2)
        return rounded(normal * scale / 16, dtype)
    if name == "many zeros":
        return np.where(rng.random(shape) < 0.6, unsigned.type(0), rounded(normal, dtype))
    if name == "minus zeros":
        return sign
    if name == "nans":
        return noise | infinity
    if name == "infinities":
        return np.where(rng.random(shape) < 0.2, infinity | sign, rounded(normal, dtype))
    if name == "denormals":
        return noise & ~infinity
    if name == "constant":
        return np.full(shape, noise.flat[0] if noise.size else 0, unsigned)
    if name == "random":
        return noise
    if name == "wild rows":
        scale = 2.0 ** rng.integers(-100, 100, rows) if rows else np.float64(1)
        return rounded(normal * scale, dtype)
    if name == "integers":
        return rounded(rng.integers(-40, 41, shape).astype(float), dtype)
    return np.zeros(shape, unsigned)


def rounded(numbers: npt.NDArray[np.float64], dtype: str) -> Bits:
    """Bit patterns of the numbers nearest to some, or near."""
    with np.errstate(over="ignore"):
        if dtype == "BF16":
            return to_bf16(numbers.astype(np.float32))
        if dtype == "F8_E4M3":
            return to_fp8(numbers)
        half = numbers.astype(np.float16).view(np.uint16)
        if dtype == "F8_E5M2":
            return (half >> 8).astype(np.uint8)
        return half if dtype == "F16" else numbers.astype(np.float32).view(np.uint32)


def coded(data: bytes, kind: Kind, history: History, low: bool) -> tuple[bytes, list[bytes]]:
    """The model and the chunks' payloads of a batch. `low`: low halves have a model."""
    array = np.frombuffer(data, np.uint8)
    low_coder = None
    if low:
        halves = np.ascontiguousarray(array.view("<u2")[::2]).view(np.uint8)
        layout = layout_numbered(LAYOUT_WORD16)
        low_coder = PlanarCoder(halves, layout, kind.run, replace(LEVEL, try_zstd=False), False)
    coder = ScalesCoder(kind, history, low_coder)
    chunks = cut(data, kind)
    arrays = [np.frombuffer(chunk, np.uint8) for chunk in chunks]
    coder.decide([coder.count(chunk) for chunk in arrays])
    return coder.model(), [coder.encode(chunk, i).tobytes() for i, chunk in enumerate(arrays)]


def cut(data: bytes, kind: Kind) -> list[bytes]:
    """A batch in chunks."""
    step = kind.chunk_bytes(LEVEL)
    return [data[i : i + step] for i in range(0, len(data), step)]


def decoded(model: bytes, payload: bytes, size: int) -> bytes:
    """A payload decoded by the package."""
    out = np.full(size, 0xA5, np.uint8)
    decoder_for(model).decode(np.frombuffer(payload, np.uint8), out)
    return out.tobytes()


def check(model: bytes, payload: bytes, expected: bytes) -> None:
    """Package and reference both decode to `expected`."""
    assert decoded(model, payload, len(expected)) == expected
    assert reference_decoder.parse_model(model)(payload, len(expected)) == expected


# What the package writes


@pytest.mark.parametrize("low", [False, True])
@pytest.mark.parametrize("name", CONTENTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_any_content_of_any_shape(dtype: str, name: str, low: bool) -> None:
    if low and FORMS[FORM_OF[dtype]].size != 4:
        return
    history = History()
    for shape in SMALL:
        data, kind = content(name, dtype, shape).tobytes(), kind_of(dtype, shape)
        model, payloads = coded(data, kind, history, low)
        for payload, chunk in zip(payloads, cut(data, kind), strict=True):
            check(model, payload, chunk)


@pytest.mark.parametrize("shape", LARGE)
@pytest.mark.parametrize("dtype", DTYPES)
def test_larger_matrices(dtype: str, shape: tuple[int, ...]) -> None:
    for name in ("normal", "random"):
        data, kind = content(name, dtype, shape).tobytes(), kind_of(dtype, shape)
        model, (payload,) = coded(data, kind, History(), False)
        check(model, payload, data)


@pytest.mark.parametrize("name", CONTENTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_archives_of_any_content(dtype: str, name: str) -> None:
    """By whatever codec is chosen, at level 6."""
    for shape in (*SMALL, *LARGE, (0, 5)):
        array = content(name, dtype, shape)
        given = array.view(np.complex64)[..., 0] if dtype == "C64" else array
        if dtype not in ("F32", "C64"):
            archive = densor.compress(given, 6, dtype=dtype.lower())
        else:
            archive = densor.compress(given if dtype == "C64" else given.view(np.float32), 6)
        (entry,) = reference_decoder.decode(archive)
        assert entry.data == array.tobytes()
        assert densor.decompress(archive).tobytes() == array.tobytes()
