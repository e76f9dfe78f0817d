"""The last product of a network, which learns from the text that it is asked about.

What comes out of the layers is changed by a matrix before it meets the head, and each token's logit
by an offset. Both begin as nothing, and after each token take a step down the gradient of the bits
that it took: dynamic evaluation (Krause et al., arXiv 1709.07432) of one layer, which needs no
pass back through the others.
"""

import functools
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from densor.llm import learning
from densor.llm.helpers import Team
from densor.llm.kernels import PLACES, WIDE
from densor.llm.model import Matrix, Model
from densor.llm.network import Logits, Rows

Ints = npt.NDArray[np.int64]

_STEP = 0.22  # of a logit, by which a step moves a token's about, at sizes that are usual
_OFFSET_RATE = 13
MAX_RATE = 1 << 26


class Rates(NamedTuple):
    """How fast a head learns its change, 2^-32, and its offsets, 2^-7; 0 for not at all."""

    change: int
    offsets: int


@functools.lru_cache(2)
def rates_of(model: Model) -> Rates:
    """Rates for a model: steps are as large in logits whatever the size of its numbers.

    Kept, since it looks at the whole head, and each text that is coded asks.
    """
    matrix = model.head
    blocks = matrix.weights.reshape(-1, matrix.size // 2, WIDE, 2)
    steps = np.ldexp(matrix.scales.astype(np.float64), -matrix.exponent).reshape(-1, WIDE)
    squares = sum(
        float((step**2) @ (block.astype(np.float32) ** 2).sum((0, 2)))
        for step, block in zip(steps, blocks, strict=True)
    )
    column = squares / model.vocabulary.count
    row = float((np.ldexp(model.norm.astype(np.float64), -PLACES) ** 2).sum())
    wanted = _STEP / max(row * column, 1e-9) * (1 << learning.RATE_PLACES)
    return Rates(min(max(round(wanted), 1), MAX_RATE), _OFFSET_RATE)


def head_bytes(model: Model) -> int:
    """Memory of a head that learns."""
    return 4 * model.shape.hidden**2 + 8 * model.head.columns


class Head:
    """The head of one text, or of some that are read in step. For one thread."""

    def __init__(self, model: Model, rates: Rates, team: Team | None = None) -> None:
        self._matrix: Matrix = model.head
        self._rates = rates
        self._logits = Logits(model, team)
        hidden = model.shape.hidden
        self._change = np.zeros(hidden * hidden, np.int32)
        self._offsets = np.zeros(model.head.columns, np.int64)
        self._work = np.zeros(hidden, np.int64)

    def counts(self, rows: Rows) -> Ints:
        """int64[n, count + 1], see `kernels.count_tokens`."""
        changed = Rows(np.empty_like(rows.values), np.empty_like(rows.shifts))
        learning.change_rows(
            rows.shifts.size, rows.values.reshape(-1), rows.shifts, self._change, self._work,
            changed.values.reshape(-1), changed.shifts,
        )  # fmt: skip
        return self._logits.counts(changed, self._offsets)

    def learn(self, rows: Rows, number: int, counts: Ints, token: int) -> None:
        """Takes in that `token` came after row `number`, of which these were the counts."""
        learning.learn(
            counts, token, rows.values[number], int(rows.shifts[number]), self._matrix.weights,
            self._matrix.scales, self._matrix.exponent, self._rates.change, self._rates.offsets,
            self._change, self._offsets, self._work,
        )  # fmt: skip
