"""Codes a segment: one kernel for both directions, so that their models cannot drift apart.

Every byte is eight binary decisions, the highest bit first. Bit histories under all contexts and
the match model each predict the next bit, in the logistic ("stretched") domain; mixers weigh them,
APMs correct the result, the arithmetic coder codes the bit, and all learn from it (M. Mahoney, PAQ
and ZPAQ).
All arithmetic is in integers. See docs/format/byte_cm.md, whose names are used here.
"""

from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt
from numba import types

from densor.codec.byte_cm.apm import apm_predict, apm_update
from densor.codec.byte_cm.contexts import (
    COLUMN,
    CONTEXTS,
    LAST,
    LETTERS,
    SHAPE,
    hash_contexts,
    mix,
    take_in,
)
from densor.codec.byte_cm.counters import (
    RATES,
    VALUES,
    direct_input,
    learn,
    learn_all,
    pair,
    stretched_and_plain,
)
from densor.codec.byte_cm.match import (
    BUCKET,
    LENGTH,
    expected,
    expected_bit,
    find_match,
    match_inputs,
    prefetch_match,
)
from densor.codec.byte_cm.mixer import dot, final_sum, train, train_final
from densor.codec.byte_cm.slots import find, line_of
from densor.codec.byte_cm.vectors import set_pairs
from densor.entropy.arithmetic.kernels import (
    decode_bit,
    encode_bit,
    flush,
    start_decoder,
    start_encoder,
)
from densor.entropy.arithmetic.state import AT
from densor.entropy.intrinsics import prefetch
from densor.entropy.jit import I32, I64, W8, W16, W32, index, inlined, kernel

int64 = numba.int64

SETS = 6  # of weights, 256 rows each
DIRECT = 65536  # counters of order 1
OTHERS = 2  # pairs of inputs before those of the contexts: order 1 and a constant; match
_CONSTANT = 256
_SEEN = 255  # what direct counters count to
FIRST_STEP, LAST_STEP, STEP_BYTES = 60, 8, 11  # of the weights, and how fast it shrinks
# 32 / (n + 1), 2^-16: a division by a product, which for up to 18 of n contexts is exact.
_SHARES = np.array([(32 << 16) // (n + 1) + 1 for n in range(CONTEXTS + 1)], np.int64)
_MIN_P, _MAX_P = 16, 65520  # probabilities that are coded, 2^-16

(
    PARTIAL,  # the bits of the byte so far under a leading 1
    ORDER1,  # of `direct`
    ROW0,  # of `apm0`
    ROW1,  # of `apm1`
    ROW2,  # of `apm2`
    MIXED,  # output of the final mixer, stretched
    PLACES,
) = range(7)


class State(NamedTuple):
    """The adaptive state of a segment's model, for n contexts and m sets of weights."""

    coder: npt.NDArray[np.int64]  # int64[STATE]
    text: npt.NDArray[np.int64]  # int64[FIELDS]
    match: npt.NDArray[np.int64]  # int64[MATCH]
    followers: npt.NDArray[np.uint32]  # uint32[FOLLOWERS]
    long_places: npt.NDArray[np.uint32]  # of the match model; sizes are powers of two
    short_places: npt.NDArray[np.uint32]
    hashes: npt.NDArray[np.int64]  # int64[CONTEXTS]: of those in use
    wanted: npt.NDArray[np.int64]  # int64[n]: hashes of the slots for the next half of a byte
    slots: npt.NDArray[np.int64]  # int64[n]: where they are
    states: npt.NDArray[np.int32]  # int32[3 TOGETHER], for the decision at hand: of all contexts,
    # then their counters, then the rates of these
    places: npt.NDArray[np.int64]  # int64[PLACES], for the decision at hand
    histories: npt.NDArray[np.uint8]  # size a power of two
    state_maps: npt.NDArray[np.uint32]  # uint32[256 n]: probability and count of each
    # bit history state under each context
    matches: npt.NDArray[np.uint32]  # uint32[BUCKETS]: counters by length of the match
    direct: npt.NDArray[np.uint32]  # uint32[DIRECT]
    inputs: npt.NDArray[np.int32]  # int32[INPUTS (n + OTHERS), in whole vectors]
    weights: npt.NDArray[np.int32]  # int32[256 SETS, as many]
    rows: npt.NDArray[np.int64]  # int64[SETS]: the rows at hand
    sums: npt.NDArray[np.int32]  # int32[m]: output of each, stretched
    final: npt.NDArray[np.int32]  # int32[256, m]: weights of the final mixer
    apm0: npt.NDArray[np.uint16]  # uint16[r CELLS]: APM under the match, r a power of two
    apm1: npt.NDArray[np.uint16]  # APM under order 1
    apm2: npt.NDArray[np.uint16]  # APM under order 2


class Tables(NamedTuple):
    """Constant tables of the kernel, as in section 2 of docs/format/byte_cm.md."""

    squash: npt.NDArray[np.uint16]  # uint16[4096]
    stretch: npt.NDArray[np.int16]  # int16[4096]
    rate: npt.NDArray[np.int32]  # int32[1024]
    after: npt.NDArray[np.uint8]  # uint8[512]: `states.States.after`


_I32_2D = types.Array(types.int32, 2, "C")
STATE_TYPE = types.NamedTuple(
    (
        I64, I64, I64, W32, W32, W32, I64, I64, I64, I32, I64, W8, W32,
        W32, W32, I32, _I32_2D, I64, I32, _I32_2D, W16, W16, W16,
    ),
    State,
)  # fmt: skip
TABLES_TYPE = types.NamedTuple((W16, types.int16[::1], I32, W8), Tables)


@inlined
def prefetch_slots(s, chosen, partial):
    """Notes the hashes of all contexts for the half of a byte that begins; prefetches their lines.

    `partial`: 1, for contexts that are not hashed yet; or with the upper half of the byte below it.
    """
    lines = s.histories.size >> 6
    for k in range(chosen.size):
        context = chosen[index(k)]
        h = s.hashes[index(context)]
        if partial == 1:
            h = mix(h, context + 1)
            s.hashes[index(context)] = h
        h = mix(h, partial)
        s.wanted[index(k)] = h
        prefetch(s.histories, line_of(h, lines))


@inlined
def find_slots(s):
    """Finds, for each context, the slot whose line `prefetch_slots` fetched."""
    lines = s.histories.size >> 6
    for k in range(s.slots.size):
        s.slots[index(k)] = find(s.histories, lines, s.wanted[index(k)])


@inlined
def _context_inputs(s, t, node, k):
    """The two inputs of context `k` and whether it was seen before; zeros beyond the last one."""
    if k >= s.slots.size:
        return int64(0), int64(0)
    state = int64(s.histories[index(s.slots[index(k)] + node)])
    value = int64(s.state_maps[index(256 * k + state)])
    s.states[index(k)] = state
    s.states[index(VALUES + k)] = value
    s.states[index(RATES + k)] = t.rate[index(value & 1023)]
    known = int64(state > 0)
    return known * stretched_and_plain(value >> 20, t.stretch), known


@inlined
def gather(s, t, node, place):
    """Sets the inputs of the mixers; returns how many contexts were seen before."""
    # Eight inputs are set at once: a vector is read late if it was written in pieces just before.
    a = pair(direct_input(s.direct, s.places[ORDER1], t.stretch), int64(_CONSTANT))
    b = match_inputs(s.match, s.matches, place, t.stretch)
    c, seen = _context_inputs(s, t, node, int64(0))
    d, more = _context_inputs(s, t, node, int64(1))
    seen += more
    set_pairs(s.inputs, int64(0), a, b, c, d)
    for k in range(2, s.slots.size, 4):
        a, first = _context_inputs(s, t, node, k)
        b, second = _context_inputs(s, t, node, k + 1)
        c, third = _context_inputs(s, t, node, k + 2)
        d, fourth = _context_inputs(s, t, node, k + 3)
        seen += first + second + third + fourth
        set_pairs(s.inputs, 2 * (k + OTHERS), a, b, c, d)
    return seen


@inlined
def choose_rows(s, seen, place):
    """Selects the row of each set of weights by its context."""
    rows = s.rows
    bucket = s.match[BUCKET] if s.match[LENGTH] else int64(0)
    rows[0] = s.places[PARTIAL]
    rows[1] = 256 + (bucket << 3 | place)
    rows[2] = 512 + ((s.text[SHAPE] >> 4) & 255)
    share = (seen * _SHARES[index(s.slots.size)]) >> 16
    rows[3] = 768 + (min(share, int64(31)) << 3 | place)
    rows[4] = 1024 + (min(s.text[LETTERS], int64(31)) << 3 | place)
    rows[5] = 1280 + min(s.text[COLUMN], int64(255))


@inlined
def histories_learn(s, t, node, bit):
    learn_all(s.states, s.slots.size, bit)
    for k in range(s.slots.size):
        state = int64(s.states[index(k)])
        s.state_maps[index(256 * k + state)] = s.states[index(VALUES + k)]
        s.histories[index(s.slots[index(k)] + node)] = t.after[index(2 * state + bit)]


@inlined
def code_bit(coding, coder, data, bit, p):
    if coding:
        encode_bit(coder, data, bit, p)
        return bit
    return int64(decode_bit(coder, data, p))


@inlined
def _row(cells, context, salt):
    """The row of an APM under a context."""
    return mix(context, salt) & ((cells.size >> 5) - 1)


@inlined
def prefetch_apm(s, partial):
    """Notes where the counters and APM rows of the next decision are, and prefetches them.

    `partial`: the bits of its byte so far under a leading 1. APM rows under order 2, which are in
    no cache most of the time, are fetched one decision ahead, for either bit.
    """
    order1 = s.text[LAST] << 8 | partial
    places = s.places
    places[PARTIAL] = partial
    places[ORDER1] = order1 & 0xFFFF
    places[ROW0] = _row(s.apm0, expected(s.match) << 8 | partial, 5)
    places[ROW1] = _row(s.apm1, order1 & 0xFFFF, 3)
    places[ROW2] = _row(s.apm2, order1 & 0xFFFFFF, 4)
    prefetch(s.direct, places[ORDER1])
    prefetch(s.apm0, places[ROW0] << 5)
    prefetch(s.apm1, places[ROW1] << 5)
    if partial == 1:
        prefetch(s.apm2, places[ROW2] << 5)
    if partial < 128:
        further = (order1 + partial) & 0xFFFFFF  # a 0 is put behind `partial`
        prefetch(s.apm2, _row(s.apm2, further, 4) << 5)
        prefetch(s.apm2, _row(s.apm2, further + 1, 4) << 5)


@inlined
def _predict(s, t, node, place):
    """The probability of a 1, 2^-16, for decision `place` of a byte, at `node` of its half."""
    seen = gather(s, t, node, place)
    choose_rows(s, seen, place)
    return min(max(blend(s, t), int64(_MIN_P)), int64(_MAX_P))


@inlined
def blend(s, t):
    """The mixed and APM-corrected probability of a 1, 2^-16."""
    final = s.final[index(s.places[PARTIAL])]
    total = int64(0)
    for k in range(s.sums.size):
        output = dot(s.inputs, s.weights, s.rows[index(k)])
        s.sums[index(k)] = output
        total += output * int64(final[index(k)])
    mixed = final_sum(total)
    s.places[MIXED] = mixed
    p = int64(t.squash[index(mixed + 2048)])
    p += apm_predict(s.apm0, s.places[ROW0], mixed)
    p += apm_predict(s.apm1, s.places[ROW1], mixed)
    p += apm_predict(s.apm2, s.places[ROW2], mixed)
    return (p + 2) >> 2


@inlined
def learn_here(s, t, bit, place):
    """Updates APMs, final weights, direct counter and match counter with the decision `bit`."""
    mixed = s.places[MIXED]
    apm_update(s.apm0, s.places[ROW0], mixed, bit)
    apm_update(s.apm1, s.places[ROW1], mixed, bit)
    apm_update(s.apm2, s.places[ROW2], mixed, bit)
    error = (bit << 16) - int64(t.squash[index(mixed + 2048)])
    train_final(s.sums, s.final[index(s.places[PARTIAL])], error)
    learn(s.direct, s.places[ORDER1], bit, int64(_SEEN), t.rate)
    if s.match[LENGTH]:
        right = int64(expected_bit(s.match, place) == bit)
        learn(s.matches, s.match[BUCKET], right, int64(1023), t.rate)
        if not right:
            s.match[LENGTH] = 0


@inlined
def learn_from(s, t, bit, node, step):
    """Updates the mixers' weights and the bit histories with the decision `bit`."""
    for k in range(s.sums.size):
        error = (bit << 16) - int64(t.squash[index(int64(s.sums[index(k)]) + 2048)])
        train(s.inputs, s.weights, s.rows[index(k)], (error * step) >> 6)
    histories_learn(s, t, node, bit)


@inlined
def _byte(coding, s, t, data, content, at, chosen):
    value = int64(content[index(at)])
    step = max(int64(LAST_STEP), FIRST_STEP - (at >> STEP_BYTES))
    partial = int64(1)
    node = int64(1)
    for place in range(8):
        p = _predict(s, t, node, place)
        bit = code_bit(coding, s.coder, data, (value >> (7 - place)) & 1, p)
        # What comes next is prefetched before the rest is learned, which hides the wait for memory.
        partial = 2 * partial + bit
        if place == 7:
            content[index(at)] = partial & 255
            take_in(s.text, s.followers, content, at)
            hash_contexts(s.text, s.followers, s.hashes)
            prefetch_match(s.match, s.text, s.long_places, s.short_places)
            partial = int64(1)
        if place == 3 or place == 7:
            prefetch_slots(s, chosen, partial)
        learn_here(s, t, bit, place)
        prefetch_apm(s, partial)
        learn_from(s, t, bit, node, step)
        node = 2 * node + bit
        if place == 3:
            find_slots(s)
            node = int64(1)
    find_match(s.match, s.long_places, s.short_places, content, at + 1)
    prefetch_apm(s, int64(1))
    find_slots(s)


@kernel(types.void(types.boolean, I64, W8))
def start_coder(coding, coder, data):
    """Sets the coder's state, int64[STATE], for a stream in all of `data`."""
    if coding:
        start_encoder(coder, 0, data.size)
    else:
        start_decoder(coder, data, 0, data.size)


@kernel(types.void(I64, W8))
def end_coder(coder, data):
    """Writes what is left of a stream. More than `data` has room for is counted, not written."""
    flush(coder, data)


@kernel(
    types.void(types.boolean, STATE_TYPE, TABLES_TYPE, W8, W8, I64, int64, int64), counted=False
)
def code_bytes(coding, s, t, data, content, chosen, begin, end):
    """Codes or decodes `content[begin:end]`; pieces follow each other from 0 on.

    `chosen`: int64[contexts], their numbers. `data`: the arithmetic stream; the position in it is
    part of the coder's state. More than `data` has room for is counted, not written, and decoding
    stops soon after its end.
    """
    if begin == 0:
        hash_contexts(s.text, s.followers, s.hashes)
        prefetch_apm(s, int64(1))
        prefetch_slots(s, chosen, int64(1))
        find_slots(s)
    for at in range(begin, end):
        _byte(coding, s, t, data, content, at, chosen)
        if s.coder[AT] > data.size + 4:
            break
