"""Every operation on vectors of 16 integers of 16 bits, and on slots, against numpy."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from helpers import random_state
from numba import njit

from densor.codec.tokens import slot_vectors as slots
from densor.entropy import short_vectors as v
from densor.entropy import vectors as wide

I16 = npt.NDArray[np.int16]


@njit  # type: ignore[untyped-decorator]
def operations(a: Any, b: Any, number: int, factor: int, out: Any) -> int:
    x, y = v.load(a, 3), v.load(b, 0)
    v.store(out[0], 1, v.add(x, y))
    v.store(out[1], 1, v.subtract(x, y))
    v.store(out[2], 1, v.without_first(x))
    v.store(out[3], 1, v.with_first(x, number))
    v.store(out[4], 1, v.either(number < 0, x, y))
    v.store(out[5], 1, v.scaled(x, factor))
    return v.count_up_to(x, number)  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", ["as here", "everywhere"])
def test_operations(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Products by the processor's own instruction, and without one, are the same."""
    if kind == "everywhere":
        monkeypatch.setattr(v, "_rounding_product", lambda context: None)
    compiled = njit(operations.py_func)
    rng = random_state("short vectors", kind)
    for number in (-32768, -1, 0, 5, 32767, *rng.integers(-32768, 32768, 50).tolist()):
        a, b = rng.integers(-32768, 32768, (2, 19)).astype(np.int16)
        a[3:6] = -32768, 32767, number
        for factor in (0, 1, 16384, 32767, int(rng.integers(0, 32768))):
            out = np.full((6, 18), 77, np.int16)
            assert compiled(a, b[:16], number, factor, out) == (a[3:] <= number).sum()
            assert (out[:, [0, 17]] == 77).all()
            x, y = a[3:], b[:16]
            zero, set_ = x.copy(), x.copy()
            zero[0], set_[0] = 0, number
            scaled = (x.astype(np.int32) * factor + (1 << 14)) >> 15
            wanted = [x + y, x - y, zero, set_, x if number < 0 else y, scaled.astype(np.int16)]
            assert (out[:, 1:17] == np.array(wanted)).all()


@njit  # type: ignore[untyped-decorator]
def slots_through(table: Any, at: Any, masks: Any, a: Any, b: Any, out: Any) -> Any:
    x = slots.load_slots(table, at[0], at[1], at[2], masks[0], masks[1], masks[2])
    wide.store_u32(out[0], 0, x)
    wide.store_u32(out[1], 0, slots.risen(x))
    wide.store_u32(out[2], 0, slots.by_slot(at[0], at[1], at[2]))
    y, z = wide.load_u32(a, 0), wide.load_u32(b, 0)
    wide.store_u32(out[3], 0, slots.least(y, z))
    wide.store_u32(out[4], 0, slots.most(y, z))
    slots.store_slots(table, at[0], at[1], at[2], y)
    return slots.load_pair(a, 3)


def test_slots() -> None:
    rng = random_state("slots")
    for _ in range(50):
        table = rng.integers(0, 1 << 32, 40, np.uint64).astype(np.uint32)
        a, b = rng.integers(0, 1 << 32, (2, 16), np.uint64).astype(np.uint32)
        at = rng.permutation(10)[:3].astype(np.int64) * 4
        masks = rng.integers(0, 1 << 32, 3)
        before, out = table.copy(), np.zeros((5, 16), np.uint32)
        assert int(slots_through(table, at, masks, a, b, out)) == int(a[3]) | int(a[4]) << 32
        places = np.zeros((4, 4), np.uint32)
        for row, (index, mask) in enumerate(zip(at, masks, strict=True)):
            places[row] = before[index : index + 4] & np.uint32(mask)
        assert (out[0] == places.reshape(-1)).all()
        for row in places:
            for j in (3, 2, 1):
                if row[j] > row[j - 1]:
                    row[j - 1], row[j] = row[j], row[j - 1]
        assert (out[1] == places.reshape(-1)).all()
        assert (out[2] == np.repeat([*at, 0], 4)).all()
        assert (out[3] == np.minimum(a, b)).all() and (out[4] == np.maximum(a, b)).all()
        for row, index in enumerate(at):
            before[index : index + 4] = a[4 * row : 4 * row + 4]
        assert (table == before).all()
