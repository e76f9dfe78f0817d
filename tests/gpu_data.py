"""Packed tensors for the tests of `densor.gpu`: coded by one codec, whatever their size."""

import numpy as np
import numpy.typing as npt
from helpers import bits_of, random_state

from densor.codec import registry
from densor.codec.coder import BatchCoder
from densor.codec.kind import kind_of
from densor.codec.levels import level_settings
from densor.codec.planar.coder import PlanarCoder
from densor.codec.planar.layout import layout_for
from densor.codec.planar.model import Classes, Model, parse
from densor.codec.scales.coder import ScalesCoder
from densor.codec.scales.tables import History
from densor.dtypes import SIZES
from densor.gpu.tensors import Packed, PackedChunk, Place

Bytes = npt.NDArray[np.uint8]
DTYPES = ("BF16", "F16", "F32", "F8_E4M3")


def weights(dtype: str, count: int, columns: int = 64, seed: object = 0) -> Bytes:
    """Weights whose rows differ in scale, a few of them of any bits."""
    rng = random_state("gpu", dtype, count, columns, seed)
    rows = -(-count // columns)
    scales = np.exp2(rng.integers(-6, 3, rows)).repeat(columns)[:count]
    numbers = (rng.standard_normal(count) * scales).astype(np.float32)
    if dtype == "BF16":
        bits = (numbers.view(np.uint32) >> 16).astype(np.uint16)
    elif dtype.startswith("F8"):
        from helpers import to_fp8

        bits = to_fp8(numbers)
    else:
        bits = numbers.astype({"F16": "<f2", "F32": "<f4"}[dtype])
    data = bits.view(np.uint8).copy()
    wild = bits_of("random", SIZES[dtype], max(1, count // 300), rng)
    places = rng.integers(0, max(count, 1), wild.size) if count else np.empty(0, np.int64)
    data.view(wild.dtype)[places] = wild[: places.size]
    return data


def _packed(coder: BatchCoder, pieces: list[Bytes], dtype: str) -> Packed:
    coder.decide([coder.count(piece) for piece in pieces])
    model = coder.model()
    chunks = [
        PackedChunk(registry.FIRST_MODEL, model, coder.encode(piece, i).copy(), piece.size)
        for i, piece in enumerate(pieces)
    ]
    size = sum(piece.size for piece in pieces)
    return Packed((Place("w", dtype, (size // SIZES[dtype],), size),), chunks)


def _cut(data: Bytes, step: int) -> list[Bytes]:
    return [data[at : at + step] for at in range(0, data.size, step)]


def planar(data: Bytes, dtype: str, run: int = 64, chunk: int = 1 << 18, level: int = 3) -> Packed:
    """Coded by planes, `chunk` elements at a time."""
    pieces = _cut(data, chunk * SIZES[dtype])
    if not pieces:
        return Packed((Place("w", dtype, (0,), 0),), [])
    layout = layout_for(dtype)
    assert layout is not None
    return _packed(PlanarCoder(data, layout, run, level_settings(level), False), pieces, dtype)


def scales(data: Bytes, dtype: str, columns: int = 64, chunk: int = 1 << 18) -> Packed:
    """Coded under scale contexts, `chunk` elements at a time, whole rows."""
    size = SIZES[dtype]
    pieces = _cut(data, chunk * size)
    if not pieces:
        return Packed((Place("w", dtype, (0,), 0),), [])
    rows = -(-data.size // size // columns)
    return _packed(ScalesCoder(kind_of(dtype, (rows, columns)), History()), pieces, dtype)


def planar_model(tensor: Packed) -> Model[Classes]:
    """The model of a tensor that is coded by planes."""
    return parse(tensor.chunks[0].model)
