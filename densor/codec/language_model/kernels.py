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

from densor.codec.byte_cm.contexts import LAST, LINE, LINE1, hash_contexts, take_in
from densor.codec.byte_cm.kernels import (
    MIXED,
    PARTIAL,
    STATE_TYPE,
    TABLES_TYPE,
    ask_for_cells,
    ask_for_slots,
    blend,
    choose_rows,
    code_bit,
    find_slots,
    gather,
    learn_from,
    learn_here,
)
from densor.codec.byte_cm.match import BUCKET, LENGTH, POINTER, ask_for_match, find_match
from densor.codec.byte_cm.refine import refine, refined
from densor.entropy.arithmetic.kernels import AT
from densor.entropy.jit import I32, I64, R8, W8, W16, inlined, kernel

int64 = numba.int64

PREFIX, SUFFIX = 400, 8  # zeros around `content`, whose segments match each other's bytes
LEAST, MOST = 4, 65532  # probabilities that are coded, 2^-16
NO_TOKEN, TOO_LONG = -1000, -2000  # what `code_token` returns for data that cannot be
ENDS = 256  # rows of the map that corrects the end of tokens
FIRST_STEP, LAST_STEP, STEP_BYTES = 30, 4, 11  # of the weights, and how fast it shrinks
JUDGES, OPINIONS = 4, 4  # sets of weights at the end, of 256 rows each, and their inputs
REACH = 4096  # of `squash`, either way
_CONSTANT = 77
_MOST_WEIGHT = 1 << 20
_JUDGES_STEP = 17  # logarithm


class Said(NamedTuple):
    """What a language model brings along, for m tokens."""

    bytes: npt.NDArray[np.uint8]  # of all tokens, in order
    starts: npt.NDArray[np.int64]  # int64[m + 1]: where each begins
    ends: npt.NDArray[np.uint16]  # uint16[256 CELLS]: correction of the end of tokens
    extra: npt.NDArray[np.int64]  # int64[1]: number of the mixers' input
    squash: npt.NDArray[np.int32]  # int32[2 REACH + 1]: 2^16 / (1 + exp(-(i - REACH) / 256))
    stretch: npt.NDArray[np.int16]  # int16[65536]: its inverse, see `llm.tables`
    judges: npt.NDArray[np.int32]  # int32[256 JUDGES * OPINIONS]: weights, 2^-16
    opinions: npt.NDArray[np.int64]  # int64[OPINIONS], of the decision at hand
    verdicts: npt.NDArray[np.int64]  # int64[2 JUDGES]: row and result of each


_SAID = types.NamedTuple((R8, I64, W16, I64, I32, types.int16[::1], I32, I64, I64), Said)


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
def _predict(s, t, said, node, place, likely):
    """The probability of a 1, 2^-16, where the language model says `likely`, in the same units."""
    seen = gather(s, t, node, place)
    opinion = int64(said.stretch[likely])
    near = min(max(opinion, int64(-2047)), int64(2047))
    s.inputs[said.extra[0]] = near
    s.inputs[said.extra[0] + 1] = (likely - 32768) >> 5
    choose_rows(s, seen, place)
    bucket = s.match[BUCKET] if s.match[LENGTH] else int64(0)
    s.rows[1] = 256 + (((near + 2048) >> 8) << 4 | min(bucket >> 1, int64(15)))
    corrected = min(max(blend(s, t), int64(1)), int64(65535))
    said.opinions[0] = opinion
    said.opinions[1] = s.places[MIXED]
    said.opinions[2] = said.stretch[corrected]
    said.opinions[3] = _CONSTANT
    said.verdicts[0] = bucket
    said.verdicts[1] = 256 + ((opinion + REACH) >> 6)
    said.verdicts[2] = 512 + s.places[PARTIAL]
    said.verdicts[3] = 768 + (s.text[LAST] & 255)
    whole = int64(0)
    for k in range(JUDGES):
        total = int64(0)
        for i in range(OPINIONS):
            total += int64(said.judges[OPINIONS * said.verdicts[k] + i]) * said.opinions[i]
        whole += total
        said.verdicts[JUDGES + k] = _squashed(said, total >> 16)
    p = _squashed(said, whole >> 18)
    return min(max(p, int64(LEAST)), int64(MOST))


@inlined
def _squashed(said, x):
    return int64(said.squash[min(max(x, int64(-REACH)), int64(REACH)) + REACH])


@inlined
def _judges_learn(said, bit):
    """Each of the last sets of weights learns for itself that the decision was `bit`."""
    for k in range(JUDGES):
        error = (bit << 16) - said.verdicts[JUDGES + k]
        for i in range(OPINIONS):
            at = OPINIONS * said.verdicts[k] + i
            step = (said.opinions[i] * error + (1 << (_JUDGES_STEP - 1))) >> _JUDGES_STEP
            value = int64(said.judges[at]) + step
            said.judges[at] = min(max(value, int64(-_MOST_WEIGHT)), int64(_MOST_WEIGHT))


@inlined
def _ends_here(coding, s, t, said, data, bit, likely):
    """Whether a token ends though longer ones begin like it."""
    row = s.text[LAST] & (ENDS - 1)
    opinion = int64(t.stretch[likely >> 4])
    p = (likely + 3 * refined(said.ends, row, opinion) + 2) >> 2
    bit = code_bit(coding, s.coder, data, bit, min(max(p, int64(LEAST)), int64(MOST)))
    refine(said.ends, row, opinion, bit)
    return bit


@inlined
def _begin_byte(s, chosen):
    ask_for_cells(s, int64(1))
    ask_for_slots(s, chosen, int64(1))
    find_slots(s)


@kernel(
    types.int64(
        types.boolean,
        STATE_TYPE,
        TABLES_TYPE,
        _SAID,
        W8,
        W8,
        int64,
        int64,
        int64,
        I64,
        I64,
        int64,
        W8,
    ),
    counted=False,
)
def code_token(
    coding, s, t, said, data, content, at, end, done, chosen, counts, token, source
):  # fmt: skip
    """Codes `token`, whose bytes stand at `at` of `source`, or decodes one; sets them in `content`.

    `end`: where its segment ends; `done`: bytes coded before in all segments. `counts`: int64[
    tokens + 1], how many counts are on all tokens before each. `chosen`: int64[contexts], the
    numbers of the contexts. Returns the token; -1 - b for a byte b with which no token begins;
    NO_TOKEN or TOO_LONG where that cannot be.
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
        if place_at >= end:
            return int64(TOO_LONG)
        value = int64(source[place_at])
        step = max(int64(LAST_STEP), FIRST_STEP - ((done + depth) >> STEP_BYTES))
        partial = int64(1)
        node = int64(1)
        for place in range(8):
            least = ((2 * partial + 1) << (7 - place)) & 255
            border = _first_from(said, low, high, depth, least)
            likely = _share(counts[high] - counts[border], counts[high] - counts[low])
            p = _predict(s, t, said, node, place, likely)
            bit = code_bit(coding, s.coder, data, (value >> (7 - place)) & 1, p)
            learn_here(s, t, bit, place)
            _judges_learn(said, bit)
            if bit:
                low = border
            else:
                high = border
            partial = 2 * partial + bit
            ask_for_cells(s, partial if place < 7 else int64(1))
            if place == 3:
                ask_for_slots(s, chosen, partial)
            learn_from(s, t, bit, node, step)
            node = 2 * node + bit
            if place == 3:
                find_slots(s)
                node = int64(1)
        content[place_at] = partial & 255
        take_in(s.text, s.followers, content, place_at)
        hash_contexts(s.text, s.followers, s.hashes)
        ask_for_match(s.match, s.text, s.long_places, s.short_places)
        find_match(s.match, s.long_places, s.short_places, content, place_at + 1)
        if s.match[POINTER] >= content.size - SUFFIX:  # of a segment further on that has ended
            s.match[LENGTH] = 0
        _begin_byte(s, chosen)
        if low >= high:
            return int64(NO_TOKEN) if depth else -1 - (partial & 255)
        depth += 1
        if s.coder[AT] > data.size + 4:
            return int64(TOO_LONG)


@kernel(types.void(STATE_TYPE, I64, int64), counted=False)
def begin(s, chosen, at):
    """Makes the state before the first token of a segment, which begins at `at`, ready."""
    s.text[LINE] = at
    s.text[LINE1] = at
    hash_contexts(s.text, s.followers, s.hashes)
    _begin_byte(s, chosen)
