"""Every operation on vectors of 16 integers, against numpy."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from helpers import random_state
from numba import njit

from densor.entropy import vectors as v

U32 = npt.NDArray[np.uint32]
_SHIFTS = (0, 1, 12, 31)


@njit  # type: ignore[untyped-decorator]
def arithmetic(a: Any, b: Any, out: Any) -> None:
    x = v.load_u32(a, 16)
    y = v.load_u32(b, 16)
    v.store_u32(out[0], 0, v.add(x, y))
    v.store_u32(out[1], 0, v.subtract(x, y))
    v.store_u32(out[2], 0, v.multiply(x, y))
    v.store_u32(out[3], 0, v.both(x, y))
    v.store_u32(out[4], 0, v.either(x, y))
    v.store_u32(out[5], 0, v.divide_roughly(x, v.reciprocal(y)))
    v.store_u32(out[6], 0, v.choose(v.less(x, y), x, y))
    v.store_u32(out[7], 0, v.choose(v.equal(x, y), x, v.splat(7)))
    v.store_u32(out[8], 0, v.choose(v.less_signed(x, y), x, y))
    v.store_u32(out[9], 0, v.absolute(x))


@njit  # type: ignore[untyped-decorator]
def sums(a: Any, at: int, out: Any) -> int:
    x = v.load_elements(a, at)
    v.store_u32(out, 0, v.running_sums(x))
    return v.sum_of(x)


@njit  # type: ignore[untyped-decorator]
def shifts(a: Any, bits: int, out: Any) -> None:
    x = v.load_u32(a, 0)
    v.store_u32(out[0], 0, v.shift_right(x, bits))
    v.store_u32(out[1], 0, v.shift_left(x, bits))


@njit  # type: ignore[untyped-decorator]
def masks(a: Any, b: Any, bits: int) -> tuple[int, int, int, int]:
    x = v.load_u32(a, 0)
    y = v.load_u32(b, 0)
    mask = v.mask_of(bits)
    return v.bits_of(v.less(x, y)), v.bits_of(v.equal(x, y)), v.count(mask), v.bits_of(mask)


@njit  # type: ignore[untyped-decorator]
def memory(data: Any, at: int, table: Any, index: Any, bytes_out: Any, words_out: Any) -> None:
    v.store_u8(bytes_out, at, v.load_u8(data, at))
    v.store_u16(words_out, at, v.load_u16(data, at))
    v.store_u32(index, 0, v.gather_u32(table, v.load_u32(index, 0)))


@njit  # type: ignore[untyped-decorator]
def expand(data: Any, at: int, bits: int, out: Any) -> None:
    v.store_u32(out, 0, v.expand_u16(data, at, v.mask_of(bits)))


@njit  # type: ignore[untyped-decorator]
def compress(out: Any, end: int, bits: int, a: Any) -> None:
    v.compress_u16_before(out, end, v.mask_of(bits), v.load_u32(a, 0))


def numbers(seed: object, count: int = 16) -> U32:
    """Numbers of every length in bits."""
    rng = random_state("vectors", seed)
    wide = rng.integers(0, 1 << 32, count, np.uint64) >> rng.integers(0, 32, count).astype(
        np.uint64
    )
    found: U32 = wide.astype(np.uint32)
    return found


@pytest.mark.parametrize("seed", range(30))
def test_arithmetic(seed: int) -> None:
    a, b = numbers((seed, "a"), 32), np.maximum(numbers((seed, "b"), 32), 1)
    a[17], b[18], a[19], b[19] = 0xFFFFFFFF, 1, 5, 5
    a[20], b[20], a[21], b[21] = 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF
    a[22] = a[22] // b[22] * b[22]  # no rest
    out = np.zeros((10, 16), np.uint32)
    arithmetic(a, b, out)
    x, y = a[16:], b[16:]
    quotient = x // y
    small = quotient < 1 << 20
    assert (quotient - out[5])[small].max(initial=0) <= 1
    out[5, :] = 0
    none = np.zeros(16, np.uint32)
    signed = np.minimum(x.view(np.int32), y.view(np.int32)), np.abs(x.view(np.int32))
    expected = (x + y, x - y, x * y, x & y, x | y, none, np.minimum(x, y), np.where(x == y, x, 7))
    expected += tuple(array.view(np.uint32) for array in signed)
    for found, wanted in zip(out, expected, strict=True):
        assert found.tobytes() == wanted.astype(np.uint32).tobytes()


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_sums_of_elements(size: int) -> None:
    """The low 32 bits of elements of any size; sums modulo 2^32."""
    for at in (0, 1, 5):
        a = np.frombuffer(random_state("sums", size, at).bytes(24 * size), f"<u{size}")
        out = np.zeros(16, np.uint32)
        wanted = np.cumsum(a[at : at + 16].astype(np.uint32), dtype=np.uint32)
        assert sums(a, at, out) == wanted[-1]
        assert out.tolist() == wanted.tolist()


def test_quotients_near_integers() -> None:
    """Never more than the quotient, and at most 1 less, next to every multiple of a divisor."""
    rng = random_state("quotients")
    out = np.zeros((10, 16), np.uint32)
    for _ in range(3000):
        b = rng.integers(1, 4097, 16)
        near = rng.integers(1, 1 << 20, 16) * b + rng.integers(-1, 2, 16)
        a = np.clip(near, 0, np.minimum((b << 20) - 1, 0xFFFFFFFF))
        x, y = (np.tile(values, 2).astype(np.uint32) for values in (a, b))
        arithmetic(x, y, out)
        assert np.isin((a // b) - out[5], (0, 1)).all()


@pytest.mark.parametrize("bits", _SHIFTS)
def test_shifts(bits: int) -> None:
    a = numbers(bits)
    out = np.zeros((2, 16), np.uint32)
    shifts(a, bits, out)
    assert out.tolist() == [(a >> np.uint32(bits)).tolist(), (a << np.uint32(bits)).tolist()]


def test_masks() -> None:
    for seed in range(20):
        a, b = numbers((seed, "m")), numbers((seed, "n"))
        a[3] = b[3]
        bits = int(random_state("mask", seed).integers(0, 1 << 16))
        less, equal, count, same = masks(a, b, bits)
        assert less == sum(1 << lane for lane in range(16) if a[lane] < b[lane])
        assert equal == sum(1 << lane for lane in range(16) if a[lane] == b[lane])
        assert (count, same) == (bits.bit_count(), bits)


@pytest.mark.parametrize("at", [0, 1, 7])
def test_memory(at: int) -> None:
    rng = random_state("memory", at)
    data = rng.integers(0, 256, at + 32, np.uint8)
    table = numbers("table", 1000)
    index = rng.integers(0, 1000, 16).astype(np.uint32)
    index[:2] = (0, 999)
    wanted = table[index]
    bytes_out, words_out = np.full(at + 17, 9, np.uint8), np.full(at + 33, 9, np.uint8)
    memory(data, at, table, index, bytes_out, words_out)
    assert index.tobytes() == wanted.tobytes()
    assert bytes_out[at:].tolist() == [*data[at : at + 16].tolist(), 9]
    assert words_out[at:].tolist() == [*data[at : at + 32].tolist(), 9]
    assert (bytes_out[:at] == 9).all()


def some_masks() -> list[int]:
    single = [1 << lane for lane in range(16)]
    random = random_state("masks").integers(0, 1 << 16, 300).tolist()
    return [0, 0xFFFF, 0x00FF, 0xFF00, *single, *random]


def test_expand() -> None:
    data = random_state("expand").integers(1, 256, 40, np.uint8)
    out = np.zeros(16, np.uint32)
    for at in (0, 1, 8):
        for bits in some_masks():
            expand(data, at, bits, out)
            words = iter(data[at : at + 32].view(np.uint16).tolist())
            assert out.tolist() == [next(words) if bits >> lane & 1 else 0 for lane in range(16)]


def test_compress() -> None:
    for number, bits in enumerate(some_masks()):
        a = numbers(("compress", number))
        end = 33 + number % 2
        out = np.full(40, 9, np.uint8)
        compress(out, end, bits, a)
        kept = [int(a[lane]) & 0xFFFF for lane in range(16) if bits >> lane & 1]
        begin = end - 2 * len(kept)
        assert out[begin:end].tobytes() == np.array(kept, "<u2").tobytes()
        assert (out[end:] == 9).all()
        assert (out[: end - 32] == 9).all()
