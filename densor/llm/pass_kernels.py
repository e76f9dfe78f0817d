"""All layers for some rows in one call, which several threads may share: see `team_kernels.py`."""

from typing import Any, NamedTuple

import numba
import numpy as np
import numpy.typing as npt
from numba import types

from densor.entropy.jit import I32, I64, inlined, kernel
from densor.entropy.team_kernels import in_steps
from densor.llm import attention_kernels as attention
from densor.llm.attention_kernels import CACHE_TYPES, Attention, Heads, Runs, Space, find_runs
from densor.llm.kernels import (
    I8,
    I16,
    PLACES,
    RESIDUAL,
    ROW_BITS,
    WIDE,
    Columns,
    clip,
    multiply_columns,
    normalise_row,
    quantise,
)

int64 = numba.int64

# Steps of a layer, in this order.
_NORM, _QKV, _REMEMBER, _ATTEND, _GATHER, _JOIN, _NORM2, _GATES, _ACTIVATE, _DOWN = range(10)
_STEPS = 10
_TILES = 4  # parts of a product, for each thread
_FEW = 8  # rows that are not worth sharing
_POINTS = 8  # sigmoid: steps per unit, logarithm
_MOST = 1 << 30  # of what goes into the activation


class Layers(NamedTuple):
    """The parameters of all layers, one after the other: see `model.Flat`."""

    hidden: int
    inner: int
    count: int
    epsilon: int  # 2^-48
    norms: npt.NDArray[np.int64]  # int64[layers, 2, hidden], 2^-16
    weights: npt.NDArray[np.int8]
    scales: npt.NDArray[np.int32]
    exponents: npt.NDArray[np.int64]  # int64[layers, 4]
    biases: npt.NDArray[np.int64]  # int64[layers, columns of queries, keys and values]


class Stream(NamedTuple):
    """What threads share of the rows of a pass."""

    x: npt.NDArray[np.int64]  # int64[rows, hidden], 2^-24
    a: npt.NDArray[np.int16]  # rows that go into a matrix
    shifts: npt.NDArray[np.int64]
    y: npt.NDArray[np.int64]  # what comes out of one, 2^-16
    results: npt.NDArray[np.int64]  # int64[rows, heads, size]


class Tables(NamedTuple):
    """Of `densor.llm.tables`: of rotary positions, 2^(22 - i/1024), and the logistic function."""

    turns: npt.NDArray[np.int32]
    exps: npt.NDArray[np.int64]
    sigmoid: npt.NDArray[np.int64]


_HEADS_TYPE = types.NamedTuple((int64,) * 5, Heads)
_LAYERS_TYPE = types.NamedTuple((*(int64,) * 4, I64, I8, I32, I64, I64), Layers)
_STREAM_TYPE = types.NamedTuple((I64, I16, I64, I64, I64), Stream)
_RUNS_TYPE = types.NamedTuple((I64,) * 4, Runs)
_TABLES_TYPE = types.NamedTuple((I32, I64, I64), Tables)
_SPACE_TYPE = types.NamedTuple((I16, I64, I16, I32, I32, I64, I64), Space)


@inlined
def _rows_of(part, parts, rows):
    return rows * part // parts, rows * (part + 1) // parts


@inlined
def _number_of(step):
    """Which of a layer's matrices a step multiplies by."""
    if step == _QKV:
        return int64(0)
    if step == _JOIN:
        return int64(1)
    return int64(2 if step == _GATES else 3)


@inlined
def _columns_of(kind, shape, layers):
    """Columns of a layer's matrix number `kind`: of queries, keys, values; output; gates; down."""
    if kind == 0:
        return (shape.heads + 2 * shape.groups) * shape.size
    return 2 * layers.inner if kind == 2 else layers.hidden


@inlined
def _inputs_of(kind, shape, layers):
    if kind == 1:
        return shape.heads * shape.size
    return layers.inner if kind == 3 else layers.hidden


@inlined
def _matrix(kind, layer, shape, layers):
    """A layer's matrix, as `Columns`."""
    weights = int64(0)
    scales = int64(0)
    at = int64(0)
    scales_at = int64(0)
    for k in range(4):
        if k == kind:
            at = weights
            scales_at = scales
        columns = _columns_of(k, shape, layers)
        weights += columns * _inputs_of(k, shape, layers)
        scales += columns
    columns, size = _columns_of(kind, shape, layers), _inputs_of(kind, shape, layers)
    at += layer * weights
    scales_at += layer * scales
    return Columns(
        layers.weights[at : at + columns * size],
        layers.scales[scales_at : scales_at + columns],
        layers.exponents[4 * layer + kind],
        size,
    )


@inlined
def _multiply(kind, layer, part, parts, rows, shape, layers, stream, space):
    """A part of the columns of a product, for all rows."""
    matrix = _matrix(kind, layer, shape, layers)
    wide = matrix.scales.size
    begin, end = _rows_of(part, parts, wide // WIDE)
    begin, end = begin * WIDE, end * WIDE
    adds = int64(kind & 1)
    out = stream.x if adds else stream.y
    places = int64(RESIDUAL if adds else PLACES)
    multiply_columns(
        rows, stream.a, stream.shifts, matrix, places, adds, begin, end, space.sums, space.totals,
        out, wide,
    )  # fmt: skip
    if kind == 0:
        for row in range(rows):
            for i in range(begin, end):
                out[row * wide + i] += layers.biases[layer * wide + i]


@inlined
def _normalise(row, number, layers, stream, space):
    """Norm number `number` of all layers, of a row."""
    hidden = layers.hidden
    stream.shifts[row] = normalise_row(
        stream.x[row * hidden : row * hidden + hidden],
        layers.norms[number * hidden : number * hidden + hidden],
        layers.epsilon,
        space.work,
        stream.a[row * hidden : row * hidden + hidden],
    )


@inlined
def _activate(row, size, sigmoid, stream, work):
    """SwiGLU of a row: g * sigmoid(g) * u, of gates and then as many ups."""
    gate = stream.y[2 * row * size : 2 * row * size + size]
    up = stream.y[2 * row * size + size : 2 * row * size + 2 * size]
    for i in range(size):
        g = clip(gate[i], int64(_MOST))
        u = clip(up[i], int64(_MOST))
        step = clip((g + 128) >> _POINTS, int64(4096)) + 4096
        work[i] = (((g * sigmoid[step]) >> 16) * u) >> 16
    out = stream.a[row * size : row * size + size]
    stream.shifts[row] = quantise(work[:size], int64(ROW_BITS), out)


@inlined
def _parts_of(step, threads, given):
    """Into how many parts a step is cut."""
    rows, shape, layers, _, runs = given[:5]
    kind = step % _STEPS
    if threads == 1:
        return int64(1)
    if kind == _ATTEND:
        return runs.count[0] * shape.groups
    if kind in (_QKV, _JOIN, _GATES, _DOWN):
        return min(_columns_of(_number_of(kind), shape, layers) // WIDE, _TILES * threads)
    return int64(1) if rows < _FEW else min(rows, _TILES * threads)


def _pass(name: str, kind: Any, functions: Attention, places: int) -> Any:
    """The kernel for caches of type `kind`; `places`: what is taken off shifts of attention."""
    attend, remember = functions.attend, functions.remember

    @numba.njit(error_model="numpy", _nrt=False)
    def do(step, part, parts, given):
        rows, shape, layers, stream, runs, cache, tables, space = given
        layer, kind = step // _STEPS, step % _STEPS
        caches = layer * (cache.key_units.size // (layers.count * shape.positions))
        begin, end = _rows_of(part, parts, rows)
        if kind in (_NORM, _NORM2):
            for row in range(begin, end):
                _normalise(row, 2 * layer + (kind == _NORM2), layers, stream, space)
        elif kind == _REMEMBER:
            remember(begin, end, stream.y, shape, caches, runs, cache, tables.turns, space)
        elif kind == _ATTEND:
            begin, end = _rows_of(part, parts, runs.count[0] * shape.groups)
            for unit in range(begin, end):
                attend(
                    unit, stream.y, shape, caches, runs, cache, tables.turns, tables.exps, space,
                    stream.results,
                )  # fmt: skip
        elif kind == _GATHER:
            size = shape.heads * shape.size
            for row in range(begin, end):
                own = slice(row * size, row * size + size)
                shift = quantise(stream.results[own], int64(ROW_BITS), stream.a[own])
                stream.shifts[row] = shift - places
        elif kind == _ACTIVATE:
            for row in range(begin, end):
                _activate(row, layers.inner, tables.sigmoid, stream, space.work)
        else:
            _multiply(_number_of(kind), layer, part, parts, rows, shape, layers, stream, space)

    run = in_steps(do, _parts_of)

    @kernel(
        types.void(
            int64, int64, int64, int64, _HEADS_TYPE, _LAYERS_TYPE, _STREAM_TYPE, _RUNS_TYPE,
            CACHE_TYPES[kind], _TABLES_TYPE, _SPACE_TYPE,
        ),
        counted=False,
        name=name,
    )  # fmt: skip
    def read(thread, threads, team, rows, shape, layers, stream, runs, cache, tables, space):
        """Takes rows through all layers.

        `thread`: 0 for who leads, others help; each has a `space` of its own. `team`: the address
        of the state of `team_kernels.py`.
        """
        if thread == 0:
            find_runs(rows, runs)
        given = (rows, shape, layers, stream, runs, cache, tables, space)
        run(thread, threads, team, _STEPS * layers.count, given)

    return read


read_words = _pass("read_words", I16, attention.of_words, attention.WORD_PLACES)
read_bytes = _pass("read_bytes", I8, attention.of_bytes, attention.BYTE_PLACES)
