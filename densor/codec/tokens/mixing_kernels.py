"""Codes a chunk's tokens as several streams in turns, under one model that mixes what contexts say.

A token takes one turn of its stream if a candidate is right, which followed the contexts of orders
3 and 2 before; else one more for each of its digits. What a turn will look up is asked for at the
end of the one before, so that memory answers while the other streams have theirs. Every decision is
of two, under a logistic mix of adaptive probabilities (M. Mahoney, PAQ). One kernel for both
directions, so that their models cannot drift apart. All arithmetic is in integers. See
docs/format/tokens.md, whose names are used here.
"""

import numba
from numba import types

from densor.codec.tokens import mixing_fields as of
from densor.codec.tokens.common_kernels import (
    MIX,
    doublings,
    first_of,
    hash_of,
    learn_flag,
    state_of,
    top,
)
from densor.codec.tokens.params import (
    BIAS,
    FLAG_INPUTS,
    FLAG_SETS,
    INPUTS,
    PLACES,
    ROOM,
    SPECIAL_FLAGS,
)
from densor.entropy.intrinsics import prefetch
from densor.entropy.jit import I32, I64, R8, W8, W16, W32, W64, index, inlined, kernel
from densor.entropy.vectors import bits_of, both, equal, load_u32, splat

int64, uint64 = numba.int64, numba.uint64

NODE = 16  # numbers of one: a check, then 15 probabilities
_TOKEN = 0xFFFFF  # the bits of a place below its count, of 6 bits, and the check, of 6 bits
_UNIT = 1 << 20
_MOST = 60  # what a place counts to
_LONGEST = 60  # what a match counts to
_NEW = 0x8000  # a probability of a half that has counted nothing, which is 0 in memory


# The coder


@inlined
def _next_word(stream, at, limit):
    """Two bytes of a stream, beyond whose end there are zeros."""
    if at + 1 < limit:
        return (int64(stream[index(at)]) << 8) | int64(stream[index(at + 1)])
    return int64(0)


@inlined
def _put_word(stream, at, low):
    stream[index(at)] = (low >> 40) & 255
    stream[index(at + 1)] = (low >> 32) & 255
    return at + 2


@inlined
def _code(encoding, bit, p, stream, value, width, at, limit):
    """Codes a decision that is yes with probability `p`, in units of 2^-16."""
    part = (width >> 16) * p
    if encoding:
        if bit:
            width = part
        else:
            value += part
            width -= part
            if value >> 48:
                value &= 0xFFFFFFFFFFFF
                carry = at - 1
                while stream[index(carry)] == 255:
                    stream[index(carry)] = 0
                    carry -= 1
                stream[index(carry)] += 1
        if width < 0x100000000:
            at = _put_word(stream, at, value)
            value = (value << 16) & 0xFFFFFFFFFFFF
            width <<= 16
    else:
        bit = int64(value < part)
        value -= int64(0) if bit else part
        width = part if bit else width - part
        if width < 0x100000000:
            value = (value << 16) | _next_word(stream, at, limit)
            at += 2
            width <<= 16
    return bit, value, width, at


# Learning


@inlined
def _clip(x, most):
    return max(min(x, int64(most)), int64(-most))


@inlined
def _learn_node(nodes, at, bit, most, steps):
    """Moves a probability of 12 bits towards a bit, the more slowly the more it has counted."""
    value = int64(nodes[index(at)]) ^ _NEW
    seen = value & 15
    p = value >> 4
    p += ((bit * 4095 - p) * int64(steps[index(seen)]) + 32768) >> 16
    nodes[index(at)] = ((p << 4) | min(seen + 1, most)) ^ _NEW


@inlined
def _said(nodes, at, stretch, trust):
    """What a probability says, in the logistic domain, by how much it has counted; its count."""
    value = int64(nodes[index(at)]) ^ _NEW
    seen = value & 15
    return (int64(stretch[index(value >> 4)]) * int64(trust[index(seen)])) >> 4, seen


@inlined
def _move(weights, at, said, error):
    weights[index(at)] = int64(weights[index(at)]) + ((said * error + 8192) >> 14)


@inlined
def _own_slot(slots, base, check, seen, at):
    """Copies a slot to `seen` without its check, empty if it is another's; counts in all of it."""
    total = int64(0)
    if int64(slots[index(base)]) >> 26 == check:
        for j in range(PLACES):
            place = int64(slots[index(base + j)]) & 0x3FFFFFF
            seen[index(at + j)] = place
            total += place >> 20
    else:
        for j in range(PLACES):
            seen[index(at + j)] = 0
    return total


@inlined
def _learn_slot(slots, base, check, token):
    """A slot takes in the token that came."""
    e0 = int64(slots[index(base)])
    mark = check << 26
    if e0 >> 26 != check or e0 & 0x3FFFFFF == 0:
        slots[index(base)] = mark | _UNIT | token
        for j in range(1, PLACES):
            slots[index(base + j)] = 0
        return
    e0 &= 0x3FFFFFF
    if e0 & _TOKEN == token:
        slots[index(base)] = mark | min(e0 + 2 * _UNIT, (_MOST << 20) | token)
        return
    seen = e0 >> 20
    if seen > 3:
        e0 -= max(seen >> 3, 1) << 20
    before, j = e0, int64(1)
    while j < PLACES:
        place = int64(slots[index(base + j)])
        if place == 0:
            slots[index(base + j)] = _UNIT | token
            break
        if place & _TOKEN == token:
            place = min(place + 2 * _UNIT, (_MOST << 20) | token)
            if place >> 20 >= before >> 20:
                slots[index(base + j)] = before
                if j == 1:
                    e0 = place
                else:
                    slots[index(base + j - 1)] = place
            else:
                slots[index(base + j)] = place
            break
        if j == PLACES - 1:
            slots[index(base + j)] = place - _UNIT if place >> 20 > 2 else _UNIT | token
        before = place
        j += 1
    slots[index(base)] = mark | e0


@inlined
def _node(context, so_far, digit, bits, state, at):
    """Where the node of a context is, and its check, go to `state` from `at` on."""
    key = (((context << 20) + so_far) << 3) + digit
    hashed = hash_of(uint64(key + 1) * uint64(MIX))
    place = top(hashed, bits) * NODE
    state[index(at)] = place
    state[index(at + 1)] = int64((hashed >> uint64(8)) & uint64(0xFFFF)) | 1
    return place


@inlined
def _claim(nodes, at, check):
    """Makes a node that was another context's new."""
    if int64(nodes[index(at)]) != check:
        for j in range(1, NODE):
            nodes[index(at + j)] = 0
        nodes[index(at)] = check


@inlined
def _decide(encoding, bit, total, squash, coder, stream, limit):
    """Codes a decision for which so much speaks; returns it, and how wrong that was."""
    value, width, at = coder
    p = int64(squash[index(_clip(total >> 16, 2047) + 2048)])
    p = min(max(p, 16), 65520)
    bit, value, width, at = _code(encoding, bit, p, stream, value, width, at, limit)
    return bit, (bit << 12) - (p >> 4), (value, width, at)


@inlined
def _expect(state, states, tokens, matches, part):
    """The token that follows a match, or -1, to the state; returns how long the match is, 0 to 4.

    What another stream has not yet come to is not known.
    """
    expected, length = int64(-1), state[of.LENGTH]
    if length == 0:
        known = matches[index(state[of.MATCH])]
        check = int64((known >> uint64(20)) & uint64(0xFFF))
        if known != 0 and check == state[of.MATCH_CHECK]:
            expected = int64(known & uint64(_TOKEN))
            length = int64(1)
            source = int64(known >> uint64(32)) - 1
            state[of.SOURCE] = source
            state[of.ORIGIN] = source // part
            prefetch(tokens, source + 1)
    else:
        source = state[of.SOURCE]
        if source < states[index(state[of.ORIGIN] * of.FIELDS + of.NEXT)]:
            expected = int64(tokens[index(source)])
        else:
            length = int64(0)
    state[of.LENGTH], state[of.EXPECTED] = length, expected
    if length == 0:
        return int64(0)
    return 1 + int64(length > 2) + int64(length > 8) + int64(length > 24)


@inlined
def _code_flag(encoding, bit, candidate, lane, close, failed, states, history, own, flags, weights,
               tables, coder, stream, limit):  # fmt: skip
    """Codes whether a candidate is right.

    `lane`: 0 of what a match expects, whose length is `close`; `failed`: candidates before it.
    `states`: what the slots of orders 3 and 2 say; `own`: how often the token was in that of 3.
    """
    stretch, squash, rates = tables[:3]
    s3, s2 = states
    context = (s3 << 12) | (s2 << 8) | ((history & 15) << 4)
    context |= (min(close, 3) << 2) | min(failed, 3)
    key = (candidate << 8) + (s3 << 4) + s2 + 1
    special = SPECIAL_FLAGS + top(hash_of(uint64(key) * uint64(MIX)), 16)
    general = int64(flags[index(context)])
    other = int64(flags[index(special)])
    said1 = int64(stretch[index(general >> 20)])
    said2 = int64(stretch[index(other >> 20)])
    said2 = (said2 * min(2 * (other & 1023), 8)) >> 3
    kind = close if lane == 0 else 5 + int64(own > 0)
    row = (8 * min(failed, 7) + kind) * FLAG_INPUTS
    total = said1 * int64(weights[index(row)])
    total += said2 * int64(weights[index(row + 1)])
    total += BIAS * int64(weights[index(row + 2)])
    bit, wrong, coder = _decide(encoding, bit, total, squash, coder, stream, limit)
    _move(weights, row, said1, 6 * wrong)
    _move(weights, row + 1, said2, 6 * wrong)
    _move(weights, row + 2, int64(BIAS), 6 * wrong)
    learn_flag(flags, context, bit, rates)
    learn_flag(flags, special, bit, rates)
    return bit, coder


@inlined
def _code_candidates(encoding, token, state, near, seen, model, tables, coder, stream, limit):
    """Codes of each candidate in turn whether it is the token, until one is.

    Returns whether one was, the token, and the coder.
    """
    slots, flags, weights = model[0], model[2], model[5]
    levels = tables[4]
    expected = state[of.EXPECTED]
    seen[0] = expected | _UNIT if expected >= 0 else 0
    checks = state[of.CHECKS]
    total3 = _own_slot(slots, state[of.SLOT3], checks >> 6, seen, 1)
    total2 = _own_slot(slots, state[of.SLOT2], checks & 63, seen, 1 + PLACES)
    entries = load_u32(seen, 0)
    empty = bits_of(equal(entries, splat(0)))
    entries = both(entries, splat(_TOKEN))
    left = ~empty & 0xFFFF
    failed = int64(0)
    history = state[of.HISTORY]
    done = False
    while left and not done:
        lane = first_of(left)
        candidate = int64(seen[index(lane)]) & _TOKEN
        same = bits_of(equal(entries, splat(candidate))) & ~empty
        own3 = int64(seen[index(1 + first_of(((same >> 1) & 15) | 1024))]) >> 20
        own2 = int64(seen[index(5 + first_of(((same >> 5) & 15) | 64))]) >> 20
        said = state_of(own3, total3, levels), state_of(own2, total2, levels)
        bit, coder = _code_flag(
            encoding, int64(candidate == token), candidate, lane, near if lane == 0 else int64(0),
            failed, said, history, own3, flags, weights, tables, coder, stream, limit,
        )  # fmt: skip
        failed += 1
        left &= ~same
        if bit:
            token = candidate
            done = True
    outcome = int64(3)
    if done:
        outcome = int64(failed > 1) + int64(failed > 3)
    state[of.HISTORY] = ((history << 2) | outcome) & 15
    return done, token, coder


@inlined
def _ask_for_nodes(state, so_far, digit, bits, nodes):
    """Settles where the nodes of the next digit are, and asks memory for them."""
    state[of.PHASE], state[of.SO_FAR] = digit + 1, so_far
    prefetch(nodes, _node(state[of.A], so_far, digit, bits, state, of.OWN))
    if digit <= 1:
        prefetch(nodes, _node(state[of.B], so_far, digit + 6, bits, state, of.BESIDE))


@inlined
def _code_digit(encoding, token, digits, state, node_bits, model, tables, coder, stream, limit):
    """Codes four bits of a token that no candidate was.

    Returns whether they are the last ones, the token, and the coder.
    """
    plain, nodes, weights = model[3], model[4], model[5]
    stretch, squash, steps, trust = tables[0], tables[1], tables[3], tables[5]
    j, so_far = state[of.PHASE] - 1, state[of.SO_FAR]
    base = (((int64(1) << (4 * j)) - 1) // 15 + so_far) * NODE
    own, beside = state[of.OWN], state[of.BESIDE]
    _claim(nodes, own, state[of.OWN_CHECK])
    two = j <= 1
    if two:
        _claim(nodes, beside, state[of.BESIDE_CHECK])
    node = int64(1)
    for k in range(4):
        said0 = int64(stretch[index((int64(plain[index(base + node)]) ^ _NEW) >> 4)])
        said1, seen1 = _said(nodes, own + node, stretch, trust)
        said2, seen2 = int64(0), int64(0)
        if two:
            said2, seen2 = _said(nodes, beside + node, stretch, trust)
        row = ((j * NODE + node) * 16) + 4 * min(seen1, 3) + min(seen2, 3)
        row = FLAG_SETS * FLAG_INPUTS + row * INPUTS
        total = said0 * int64(weights[index(row)])
        total += said1 * int64(weights[index(row + 1)])
        total += said2 * int64(weights[index(row + 2)])
        total += BIAS * int64(weights[index(row + 3)])
        bit = (token >> (4 * (digits - 1 - j) + 3 - k)) & 1
        bit, wrong, coder = _decide(encoding, bit, total, squash, coder, stream, limit)
        _move(weights, row, said0, 4 * wrong)
        _move(weights, row + 1, said1, 4 * wrong)
        if two:
            _move(weights, row + 2, said2, 4 * wrong)
            _learn_node(nodes, beside + node, bit, 13, steps)
        _move(weights, row + 3, int64(BIAS), 4 * wrong)
        _learn_node(plain, base + node, bit, 15, steps)
        _learn_node(nodes, own + node, bit, 13, steps)
        node = 2 * node + bit
    so_far = 16 * so_far + node - 16
    if j + 1 == digits:
        return True, so_far, coder
    _ask_for_nodes(state, so_far, j + 1, node_bits, nodes)
    return False, token, coder


@inlined
def _learn_token(state, place, token, part, slots, matches):
    """Slots and matches take in the token that came."""
    checks = state[of.CHECKS]
    _learn_slot(slots, state[of.SLOT3], checks >> 6, token)
    _learn_slot(slots, state[of.SLOT2], checks & 63, token)
    entry = ((place + 1) << 32) | (state[of.MATCH_CHECK] << 20) | token
    matches[index(state[of.MATCH])] = uint64(entry)
    if state[of.LENGTH] > 0 and state[of.EXPECTED] == token:
        state[of.LENGTH] = min(state[of.LENGTH] + 1, _LONGEST)
        state[of.SOURCE] += 1
        if state[of.SOURCE] == (state[of.ORIGIN] + 1) * part:
            state[of.LENGTH] = 0
    else:
        state[of.LENGTH] = 0


@inlined
def _go_on(state, token, bits, match_bits, slots, matches):
    """Settles where the contexts of the next token are, and asks memory for them."""
    a, c, d = state[of.A], state[of.B], state[of.C]
    state[of.A], state[of.B], state[of.C], state[of.D] = token, a, c, d
    second = (((token << 8) + 1) << 20) + a
    third = uint64(second) * uint64(MIX) + uint64(c + 1)
    fourth = third * uint64(MIX) + uint64(d + 1)
    hash2, hash3, hash4 = hash_of(second), hash_of(third), hash_of(fourth)
    state[of.SLOT2] = PLACES * top(hash2, bits)
    state[of.SLOT3] = PLACES * (top(hash3, bits) + (int64(1) << bits))
    check2 = int64((hash2 >> uint64(20)) & uint64(63))
    check3 = int64((hash3 >> uint64(20)) & uint64(63))
    state[of.CHECKS] = (check3 << 6) | check2
    state[of.MATCH] = top(hash4, match_bits)
    state[of.MATCH_CHECK] = int64((hash4 >> uint64(20)) & uint64(0xFFF))
    prefetch(slots, state[of.SLOT3])
    prefetch(slots, state[of.SLOT2])
    prefetch(matches, state[of.MATCH])


@inlined
def _finish(state, stream):
    """Writes what is left of the number that a stream is."""
    value, at = state[of.VALUE], state[of.AT]
    for _ in range(3):
        at = _put_word(stream, at, value)
        value = (value << 16) & 0xFFFFFFFFFFFF
    state[of.AT] = at


_SIGNATURE = types.int64(
    types.boolean, W32, types.int64, types.int64, I64, W8, W32, W64, W32, W16, W16, I32,
    W32, I32, I32, I64, I64, R8, R8,
)  # fmt: skip


@kernel(_SIGNATURE)
def code_mixed(
    encoding, tokens, digits, streams, states, stream, slots, matches, flags, plain, nodes, weights,
    seen, stretch, squash, rates, steps, levels, trust,
):  # fmt: skip
    """Codes `tokens`, below 16^`digits`, or fills them; returns 0.

    -1 where a stream has no room left. `states`: of each of `streams`, where it begins and ends in
    `stream` and in `tokens`, as `mixing.py` makes them; afterwards, how far each has come. All
    other arrays are state and constants.
    """
    bits = doublings(slots.size, 2 * PLACES)
    node_bits = doublings(nodes.size, NODE)
    match_bits = doublings(matches.size, 1)
    model = (slots, matches, flags, plain, nodes, weights)
    tables = (stretch, squash, rates, steps, levels, trust)
    part = states[of.END]
    running = int64(0)
    for s in range(streams):
        begin = s * of.FIELDS
        running += int64(states[index(begin + of.NEXT)] < states[index(begin + of.END)])
    while running > 0:
        for s in range(streams):
            state = states[s * of.FIELDS : (s + 1) * of.FIELDS]
            place = state[of.NEXT]
            if place >= state[of.END]:
                continue
            coder, limit = (state[of.VALUE], state[of.WIDTH], state[of.AT]), state[of.LIMIT]
            token = int64(0)
            if encoding:
                if coder[2] + ROOM > limit:
                    return int64(-1)
                token = int64(tokens[index(place)])
            if state[of.PHASE] == 0:
                near = _expect(state, states, tokens, matches, part)
                done, token, coder = _code_candidates(
                    encoding, token, state, near, seen, model, tables, coder, stream, limit
                )
                if not done:
                    _ask_for_nodes(state, int64(0), int64(0), node_bits, nodes)
            else:
                done, token, coder = _code_digit(
                    encoding, token, digits, state, node_bits, model, tables, coder, stream, limit
                )
            state[of.VALUE], state[of.WIDTH], state[of.AT] = coder
            if not done:
                continue
            state[of.PHASE] = 0
            if not encoding:
                tokens[index(place)] = token
            _learn_token(state, place, token, part, slots, matches)
            _go_on(state, token, bits, match_bits, slots, matches)
            state[of.NEXT] = place + 1
            if place + 1 == state[of.END]:
                running -= 1
                if encoding:
                    _finish(state, stream)
    return int64(0)
