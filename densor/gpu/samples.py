"""Weights to check kernels with, packed by one codec whatever their number."""

import numpy as np
import numpy.typing as npt

from densor.codec import registry
from densor.codec.history import History
from densor.codec.interfaces import BatchCoder
from densor.codec.kind import kind_of
from densor.codec.levels import level_settings
from densor.codec.planes.encoder import PlanesEncoder
from densor.codec.planes.layout import layout_for
from densor.codec.planes.stages.huffman import HUFFMAN
from densor.codec.scale_context.encoder import ScaleContextEncoder
from densor.dtypes import SIZES
from densor.gpu.tensors import Packed, PackedChunk, Place
from densor.runtime.types import Bytes

_WILD = 300  # one element of so many has arbitrary bits


def weights(dtype: str, elements: int, columns: int = 64, seed: int = 0) -> Bytes:
    """Normal weights, as bytes, in rows that differ in scale; a few of arbitrary bits below 2."""
    rng = np.random.default_rng([seed, elements, columns])
    rows = -(-elements // columns)
    numbers = rng.standard_normal((rows, columns), np.float32)
    numbers *= np.exp2(rng.integers(-4, 5, (rows, 1)) / 2).astype(np.float32) * np.float32(0.02)
    bits = numbers.reshape(-1)[:elements].view(np.uint32)
    size = SIZES[dtype]
    if dtype == "F16":
        data = bits.view(np.float32).astype("<f2").view(np.uint8)
    elif size == 4:
        data = bits.view(np.uint8).copy()
    elif size == 2:
        data = (bits >> 16).astype("<u2").view(np.uint8)
    else:
        data = _as_fp8(bits, 3 if dtype == "F8_E4M3" else 2)
    wild = elements // _WILD
    places = rng.integers(0, max(elements, 1), wild)
    arbitrary = rng.integers(0, 256, (wild, size), np.uint8)
    arbitrary[:, -1] &= 0xBF  # the highest bit of the exponent
    data.reshape(-1, size)[places] = arbitrary
    return data


def _as_fp8(bits: npt.NDArray[np.uint32], fraction: int) -> Bytes:
    """FP8 of so many mantissa bits from FP32, near enough to a cast."""
    bias = 113 if fraction == 3 else 112
    exponent = np.clip((bits >> 23 & 255).astype(np.int64) - bias, 0, (1 << (7 - fraction)) - 1)
    low = bits >> (23 - fraction) & ((1 << fraction) - 1)
    floats = bits >> 24 & 128 | exponent.astype(np.uint32) << fraction | low
    return floats.astype(np.uint8)


def planar(data: Bytes, dtype: str, run: int = 64, chunk: int = 1 << 18, level: int = 3) -> Packed:
    """Coded by planes, `chunk` elements at a time, with a class for each `run`."""
    layout = layout_for(dtype)
    assert layout is not None
    if not data.size:
        return _packed(None, data, dtype, chunk)
    coder = PlanesEncoder(HUFFMAN, data, layout, run, level_settings(level), False)
    return _packed(coder, data, dtype, chunk)


def scales(data: Bytes, dtype: str, columns: int = 64, chunk: int = 1 << 18) -> Packed:
    """Coded under scale contexts, `chunk` elements at a time, whole rows of `columns`."""
    rows = -(-data.size // SIZES[dtype] // columns)
    return _packed(
        ScaleContextEncoder(kind_of(dtype, (rows, columns)), History()), data, dtype, chunk
    )


def _packed(coder: BatchCoder | None, data: Bytes, dtype: str, chunk: int) -> Packed:
    place = Place("w", dtype, (data.size // SIZES[dtype],), data.size)
    step = chunk * SIZES[dtype]
    pieces = [data[at : at + step] for at in range(0, data.size, step)]
    if coder is None or not pieces:
        return Packed((place,), [])
    coder.decide([coder.count(piece) for piece in pieces])
    model = coder.model()
    chunks = [
        PackedChunk(registry.FIRST_MODEL, model, coder.encode(piece, i).copy(), piece.size)
        for i, piece in enumerate(pieces)
    ]
    return Packed((place,), chunks)
