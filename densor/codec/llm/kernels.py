"""Codes a token, given how likely each is: byte by byte, mixed with the contexts of the text codec.

Tokens are sorted by their bytes, so that those which begin like the bytes so far are a range, and
those of them with a 1 as their next bit the end of that range. What the language model says about
a bit goes into the mixers beside what the bit histories say. One kernel for both directions.
"""

from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt
from numba import types

from densor.codec.text.contexts import LAST, hash_contexts, mix, take_in
from densor.codec.text.counters import learn
from densor.codec.text.kernels import (
    FIRST_STEP,
    LAST_STEP,
    SEEN,
    STATE_TYPE,
    STEP_BYTES,
    TABLES_TYPE,
    choose_rows,
    code_bit,
    find_slots,
    gather,
    histories_learn,
)
from densor.codec.text.match import BUCKET, LENGTH, expected_bit, find_match
from densor.codec.text.mixer import dot, final_dot, train, train_final
from densor.codec.text.refine import refine, refined
from densor.entropy.arithmetic.kernels import AT, flush, start_decoder, start_encoder
from densor.entropy.intrinsics import prefetch
from densor.entropy.jit import I64, R8, W8, W16, inlined, kernel

int64 = numba.int64

LEAST, MOST = 4, 65532  # probabilities that are coded, 2^-16
NO_TOKEN, TOO_LONG = -1000, -2000  # what `code_token` returns for data that cannot be
ENDS = 256  # rows of the map that corrects the end of tokens


class Said(NamedTuple):
    """What a language model brings along, for m tokens."""

    bytes: npt.NDArray[np.uint8]  # of all tokens, in order
    starts: npt.NDArray[np.int64]  # int64[m + 1]: where each begins
    ends: npt.NDArray[np.uint16]  # uint16[256 CELLS]: correction of the end of tokens
    extra: npt.NDArray[np.int64]  # int64[1]: number of the mixers' input


_SAID = types.NamedTuple((R8, I64, W16, I64), Said)


@inlined
def _first_from(said, low, high, depth, value):
    """The first token from `low` on whose byte number `depth` is at least `value`."""
    while low < high:
        middle = (low + high) >> 1
        if int64(said.bytes[said.starts[middle] + depth]) < value:
            low = middle + 1
        else:
            high = middle
    return low


@inlined
def _share(part, whole):
    """A probability in units of 2^-16, from 1 to 65535; 1/2 where nothing is known."""
    p = int64(32768)
    if whole > 0:
        p = (part << 16) // whole
    return min(max(p, int64(1)), int64(65535))


@inlined
def _mixed_bit(coding, s, t, said, data, bit, partial, node, place, step, likely):
    """One decision, as `text.kernels` has it, with one more opinion: `likely` is 1, 2^-16."""
    last = s.text[LAST]
    order1 = 256 + ((last & 255) << 8 | partial)
    row1 = mix(order1, 3) & ((s.cells1.size >> 5) - 1)
    row2 = mix((last & 0xFFFF) << 8 | partial, 4) & ((s.cells2.size >> 5) - 1)
    prefetch(s.cells1, row1 << 5)
    prefetch(s.cells2, row2 << 5)
    seen = gather(s, t, node, partial, order1, place)
    opinion = int64(t.stretch[likely >> 4])
    s.inputs[said.extra[0]] = opinion
    s.inputs[said.extra[0] + 1] = (likely - 32768) >> 5
    choose_rows(s, seen, partial, place)
    bucket = s.match[BUCKET] if s.match[LENGTH] else int64(0)
    s.rows[1] = 256 + (((opinion + 2048) >> 8) << 4 | min(bucket >> 1, int64(15)))
    for k in range(s.sums.size):
        s.sums[k] = dot(s.inputs, s.weights[s.rows[k]])
    mixed = final_dot(s.sums, s.final[partial])
    p = int64(t.squash[mixed + 2048])
    p0 = refined(s.cells0, partial, mixed)
    p1 = refined(s.cells1, row1, mixed)
    p2 = refined(s.cells2, row2, mixed)
    coded = (p + p0 + p1 + p2 + 2) >> 2
    bit = code_bit(coding, s.coder, data, bit, min(max(coded, int64(LEAST)), int64(MOST)))
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
def _ends_here(coding, s, t, said, data, bit, likely):
    """Whether a token ends though longer ones begin like it."""
    row = s.text[LAST] & (ENDS - 1)
    opinion = int64(t.stretch[likely >> 4])
    p = (likely + 3 * refined(said.ends, row, opinion) + 2) >> 2
    bit = code_bit(coding, s.coder, data, bit, min(max(p, int64(LEAST)), int64(MOST)))
    refine(said.ends, row, opinion, bit)
    return bit


@kernel(
    types.int64(
        types.boolean, STATE_TYPE, TABLES_TYPE, _SAID, W8, W8, types.int64, I64, I64, types.int64
    ),
    counted=False,
)
def code_token(coding, s, t, said, data, content, at, chosen, counts, token):
    """Codes `token`, whose bytes stand at `at` of `content`, or decodes one and sets its bytes.

    `counts`: int64[tokens + 1], how many counts are on all tokens before each. Returns the token;
    -1 - b for a byte b with which no token begins; NO_TOKEN or TOO_LONG where that cannot be.
    `chosen`: int64[contexts], the numbers of the contexts.
    """
    low = int64(0)
    high = int64(counts.size - 1)
    depth = int64(0)
    while True:
        if depth and said.starts[low + 1] - said.starts[low] == depth:
            if high - low == 1:
                return low
            likely = _share(counts[low + 1] - counts[low], counts[high] - counts[low])
            if _ends_here(coding, s, t, said, data, int64(token == low), likely):
                return low
            low += 1
        place_at = at + depth
        if place_at >= content.size:
            return int64(TOO_LONG)
        value = int64(content[place_at]) if coding else int64(0)
        step = max(int64(LAST_STEP), FIRST_STEP - (place_at >> STEP_BYTES))
        hash_contexts(s.text, s.followers, s.hashes)
        partial = int64(1)
        node = int64(1)
        for place in range(8):
            if place == 0 or place == 4:
                find_slots(s, chosen, partial)
                node = int64(1)
            middle = ((2 * partial + 1) << (7 - place)) & 255
            border = _first_from(said, low, high, depth, middle)
            likely = _share(counts[high] - counts[border], counts[high] - counts[low])
            bit = (value >> (7 - place)) & 1
            bit = _mixed_bit(coding, s, t, said, data, bit, partial, node, place, step, likely)
            if bit:
                low = border
            else:
                high = border
            partial = 2 * partial + bit
            node = 2 * node + bit
        content[place_at] = partial & 255
        take_in(s.text, s.followers, content, place_at)
        find_match(s.match, s.text, s.long_places, s.short_places, content, place_at + 1)
        if low >= high:
            return int64(NO_TOKEN) if depth else -1 - (partial & 255)
        depth += 1
        if s.coder[AT] > data.size + 4:
            return int64(TOO_LONG)


@kernel(types.void(types.boolean, I64, W8))
def start(coding, coder, data):
    """Begins a stream in `data`: its coder's state is int64[STATE]."""
    if coding:
        start_encoder(coder, 0, data.size)
    else:
        start_decoder(coder, data, 0, data.size)


@kernel(types.void(I64, W8))
def finish(coder, data):
    """Ends a stream; more than `data` has room for is not written, the state tells how much."""
    flush(coder, data)
