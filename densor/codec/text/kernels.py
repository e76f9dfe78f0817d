"""Codes a segment: one kernel for both directions, so that their models cannot drift apart.

Every byte is eight binary decisions, the highest bit first. Bit histories under all contexts and
the match model each say how likely a 1 is, in the stretched domain; mixers weigh them, maps correct
the result, the arithmetic coder codes the bit, and all learn from it (M. Mahoney, PAQ and ZPAQ).
All arithmetic is in integers. See spec.md, whose names are used here.
"""

from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt
from numba import types

from densor.codec.text.contexts import (
    LAST,
    LETTERS,
    SHAPE,
    hash_contexts,
    mix,
    take_in,
)
from densor.codec.text.counters import INPUTS, direct_input, learn, state_inputs
from densor.codec.text.match import BUCKET, LENGTH, expected_bit, find_match, match_inputs
from densor.codec.text.mixer import dot, final_dot, train, train_final
from densor.codec.text.refine import refine, refined
from densor.codec.text.slots import find, line_of
from densor.entropy.arithmetic.kernels import (
    AT,
    decode_bit,
    encode_bit,
    flush,
    start_decoder,
    start_encoder,
)
from densor.entropy.intrinsics import prefetch
from densor.entropy.jit import I32, I64, W8, W16, W32, inlined, kernel

int64 = numba.int64

SETS = 6  # of weights, 256 rows each
DIRECT = 256 + 65536  # counters of order 0 and order 1
OTHERS = 5  # inputs beside those of the histories: direct counters, match, a constant
_CONSTANT = 256
SEEN = 255  # what direct counters count to
FIRST_STEP, LAST_STEP, STEP_BYTES = 60, 8, 11  # of the weights, and how fast it shrinks
_LEAST, _MOST = 16, 65520  # probabilities that are coded, 2^-16


class State(NamedTuple):
    """What the model of a segment keeps, for n contexts and m sets of weights."""

    coder: npt.NDArray[np.int64]  # int64[STATE]
    text: npt.NDArray[np.int64]  # int64[FIELDS]
    match: npt.NDArray[np.int64]  # int64[MATCH]
    followers: npt.NDArray[np.uint32]  # uint32[FOLLOWERS]
    long_places: npt.NDArray[np.uint32]  # of the match model; sizes are powers of two
    short_places: npt.NDArray[np.uint32]
    hashes: npt.NDArray[np.int64]  # int64[CONTEXTS]
    slots: npt.NDArray[np.int64]  # int64[n]
    histories: npt.NDArray[np.uint8]  # size a power of two
    meanings: npt.NDArray[np.uint32]  # uint32[256 n]: of the states under each context
    matches: npt.NDArray[np.uint32]  # uint32[BUCKETS]: of a match of some length
    direct: npt.NDArray[np.uint32]  # uint32[DIRECT]
    inputs: npt.NDArray[np.int32]  # int32[INPUTS n + OTHERS, and zeros]
    weights: npt.NDArray[np.int32]  # int32[256 SETS, as many]
    rows: npt.NDArray[np.int64]  # int64[SETS]: the rows at hand
    sums: npt.NDArray[np.int32]  # int32[m]: what each of them makes of the inputs
    final: npt.NDArray[np.int32]  # int32[256, m]
    cells0: npt.NDArray[np.uint16]  # uint16[256 CELLS]: correction under order 0
    cells1: npt.NDArray[np.uint16]  # under order 1, hashed: rows are a power of two
    cells2: npt.NDArray[np.uint16]  # under order 2


class Tables(NamedTuple):
    """Constants."""

    squash: npt.NDArray[np.int32]  # int32[4096]
    stretch: npt.NDArray[np.int32]  # int32[4096]
    rate: npt.NDArray[np.int32]  # int32[1024]
    after: npt.NDArray[np.uint8]  # uint8[512]: `states.States.after`


_I32_2D = types.Array(types.int32, 2, "C")
STATE_TYPE = types.NamedTuple(
    (
        I64, I64, I64, W32, W32, W32, I64, I64, W8, W32,
        W32, W32, I32, _I32_2D, I64, I32, _I32_2D, W16, W16, W16,
    ),
    State,
)  # fmt: skip
TABLES_TYPE = types.NamedTuple((I32, I32, I32, W8), Tables)


@inlined
def find_slots(s, chosen, partial):
    """The slots of all contexts for the half of a byte that begins; their lines are fetched first.

    `partial`: 1, or with the upper half below it.
    """
    lines = s.histories.size >> 6
    for k in range(chosen.size):
        h = mix(s.hashes[chosen[k]], partial)
        s.slots[k] = h
        prefetch(s.histories, line_of(h, lines))
    for k in range(chosen.size):
        s.slots[k] = find(s.histories, lines, s.slots[k])


@inlined
def gather(s, t, node, partial, order1, place):
    """Sets the inputs of the mixers; returns how many contexts were seen before."""
    seen = int64(0)
    n = s.slots.size
    for k in range(n):
        state = int64(s.histories[s.slots[k] + node])
        state_inputs(s.inputs, INPUTS * k, s.meanings, 256 * k + state, t.stretch)
        seen += int64(state > 0)
    at = INPUTS * n
    direct_input(s.inputs, at, s.direct, partial, t.stretch)
    direct_input(s.inputs, at + 1, s.direct, order1, t.stretch)
    match_inputs(s.inputs, at + 2, s.match, s.matches, place, t.stretch)
    s.inputs[at + 4] = _CONSTANT
    return seen


@inlined
def choose_rows(s, seen, partial, place):
    """The row of each set of weights."""
    last = s.text[LAST]
    rows = s.rows
    bucket = s.match[BUCKET] if s.match[LENGTH] else int64(0)
    rows[0] = partial
    rows[1] = 256 + (bucket << 3 | place)
    rows[2] = 512 + (last & 255)
    rows[3] = 768 + (min(seen * 32 // (s.slots.size + 1), int64(31)) << 3 | place)
    rows[4] = 1024 + (min(s.text[LETTERS], int64(15)) << 4 | (s.text[SHAPE] & 15))
    rows[5] = 1280 + ((last >> 8) & 255)


@inlined
def histories_learn(s, t, node, bit):
    for k in range(s.slots.size):
        i = s.slots[k] + node
        state = int64(s.histories[i])
        learn(s.meanings, 256 * k + state, bit, int64(1023), t.rate)
        s.histories[i] = t.after[2 * state + bit]


@inlined
def code_bit(coding, coder, data, bit, p):
    if coding:
        encode_bit(coder, data, bit, p)
        return bit
    return int64(decode_bit(coder, data, p))


@inlined
def _bit(coding, s, t, data, bit, partial, node, place, step):
    """Codes one decision: `partial` are the bits of the byte so far under a leading 1."""
    last = s.text[LAST]
    order1 = 256 + ((last & 255) << 8 | partial)
    row1 = mix(order1, 3) & ((s.cells1.size >> 5) - 1)
    row2 = mix((last & 0xFFFF) << 8 | partial, 4) & ((s.cells2.size >> 5) - 1)
    prefetch(s.cells1, row1 << 5)
    prefetch(s.cells2, row2 << 5)
    seen = gather(s, t, node, partial, order1, place)
    choose_rows(s, seen, partial, place)
    for k in range(s.sums.size):
        s.sums[k] = dot(s.inputs, s.weights[s.rows[k]])
    mixed = final_dot(s.sums, s.final[partial])
    p = int64(t.squash[mixed + 2048])
    p0 = refined(s.cells0, partial, mixed)
    p1 = refined(s.cells1, row1, mixed)
    p2 = refined(s.cells2, row2, mixed)
    bit = code_bit(
        coding,
        s.coder,
        data,
        bit,
        min(max((p + p0 + p1 + p2 + 2) >> 2, int64(_LEAST)), int64(_MOST)),
    )
    goal = bit << 16
    for k in range(s.sums.size):
        error = goal - int64(t.squash[int64(s.sums[k]) + 2048])
        train(s.inputs, s.weights[s.rows[k]], (error * step) >> 6)
    train_final(s.sums, s.final[partial], goal - p)
    histories_learn(s, t, node, bit)
    learn(s.direct, partial, bit, int64(SEEN), t.rate)
    learn(s.direct, order1, bit, int64(SEEN), t.rate)
    if s.match[LENGTH]:
        right = int64(expected_bit(s.match, place) == bit)
        learn(s.matches, s.match[BUCKET], right, int64(1023), t.rate)
        if not right:
            s.match[LENGTH] = 0
    refine(s.cells0, partial, mixed, bit)
    refine(s.cells1, row1, mixed, bit)
    refine(s.cells2, row2, mixed, bit)
    return bit


@inlined
def _byte(coding, s, t, data, content, at, chosen):
    value = int64(content[at]) if coding else int64(0)
    step = max(int64(LAST_STEP), FIRST_STEP - (at >> STEP_BYTES))
    hash_contexts(s.text, s.followers, s.hashes)
    partial = int64(1)
    node = int64(1)
    for place in range(8):
        if place == 0 or place == 4:
            find_slots(s, chosen, partial)
            node = int64(1)
        bit = (value >> (7 - place)) & 1
        bit = _bit(coding, s, t, data, bit, partial, node, place, step)
        partial = 2 * partial + bit
        node = 2 * node + bit
    content[at] = partial & 255
    take_in(s.text, s.followers, content, at)
    find_match(s.match, s.text, s.long_places, s.short_places, content, at + 1)


@kernel(types.void(types.boolean, STATE_TYPE, TABLES_TYPE, W8, W8, I64), counted=False)
def code_segment(coding, s, t, data, content, chosen):
    """Codes or decodes all of `content`, uint8[n]; `chosen`: int64[contexts], their numbers.

    `data`: where the arithmetic stream ends, the coder's state tells; more than `data` has room for
    is not written, and decoding stops soon after its end.
    """
    if coding:
        start_encoder(s.coder, 0, data.size)
    else:
        start_decoder(s.coder, data, 0, data.size)
    for at in range(content.size):
        _byte(coding, s, t, data, content, at, chosen)
        if s.coder[AT] > data.size + 4:
            break
    if coding:
        flush(s.coder, data)
