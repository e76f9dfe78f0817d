"""How two versions of a tensor differ, and what coding the one against the other would take."""

from typing import NamedTuple

import numpy as np

from densor.codec.batch import Bytes
from densor.codec.delta.elements import elements
from densor.codec.delta.encoder import estimate
from densor.codec.delta.kernels import COMPARE
from densor.codec.delta.tokens import FLOATS, SIGNED, UNSIGNED
from densor.dtypes import coding_of, number_size
from densor.float_formats import number_format


class Changes(NamedTuple):
    """What is different between two stretches of numbers."""

    numbers: int
    changed: int
    bits: int  # that are different, of all numbers
    distance: int  # largest number of steps between a number and the other, in numeric order
    coded: float  # bytes that coding the one against the other is estimated to take

    def __add__(self, other: "Changes") -> "Changes":  # type: ignore[override]
        return Changes(
            self.numbers + other.numbers,
            self.changed + other.changed,
            self.bits + other.bits,
            max(self.distance, other.distance),
            self.coded + other.coded,
        )


NOTHING = Changes(0, 0, 0, 0, 0.0)


def compare(new: Bytes, old: Bytes, dtype: str) -> Changes:
    """Compares bytes of elements of `dtype`, as many on both sides.

    -0 and +0 are one step apart, as are the largest number and infinity.
    """
    dtype, _ = coding_of(dtype, ())
    size = number_size(dtype)
    found = np.zeros(3, np.uint64)
    COMPARE[size](elements(new, size), elements(old, size), _order(dtype), found)
    changed, bits, distance = found.tolist()
    coded = estimate(new, old, dtype, size) if changed else 0.0
    return Changes(new.size // size, changed, bits, distance, coded)


def _order(dtype: str) -> int:
    """The numeric order of the bit patterns of a number."""
    form = number_format(dtype)
    if form is not None:
        return FLOATS if form.sign else UNSIGNED
    return SIGNED if dtype.startswith("I") else UNSIGNED
