"""Weights of 4 bits in blocks with scales, as models in NVFP4 and MXFP4 are published."""

import io

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
import zstandard

import densor
from densor.files.single import compress_file
from tests.support.helpers import safetensors_bytes

Bytes = npt.NDArray[np.uint8]
ROWS, COLUMNS = 1024, 1536


def matrix(seed: int) -> npt.NDArray[np.float32]:
    """Weights in rows of different scale."""
    rng = np.random.default_rng(seed)
    scale = np.exp(0.3 * rng.standard_normal((ROWS, 1)))
    return (0.04 * scale * rng.standard_normal((ROWS, COLUMNS))).astype(np.float32)


def codes(numbers: npt.NDArray[np.float32]) -> Bytes:
    """E2M1, two in a byte, the first one low."""
    four = np.clip(numbers, -6, 6).astype(ml_dtypes.float4_e2m1fn).view(np.uint8)
    return four[..., 0::2] & 15 | four[..., 1::2] << 4


def nvfp4(seed: int) -> tuple[Bytes, Bytes]:
    """Packed weights and their scales, E4M3 of blocks of 16."""
    blocks = matrix(seed).reshape(ROWS, -1, 16)
    most = np.abs(blocks).max(-1)
    unit = np.float32(448 * 6) / most.max()
    scales = (most / 6 * unit).astype(ml_dtypes.float8_e4m3fn)
    packed = codes(blocks / (scales.astype(np.float32) / unit)[..., None])
    return packed.reshape(ROWS, -1), scales.view(np.uint8)


def mxfp4(seed: int) -> tuple[Bytes, Bytes]:
    """Packed blocks of 32 and their scales, E8M0."""
    blocks = matrix(seed).reshape(ROWS, -1, 32)
    exponents = np.floor(np.log2(np.abs(blocks).max(-1))) - 2
    packed = codes(blocks / np.exp2(exponents)[..., None].astype(np.float32))
    return packed, (exponents + 127).astype(np.uint8)


def bits(symbols: Bytes) -> float:
    """Bytes of symbols at their order-0 entropy."""
    counts = np.bincount(symbols.ravel())
    counts = counts[counts > 0]
    return -float((counts * np.log2(counts / counts.sum())).sum()) / 8


def bound(packed: Bytes, scales: Bytes) -> float:
    """Bytes by the order-0 entropies of what is 4 bits, and of the scales."""
    return bits(np.concatenate([packed.ravel() & 15, packed.ravel() >> 4])) + bits(scales)


def model(kind: str) -> tuple[bytes, float]:
    """A safetensors file of some layers, and the bound of what is in it."""
    tensors = {}
    least = 0.0
    for layer in range(2):
        if kind == "nvfp4":
            packed, scales = nvfp4(layer)
            tensors[f"{layer}.weight_scale"] = ("F8_E4M3", scales.shape, scales.tobytes())
            tensors[f"{layer}.weight_packed"] = ("U8", packed.shape, packed.tobytes())
        else:
            packed, scales = mxfp4(layer)
            tensors[f"{layer}.proj_blocks"] = ("U8", packed.shape, packed.tobytes())
            tensors[f"{layer}.proj_scales"] = ("U8", scales.shape, scales.tobytes())
        least += bound(packed, scales)
    return safetensors_bytes(tensors), least


@pytest.mark.parametrize("kind", ["nvfp4", "mxfp4"])
def test_near_the_entropy_of_weights_and_scales(kind: str) -> None:
    data, least = model(kind)
    by_zstd = len(zstandard.compress(data, 19))
    for level in (3, 6):
        out, back = io.BytesIO(), io.BytesIO()
        compress_file(io.BytesIO(data), out, level, name="model.safetensors")
        assert len(out.getvalue()) < 1.01 * least
        assert len(out.getvalue()) < by_zstd
        out.seek(0)
        densor.decompress_file(out, back)
        assert back.getvalue() == data
