"""Packed matrices: bits, products against their definition, threads, faults."""

import copy
import pickle
import threading
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from helpers import CONTENTS, bits_of, random_state

from densor.errors import ArgumentError, ChecksumError
from densor.products import entry_kernels as entry
from densor.products.kernels import Layout
from densor.products.matrix import Matrix, best_layout
from densor.products.team import Team

Words = npt.NDArray[np.uint16]
PACKED = (entry.BF16_3, entry.BF16_4, entry.FP16_3)
PLAIN = {False: entry.BF16, True: entry.FP16}
SHAPES = ((1, 1), (7, 100), (8, 64), (9, 65), (40, 576), (64, 1))


def words(half_floats: bool, *shape: int, scale: float = 0.02, seed: object = 0) -> Words:
    """Weights of a usual distribution, bit patterns of FP16 or BF16."""
    numbers = (random_state("products", seed).standard_normal(shape) * scale).astype(np.float32)
    if half_floats:
        return numbers.astype(np.float16).view(np.uint16)
    return (numbers.view(np.uint32) >> 16).astype(np.uint16)


def floats(bits: Words, half_floats: bool) -> npt.NDArray[np.float32]:
    if half_floats:
        return bits.view(np.float16).astype(np.float32)
    return (bits.astype(np.uint32) << 16).view(np.float32)


def rounded(numbers: npt.NDArray[np.float32], half_floats: bool) -> Words:
    """To nearest, ties to even."""
    if half_floats:
        return numbers.astype(np.float16).view(np.uint16)
    bits = numbers.view(np.uint32).astype(np.uint64)
    found: Words = ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)
    return found


def by_definition(matrix: Words, inputs: Words, bias: Words, half_floats: bool) -> Words:
    """Products as `kernels.py` defines them: of 16 bits, they are exact in FP32 before sums."""
    columns = -(-matrix.shape[1] // 32) * 32
    padded = [np.zeros((len(m), columns), np.float32) for m in (matrix, inputs)]
    for given, to in zip((matrix, inputs), padded, strict=True):
        to[:, : matrix.shape[1]] = floats(given, half_floats)
    w, x = (m.reshape(len(m), -1, 16, 2) for m in padded)
    sums = np.zeros((len(x), len(w), 16), np.float32)
    for step in range(columns // 32):
        for odd in (1, 0):
            sums += w[None, :, step, :, odd] * x[:, None, step, :, odd]
    while sums.shape[2] > 1:
        half = sums.shape[2] // 2
        sums = sums[:, :, :half] + sums[:, :, half:]
    return rounded(sums[:, :, 0] + floats(bias, half_floats), half_floats)


@pytest.mark.parametrize("layout", PACKED, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_products_are_those_of_the_definition(layout: Layout, shape: tuple[int, int]) -> None:
    half = layout.half_floats
    weights = words(half, *shape)
    bias = words(half, shape[0], scale=1.0, seed="bias")
    packed, plain = Matrix(weights, layout), Matrix(weights, PLAIN[half])
    for tokens in (1, 2, 3, 5, 8, 11):
        inputs = words(half, tokens, shape[1], scale=1.0, seed=tokens)
        wanted = by_definition(weights, inputs, bias, half)
        for threads in (1, 2, 3):
            assert np.array_equal(packed.times(inputs, bias, threads), wanted)
        assert np.array_equal(plain.times(inputs, bias), wanted)


@pytest.mark.parametrize("layout", PACKED, ids=str)
@pytest.mark.parametrize("content", CONTENTS)
def test_every_bit_comes_back(layout: Layout, content: str) -> None:
    for shape in ((24, 192), (13, 77)):
        count = shape[0] * shape[1]
        bits = bits_of(content, 2, count, random_state("matrix", content))
        weights = bits.astype(np.uint16).reshape(shape)
        packed = Matrix(weights, layout, threads=2)
        assert np.array_equal(packed.unpack(), weights)
        assert np.array_equal(packed.unpack(3, 9), weights[3:9])
        rows = np.array([12, 0, 0, 7, 12])
        assert np.array_equal(packed.gather(rows), weights[rows])


def test_special_values_in_products() -> None:
    """Infinities and NaNs, in weights and inputs; large sums that do not fit."""
    weights = words(False, 16, 64)
    weights[0, 5], weights[1, 6], weights[2, 7], weights[3] = 0x7F80, 0x7FC1, 0xFF80, 0x7F00
    inputs = words(False, 2, 64, scale=1.0)
    inputs[0, 0], inputs[1] = 0x3F80, 0x7F00
    packed = Matrix(weights, entry.BF16_3).times(inputs)
    assert np.array_equal(packed, Matrix(weights, entry.BF16).times(inputs))
    found = floats(packed, False)
    assert np.isnan(found[:, 1]).all() and np.isinf(found[1, 3]) and np.isinf(found[0, 0])


def test_a_matrix_is_small() -> None:
    weights = words(False, 256, 1024)
    assert Matrix(weights, entry.BF16_3).nbytes < 0.715 * weights.nbytes
    assert Matrix(weights, entry.BF16_4).nbytes < 0.757 * weights.nbytes
    weights = words(True, 256, 1024)
    assert Matrix(weights, entry.FP16_3).nbytes < 0.9 * weights.nbytes
    assert best_layout(True) == entry.FP16_3 and not best_layout(False).half_floats


def test_arguments() -> None:
    weights = words(False, 16, 64)
    for wrong in (weights[0], weights[:0], weights[:, :0], weights.astype(np.uint32)):
        with pytest.raises(ArgumentError):
            Matrix(wrong)
    packed = Matrix(weights)
    for inputs in (weights[:, 1:], weights[0], weights.astype(np.int32)):
        with pytest.raises(ArgumentError):
            packed.times(inputs)
    with pytest.raises(ArgumentError, match="bias"):
        packed.times(weights, weights[0, :5])
    for number in (-1, 16, 1 << 40):
        with pytest.raises(IndexError):
            packed.gather(np.array([number]))
    assert packed.times(weights[:0]).shape == (0, 16)
    for out in (np.empty((2, 63), "u2"), np.empty((2, 64), "u4"), np.empty((2, 128), "u2")[:, ::2]):
        with pytest.raises(ArgumentError):
            packed.gather(np.array([1, 2]), out)


def test_strides_and_copies() -> None:
    whole = words(False, 32, 256)
    for given in (whole[::2, ::2], whole.T, whole[::-1]):
        assert np.array_equal(Matrix(given).unpack(), given)
    packed = Matrix(whole)
    for other in (copy.deepcopy(packed), pickle.loads(pickle.dumps(packed))):
        assert np.array_equal(other.times(whole[:2]), packed.times(whole[:2]))


def test_what_was_packed_wrongly_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Matrix.gather

    def faulty(self: Matrix, *args: Any) -> Words:
        found = real(self, *args)
        found[-1, -1] ^= 1
        return found

    monkeypatch.setattr(Matrix, "gather", faulty)
    with pytest.raises(ChecksumError):
        Matrix(words(False, 16, 64))


def test_threads_at_the_same_time() -> None:
    """One has the team, the others compute alone; results are the same."""
    weights = words(False, 512, 512)
    packed = Matrix(weights)
    inputs = words(False, 4, 512, scale=1.0)
    wanted = packed.times(inputs, threads=1)
    wrong: list[int] = []

    def work() -> None:
        for _ in range(50):
            if not np.array_equal(packed.times(inputs, threads=3), wanted):
                wrong.append(1)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_team_does_every_part_once() -> None:
    """Rounds of many sizes; the gathered rows show which parts were done."""
    team, packed = Team(), Matrix(words(False, 64, 64))
    job = packed._job.copy()
    from densor.products import kernels

    numbers = np.arange(64)
    for parts in (1, 2, 7, 64):
        for threads in (1, 2, 4):
            out = np.zeros((64, 64), np.uint16)
            job[kernels.OUTPUT], job[kernels.OUTPUT_STRIDE] = out.ctypes.data, 128
            job[kernels.BIAS], job[kernels.TOKENS] = numbers.ctypes.data, 64
            job[kernels.PARTS] = parts
            function = entry.address(packed.layout, "gather")
            team.run(function, job.ctypes.data, parts, threads)
            assert np.array_equal(out, packed.unpack())
