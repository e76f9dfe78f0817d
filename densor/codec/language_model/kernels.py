"""Codes a token, given how likely each is: byte by byte, mixed with the contexts of the text codec.

Tokens are sorted by their bytes, so that those which begin like the bytes so far are a range, and
those of them with a 1 as their next bit the end of that range. The probability that the language
model has for a bit is one more input of the mixers, beside those of the bit histories. One kernel
for both directions.
"""

from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt
from numba import types

from densor.codec.byte_cm.apm import apm_predict, apm_update
from densor.codec.byte_cm.contexts import LAST, LINE, LINE1, hash_contexts, take_in
from densor.codec.byte_cm.kernels import (
    MIXED,
    PARTIAL,
    STATE_TYPE,
    TABLES_TYPE,
    blend,
    choose_rows,
    code_bit,
    find_slots,
    gather,
    learn_from,
    learn_here,
    prefetch_apm,
    prefetch_slots,
)
from densor.codec.byte_cm.match import BUCKET, LENGTH, POINTER, find_match, prefetch_match
from densor.entropy.arithmetic.state import AT
from densor.entropy.jit import I32, I64, R8, W8, W16, inlined, kernel

int64 = numba.int64

PREFIX, SUFFIX = 400, 8  # zeros around `content`, whose segments match each other's bytes
MIN_P, MAX_P = 4, 65532  # probabilities that are coded, 2^-16
NO_TOKEN, TOO_LONG = -1000, -2000  # what `code_token` returns for data that cannot be
ENDS = 256  # rows of the map that corrects the end of tokens
FIRST_STEP, LAST_STEP, STEP_BYTES = 30, 4, 11  # of the weights, and how fast it shrinks
FINAL_SETS, FINAL_INPUTS = 4, 4  # final mixers, of 256 rows of weights each, and their inputs
REACH = 4096  # of `squash`, either way
_CONSTANT = 77
_MAX_WEIGHT = 1 << 20
_FINAL_STEP = 17  # logarithm


class TokenPrior(NamedTuple):
    """The language model's part of the prediction, for m tokens, and the final mixers."""

    bytes: npt.NDArray[np.uint8]  # of all tokens, in order
    starts: npt.NDArray[np.int64]  # int64[m + 1]: where each begins
    ends: npt.NDArray[np.uint16]  # uint16[256 CELLS]: correction of the end of tokens
    extra: npt.NDArray[np.int64]  # int64[1]: index of the first of its inputs to the mixers
    squash: npt.NDArray[np.int32]  # int32[2 REACH + 1]: 2^16 / (1 + exp(-(i - REACH) / 256))
    stretch: npt.NDArray[np.int16]  # int16[65536]: its inverse, see `llm.tables`
    final_weights: npt.NDArray[np.int32]  # int32[256 FINAL_SETS * FINAL_INPUTS]: weights, 2^-16
    final_inputs: npt.NDArray[np.int64]  # int64[FINAL_INPUTS], stretched
    final_outputs: npt.NDArray[np.int64]  # int64[2 FINAL_SETS]: rows, then outputs


_PRIOR_TYPE = types.NamedTuple(
    (R8, I64, W16, I64, I32, types.int16[::1], I32, I64, I64), TokenPrior
)


@inlined
def _first_from(prior, low, high, depth, value):
    """The first token from `low` on whose byte number `depth` is at least `value`."""
    while low < high:
        middle = (low + high) >> 1
        if int64(prior.bytes[prior.starts[middle] + depth]) < value:
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
def _predict(s, t, prior, node, place, likely):
    """The probability of a 1, 2^-16; `likely`: that of the language model, in the same units."""
    seen = gather(s, t, node, place)
    stretched = int64(prior.stretch[likely])
    near = min(max(stretched, int64(-2047)), int64(2047))
    s.inputs[prior.extra[0]] = near
    s.inputs[prior.extra[0] + 1] = (likely - 32768) >> 5
    choose_rows(s, seen, place)
    bucket = s.match[BUCKET] if s.match[LENGTH] else int64(0)
    s.rows[1] = 256 + (((near + 2048) >> 8) << 4 | min(bucket >> 1, int64(15)))
    corrected = min(max(blend(s, t), int64(1)), int64(65535))
    prior.final_inputs[0] = stretched
    prior.final_inputs[1] = s.places[MIXED]
    prior.final_inputs[2] = prior.stretch[corrected]
    prior.final_inputs[3] = _CONSTANT
    prior.final_outputs[0] = bucket
    prior.final_outputs[1] = 256 + ((stretched + REACH) >> 6)
    prior.final_outputs[2] = 512 + s.places[PARTIAL]
    prior.final_outputs[3] = 768 + (s.text[LAST] & 255)
    whole = int64(0)
    for k in range(FINAL_SETS):
        total = int64(0)
        for i in range(FINAL_INPUTS):
            total += (
                int64(prior.final_weights[FINAL_INPUTS * prior.final_outputs[k] + i])
                * prior.final_inputs[i]
            )
        whole += total
        prior.final_outputs[FINAL_SETS + k] = _squashed(prior, total >> 16)
    p = _squashed(prior, whole >> 18)
    return min(max(p, int64(MIN_P)), int64(MAX_P))


@inlined
def _squashed(prior, x):
    return int64(prior.squash[min(max(x, int64(-REACH)), int64(REACH)) + REACH])


@inlined
def _train_final_sets(prior, bit):
    """Trains each final mixer, on its own error, with the decision `bit`."""
    for k in range(FINAL_SETS):
        error = (bit << 16) - prior.final_outputs[FINAL_SETS + k]
        for i in range(FINAL_INPUTS):
            at = FINAL_INPUTS * prior.final_outputs[k] + i
            step = (prior.final_inputs[i] * error + (1 << (_FINAL_STEP - 1))) >> _FINAL_STEP
            value = int64(prior.final_weights[at]) + step
            prior.final_weights[at] = min(max(value, int64(-_MAX_WEIGHT)), int64(_MAX_WEIGHT))


@inlined
def _ends_here(coding, s, t, prior, data, bit, likely):
    """Whether a token ends though longer ones begin like it."""
    row = s.text[LAST] & (ENDS - 1)
    stretched = int64(t.stretch[likely >> 4])
    p = (likely + 3 * apm_predict(prior.ends, row, stretched) + 2) >> 2
    bit = code_bit(coding, s.coder, data, bit, min(max(p, int64(MIN_P)), int64(MAX_P)))
    apm_update(prior.ends, row, stretched, bit)
    return bit


@inlined
def _begin_byte(s, chosen):
    prefetch_apm(s, int64(1))
    prefetch_slots(s, chosen, int64(1))
    find_slots(s)


@kernel(
    types.int64(
        types.boolean,
        STATE_TYPE,
        TABLES_TYPE,
        _PRIOR_TYPE,
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
    coding, s, t, prior, data, content, at, end, done, chosen, counts, token, source
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
        if depth and prior.starts[low + 1] - prior.starts[low] == depth:
            if high - low == 1:
                return low
            likely = _share(counts[low + 1] - counts[low], counts[high] - counts[low])
            if _ends_here(coding, s, t, prior, data, int64(token == low), likely):
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
            border = _first_from(prior, low, high, depth, least)
            likely = _share(counts[high] - counts[border], counts[high] - counts[low])
            p = _predict(s, t, prior, node, place, likely)
            bit = code_bit(coding, s.coder, data, (value >> (7 - place)) & 1, p)
            learn_here(s, t, bit, place)
            _train_final_sets(prior, bit)
            if bit:
                low = border
            else:
                high = border
            partial = 2 * partial + bit
            prefetch_apm(s, partial if place < 7 else int64(1))
            if place == 3:
                prefetch_slots(s, chosen, partial)
            learn_from(s, t, bit, node, step)
            node = 2 * node + bit
            if place == 3:
                find_slots(s)
                node = int64(1)
        content[place_at] = partial & 255
        take_in(s.text, s.followers, content, place_at)
        hash_contexts(s.text, s.followers, s.hashes)
        prefetch_match(s.match, s.text, s.long_places, s.short_places)
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
