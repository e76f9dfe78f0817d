"""Runs a model: rows of tokens in, counts of the next token out, whatever the batch."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from densor.errors import ArgumentError
from densor.llm import count_kernels, kernels, pass_kernels, tables
from densor.llm.attention_kernels import Cache, Heads, Runs, Space
from densor.llm.count_kernels import MAX_PARTS, Outcome, Sums
from densor.llm.helpers import Team
from densor.llm.model import CACHE_16, NUMERICS, Model
from densor.llm.pass_kernels import Layers, Stream, Tables

Ints = npt.NDArray[np.int64]
ROWS = 64  # that are computed at once, at most
_NO_BIAS = np.zeros(0, np.int64)


class Rows(NamedTuple):
    """What the layers make of tokens: int16[n, hidden], in units of 2^(shifts[i] - 16)."""

    values: npt.NDArray[np.int16]
    shifts: Ints


def cache_bytes(model: Model, slots: int, positions: int, numerics: int = NUMERICS) -> int:
    """Memory for so many texts of so many tokens, in bytes."""
    shape = model.shape
    item = 2 if numerics == CACHE_16 else 1
    return slots * positions * shape.layers * shape.groups * (2 * item * shape.size + 16)


class Network:
    """A model with the keys and values of `slots` texts of up to `positions` tokens each.

    For one thread; models can be shared. `numerics`: version of the rounding rules. `team`: who
    shares the work.
    """

    def __init__(
        self,
        model: Model,
        slots: int,
        positions: int,
        numerics: int = NUMERICS,
        team: Team | None = None,
    ) -> None:
        if slots < 1 or positions < 1 or positions % kernels.WIDE:
            raise ArgumentError(f"positions must be a multiple of {kernels.WIDE}")
        self.model = model
        self.positions = positions
        self._slots = slots
        self.team = team or Team()
        shape, flat = model.shape, model.flat
        words = numerics == CACHE_16
        self._run = pass_kernels.read_words if words else pass_kernels.read_bytes
        self._heads = Heads(
            shape.heads,
            shape.groups,
            shape.size,
            positions,
            tables.log2_e_over_root(shape.size, 20),
        )
        epsilon = round(shape.epsilon * (1 << 2 * kernels.RESIDUAL))
        self._layers = Layers(
            shape.hidden, shape.inner, shape.layers, epsilon, flat.norms.reshape(-1), flat.weights,
            flat.scales, flat.exponents.reshape(-1), flat.biases.reshape(-1),
        )  # fmt: skip
        caches = shape.layers * slots * shape.groups
        kind = np.int16 if words else np.int8
        self._cache = Cache(
            np.zeros(caches * positions * shape.size, kind),
            np.ones(caches * positions, np.int64),
            np.zeros(caches * positions * shape.size, kind),
            np.ones(caches * positions, np.int64),
        )
        self._tables = Tables(
            tables.turns(shape.theta, shape.size, positions).reshape(-1),
            tables.exp2_table(1 << kernels.EXP_PLACES),
            tables.sigmoid_table(),
        )
        self._stream = _stream(model)
        self._runs = Runs(*(np.zeros(ROWS + 1, np.int64) for _ in Runs._fields))
        self._spaces = [_space(model, positions) for _ in range(self.team.threads)]

    def read(self, tokens: Ints, slots: Ints, places: Ints, wanted: int) -> Rows:
        """Takes in tokens; what the layers make of the last `wanted` of them.

        `tokens`: int64[n], by the vocabulary's order. `slots`: to which text each belongs.
        `places`: its position in it; all before must be known, from this call or before.
        """
        n = tokens.size
        if not slots.size == places.size == n or not 0 <= wanted <= n:
            raise ArgumentError("tokens, slots and places differ in number")
        for values, limit in (
            (tokens, self.model.tokens.columns),
            (slots, self._slots),
            (places, self.positions),
        ):
            if n and not 0 <= int(values.min()) <= int(values.max()) < limit:
                raise ArgumentError("token, slot or place does not exist")
        hidden = self.model.shape.hidden
        after = Rows(np.empty((wanted, hidden), np.int16), np.empty(wanted, np.int64))
        for at in range(0, n, ROWS):
            rows = min(ROWS, n - at)
            part = slice(at, at + rows)
            self._pass(rows, tokens[part], slots[part], places[part])
            begin = max(at, n - wanted)
            if begin < at + rows:
                self._last(begin - at, rows, after, begin - (n - wanted))
        return after

    def _pass(self, rows: int, tokens: Ints, slots: Ints, places: Ints) -> None:
        """Takes rows through all layers."""
        matrix, stream = self.model.tokens, self._stream
        kernels.embed(
            rows, tokens.copy(), matrix.weights, matrix.scales, matrix.exponent, matrix.size,
            stream.x,
        )  # fmt: skip
        self._runs.slots[:rows] = slots
        self._runs.places[:rows] = places

        def step(thread: int, threads: int, team: int) -> None:
            self._run(
                thread, threads, team, rows, self._heads, self._layers, stream, self._runs,
                self._cache, self._tables, self._spaces[thread],
            )  # fmt: skip

        self.team.run(step, (False, rows))

    def _last(self, first: int, rows: int, out: Rows, to: int) -> None:
        """Rows `first` to `rows` after the last norm, to `out` from row `to` on."""
        model, count = self.model, rows - first
        hidden = model.shape.hidden
        kernels.normalise(
            count, self._stream.x[first * hidden : rows * hidden], model.norm, self._layers.epsilon,
            self._spaces[0].work, out.values[to : to + count].reshape(-1),
            out.shifts[to : to + count],
        )  # fmt: skip


def _stream(model: Model) -> Stream:
    shape = model.shape
    own = shape.heads * shape.size
    widest = max(own + 2 * shape.groups * shape.size, 2 * shape.inner)
    return Stream(
        x=np.zeros(ROWS * shape.hidden, np.int64),
        a=np.zeros(ROWS * max(shape.hidden, own, shape.inner), np.int16),
        shifts=np.zeros(ROWS, np.int64),
        y=np.zeros(ROWS * widest, np.int64),
        results=np.zeros(ROWS * own, np.int64),
    )


def _space(model: Model, positions: int) -> Space:
    shape = model.shape
    share = kernels.RUN * shape.heads // shape.groups
    return Space(
        queries=np.zeros(share * shape.size, np.int16),
        query_shifts=np.zeros(share, np.int64),
        weights=np.zeros(share * (positions + 2), np.int16),
        dots=np.zeros(share * (positions + kernels.GAP + shape.size), np.int32),
        sums=np.zeros(kernels.TALL * kernels.WIDE, np.int32),
        totals=np.zeros(kernels.TALL * kernels.WIDE, np.int64),
        work=np.zeros(max(shape.hidden, shape.inner, shape.size, positions), np.int64),
    )


class Logits:
    """The product with the head, and counts of it. For one thread, whose `team` shares the work."""

    def __init__(self, model: Model, team: Team | None = None) -> None:
        self._team = team or Team()
        matrix = model.head
        self._head = kernels.Columns(matrix.weights, matrix.scales, matrix.exponent, matrix.size)
        self._tokens = model.vocabulary.count
        self._log2_e = tables.log2_e_over_root(1, kernels.PLACES)
        self._exps = tables.exp2_table(1 << kernels.COUNT_PLACES)
        tile = kernels.TALL * kernels.WIDE
        self._spaces = [
            Sums(np.zeros(tile, np.int32), np.zeros(tile, np.int64))
            for _ in range(self._team.threads)
        ]

    def counts(self, rows: Rows, offsets: Ints = _NO_BIAS) -> Ints:
        """int64[n, count + 1]; `offsets`: int64[columns] or empty, added to logits, 2^-16."""
        n = rows.shifts.size
        out = np.empty((n, self._tokens + 1), np.int64)
        wide = -(-self._tokens // kernels.WIDE) * kernels.WIDE
        for at in range(0, n, ROWS):
            count = min(ROWS, n - at)
            part = slice(at, at + count)
            self._count(Rows(rows.values[part], rows.shifts[part]), wide, offsets, out[part])
        return out

    def _count(self, rows: Rows, wide: int, offsets: Ints, out: Ints) -> None:
        n = rows.shifts.size
        parts = np.zeros((2, n * MAX_PARTS), np.int64)
        outcome = Outcome(np.empty(n * wide, np.int64), out.reshape(-1), parts[0], parts[1])
        values = rows.values.reshape(-1)

        def step(thread: int, threads: int, team: int) -> None:
            count_kernels.count_tokens(
                thread, threads, team, n, values, rows.shifts, self._head, wide, self._tokens,
                offsets, self._log2_e, self._exps, outcome, self._spaces[thread],
            )  # fmt: skip

        self._team.run(step, (True, n))
