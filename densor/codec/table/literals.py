"""Literals as kernels take them."""

import numpy as np

from densor.codec.batch import Bytes
from densor.codec.table.layout import I64, Layout
from densor.codec.table.state import PADDING


def literals_of(layout: Layout) -> tuple[Bytes, I64]:
    """All literals, padded, and where each begins and the last ends; int64[columns + 2]."""
    literals = layout.between
    begins = np.zeros(len(literals) + 1, np.int64)
    np.cumsum([len(literal) for literal in literals], out=begins[1:])
    return np.frombuffer(b"".join(literals) + bytes(PADDING), np.uint8), begins
