"""Runs a model: rows of tokens in, counts of the next token out, whatever the batch."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from densor.errors import ArgumentError
from densor.llm import kernels, tables
from densor.llm.model import CACHE_16, NUMERICS, Matrix, Model

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


@dataclass(frozen=True, eq=False)
class _Work:
    """Work space for ROWS rows."""

    x: Ints
    a: npt.NDArray[np.int16]
    shifts: Ints
    y: Ints
    one: Ints
    queries: npt.NDArray[np.int16]
    query_shifts: Ints
    weights: npt.NDArray[np.int16]
    dots: npt.NDArray[np.int32]
    sums: npt.NDArray[np.int32]
    totals: Ints


class Network:
    """A model with the keys and values of `slots` texts of up to `positions` tokens each.

    For one thread; models can be shared. `numerics`: version of the rounding rules.
    """

    def __init__(self, model: Model, slots: int, positions: int, numerics: int = NUMERICS) -> None:
        if slots < 1 or positions < 1 or positions % kernels.WIDE:
            raise ArgumentError(f"positions must be a multiple of {kernels.WIDE}")
        self.model = model
        self.positions = positions
        self._slots = slots
        shape = model.shape
        caches = shape.layers * slots * shape.groups
        kind = np.int16 if numerics == CACHE_16 else np.int8
        self._attend = kernels.attend_words if numerics == CACHE_16 else kernels.attend_bytes
        self._keys = np.zeros(caches * positions * shape.size, kind)
        self._values = np.zeros(caches * positions * shape.size, kind)
        self._key_units = np.ones(caches * positions, np.int64)
        self._value_units = np.ones(caches * positions, np.int64)
        self._turns = tables.turns(shape.theta, shape.size, positions).reshape(-1)
        self._factor = tables.log2_e_over_root(shape.size, 20)
        self._exps = tables.exp2_table(1 << kernels.EXP_PLACES)
        self._sigmoid = tables.sigmoid_table()
        self._epsilon = round(shape.epsilon * (1 << 2 * kernels.RESIDUAL))
        own = shape.heads * shape.size
        share = kernels.RUN * shape.heads // shape.groups
        widest = max(m.columns for layer in model.layers for m in (layer.qkv, layer.gates))
        self._work = _Work(
            x=np.zeros(ROWS * shape.hidden, np.int64),
            a=np.zeros(ROWS * max(shape.hidden, own, shape.inner), np.int16),
            shifts=np.zeros(ROWS, np.int64),
            y=np.zeros(ROWS * widest, np.int64),
            one=np.zeros(max(shape.hidden, shape.inner, positions + own), np.int64),
            queries=np.zeros(share * shape.size, np.int16),
            query_shifts=np.zeros(share * (1 + shape.groups), np.int64),
            weights=np.zeros(share * (positions + 2), np.int16),
            dots=np.zeros(share * (positions + kernels.GAP) + kernels.RUN * own, np.int32),
            sums=np.zeros(kernels.TALL * kernels.WIDE, np.int32),
            totals=np.zeros(kernels.TALL * kernels.WIDE, np.int64),
        )

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
            self._layers(rows, tokens[part].copy(), slots[part].copy(), places[part].copy())
            begin = max(at, n - wanted)
            if begin < at + rows:
                self._last(begin - at, rows, after, begin - (n - wanted))
        return after

    def _layers(self, rows: int, tokens: Ints, slots: Ints, places: Ints) -> None:
        shape, work, model = self.model.shape, self._work, self.model
        matrix = model.tokens
        kernels.embed(
            rows, tokens, matrix.weights, matrix.scales, matrix.exponent, shape.hidden, work.x
        )
        for number, layer in enumerate(model.layers):
            self._norm(rows, layer.before)
            self._multiply(rows, layer.qkv, kernels.PLACES, 0, work.y)
            self._attend(
                rows, work.y, shape.heads, shape.groups, shape.size, self.positions,
                number * self._slots * shape.groups, slots, places,
                self._keys, self._key_units, self._values, self._value_units, self._turns,
                self._factor, self._exps,
                work.queries, work.query_shifts, work.weights, work.dots, work.one, work.a,
                work.shifts,
            )  # fmt: skip
            self._multiply(rows, layer.joined, kernels.RESIDUAL, 1, work.x)
            self._norm(rows, layer.after)
            self._multiply(rows, layer.gates, kernels.PLACES, 0, work.y)
            gates = work.y[: rows * layer.gates.columns]
            kernels.activate(rows, gates, shape.inner, self._sigmoid, work.one, work.a, work.shifts)
            self._multiply(rows, layer.down, kernels.RESIDUAL, 1, work.x)

    def _norm(self, rows: int, weights: Ints) -> None:
        work = self._work
        kernels.normalise(rows, work.x, weights, self._epsilon, work.one, work.a, work.shifts)

    def _multiply(self, rows: int, matrix: Matrix, places: int, add: int, out: Ints) -> None:
        work = self._work
        kernels.multiply(
            rows, work.a, work.shifts, matrix.size, matrix.weights, matrix.scales, matrix.exponent,
            places, add, matrix.bias, 0, matrix.columns, work.sums, work.totals, out,
        )  # fmt: skip

    def _last(self, first: int, rows: int, out: Rows, to: int) -> None:
        """Rows `first` to `rows` after the last norm, to `out` from row `to` on."""
        model, work = self.model, self._work
        count = rows - first
        hidden = model.shape.hidden
        work.x[: count * hidden] = work.x[first * hidden : rows * hidden].copy()
        self._norm(count, model.norm)
        out.values.reshape(-1)[to * hidden : (to + count) * hidden] = work.a[: count * hidden]
        out.shifts[to : to + count] = work.shifts[:count]


class Logits:
    """The product with the head, and counts of it. For one thread."""

    def __init__(self, model: Model) -> None:
        self._head = model.head
        self._tokens = model.vocabulary.count
        self._log2_e = tables.log2_e_over_root(1, kernels.PLACES)
        self._exps = tables.exp2_table(1 << kernels.COUNT_PLACES)
        self._sums = np.zeros(kernels.TALL * kernels.WIDE, np.int32)
        self._totals = np.zeros(kernels.TALL * kernels.WIDE, np.int64)

    def counts(self, rows: Rows, offsets: Ints = _NO_BIAS) -> Ints:
        """int64[n, count + 1]; `offsets`: int64[columns] or empty, added to logits, 2^-16."""
        n, matrix = rows.shifts.size, self._head
        wide = -(-self._tokens // kernels.WIDE) * kernels.WIDE
        out = np.empty((n, self._tokens + 1), np.int64)
        logits = np.empty(min(n, ROWS) * wide, np.int64)
        for at in range(0, n, ROWS):
            count = min(ROWS, n - at)
            kernels.multiply(
                count, rows.values[at : at + count].reshape(-1), rows.shifts[at : at + count],
                matrix.size, matrix.weights, matrix.scales, matrix.exponent, kernels.PLACES, 0,
                offsets, 0, wide, self._sums, self._totals, logits,
            )  # fmt: skip
            kernels.count_tokens(
                count, logits, wide, self._tokens, self._log2_e, self._exps,
                out[at : at + count].reshape(-1),
            )  # fmt: skip
        return out
