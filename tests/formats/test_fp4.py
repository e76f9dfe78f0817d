"""Weights of 4 bits in blocks with scales, as models in NVFP4 and MXFP4 are published."""

import io

import numpy as np
import numpy.typing as npt
import pytest
import zstandard

import densor
from bench.four_bits import entropy, halves, mxfp4, nvfp4
from densor.files.single import compress_file
from tests.support.helpers import safetensors_bytes

Bytes = npt.NDArray[np.uint8]
ROWS, COLUMNS = 1024, 1536


def matrix(seed: int) -> npt.NDArray[np.float32]:
    """Weights in rows of different scale."""
    rng = np.random.default_rng(seed)
    scale = np.exp(0.3 * rng.standard_normal((ROWS, 1)))
    return (0.04 * scale * rng.standard_normal((ROWS, COLUMNS))).astype(np.float32)


def bound(packed: Bytes, scales: Bytes) -> float:
    """Bytes by the order-0 entropies of what is 4 bits, and of the scales."""
    return entropy(halves(packed)) + entropy(scales)


def model(kind: str) -> tuple[bytes, float]:
    """A safetensors file of some layers, and the bound of what is in it."""
    tensors = {}
    least = 0.0
    for layer in range(2):
        if kind == "nvfp4":
            packed, scales = nvfp4(matrix(layer))
            tensors[f"{layer}.weight_scale"] = ("F8_E4M3", scales.shape, scales.tobytes())
            tensors[f"{layer}.weight_packed"] = ("U8", packed.shape, packed.tobytes())
        else:
            packed, scales = mxfp4(matrix(layer))
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
