"""Kernels of `densor.gpu` under the emulator: bit for bit what went in, in any order of lanes."""

from functools import cache

import gpu_data
import numpy as np
import pytest

from densor.gpu import emulate
from densor.gpu.block import Block
from densor.gpu.emulate import EmulatedBackend
from densor.gpu.tensors import PackedTensor

if emulate.compiler() is None:
    pytest.skip("no C++ compiler", allow_module_level=True)

SIZES = (0, 1, 255, 256, 257, 8192, 100003)
LARGE = pytest.param(1 << 22, marks=pytest.mark.slow)


@cache
def backend(order: str = "up") -> EmulatedBackend:
    return EmulatedBackend(order)


def decode(tensors: list[PackedTensor], order: str = "up") -> list[np.ndarray]:
    block = Block(tensors, backend(order))
    assert not block.on_host
    outs = [backend(order).empty(tensor.size) for tensor in tensors]
    block.decode(outs)
    return [backend(order).read(out) for out in outs]


@pytest.mark.parametrize("order", emulate.ORDERS)
@pytest.mark.parametrize("dtype", gpu_data.DTYPES)
@pytest.mark.parametrize("size", [*SIZES, LARGE])
def test_huffman(dtype: str, size: int, order: str) -> None:
    data = gpu_data.weights(dtype, size)
    (found,) = decode([gpu_data.planar(data, dtype)], order)
    assert (found == data).all()


@pytest.mark.parametrize("order", emulate.ORDERS)
@pytest.mark.parametrize("dtype", [*gpu_data.DTYPES, "F8_E5M2"])
@pytest.mark.parametrize("size", [*SIZES, LARGE])
def test_rans(dtype: str, size: int, order: str) -> None:
    data = gpu_data.weights(dtype, size)
    (found,) = decode([gpu_data.scales(data, dtype)], order)
    assert (found == data).all()
