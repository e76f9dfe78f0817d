"""Samples from all over a batch, by which coders decide."""

import numpy as np

from densor.runtime.types import Bytes

PIECES = 16  # places of a batch that are looked at


def sample(data: Bytes, unit: int, piece: int, pieces: int = PIECES, inner: bool = False) -> Bytes:
    """So many pieces of `piece` units each, one after the other; all of a batch that is not larger.

    `unit`: bytes. The first piece begins with `data` and the last one ends with it; with `inner`
    they are as far from the ends as pieces are from each other, halved.
    """
    if data.size <= pieces * piece * unit:
        return data
    last = data.size // unit - piece
    starts = np.linspace(0, last, pieces).astype(np.int64).tolist()
    if inner:
        starts = [last * (2 * i + 1) // (2 * pieces) for i in range(pieces)]
    return np.concatenate([data[unit * s : unit * (s + piece)] for s in starts])
