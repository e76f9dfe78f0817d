"""Codes tokens by their rank among candidates, and digits of what is none, each one symbol of 16.

Blocks of a chunk are dealt to streams. In a turn all of them pass through each stage together: what
a stream looks up is asked for a stage ahead, so that memory answers while the others have theirs.
A distribution is a vector of 16 cumulative probabilities of 15 bits, the weighted sum of those of
up to three nodes; weights depend on how often nodes were met. Symbols are coded by rANS (J. Duda),
of which an encoder notes them first and codes them backwards. One kernel has the model of both
directions, so that they cannot drift apart. All arithmetic is in integers, and there is hardly a
branch that depends on the tokens. See docs/format/token_ranks.md, whose names are used here.
"""

import numba
from numba import types

from densor.codec.tokens import ranking_fields as of
from densor.codec.tokens.common_kernels import (
    MIX,
    doublings,
    first_of,
    hash_of,
    state_of,
    top,
)
from densor.codec.tokens.params import CODERS, MAX_RANKS, ORDER1_BITS, PLACES, SAID, TOTAL
from densor.codec.tokens.slot_vectors import (
    by_slot,
    least,
    load_pair,
    load_slots,
    most,
    risen,
    store_slots,
)
from densor.entropy import short_vectors as short
from densor.entropy import vectors as wide
from densor.entropy.intrinsics import ones, prefetch
from densor.entropy.jit import I64, R8, W16, W32, W64, index, inlined, kernel

int64, uint64 = numba.int64, numba.uint64

NODE = 16  # numbers of one: what it has counted, below a check of 10 bits, then 15 probabilities
_TOKEN = 0xFFFFF  # bits of a place, below whether it was the last to count, and its count of 5 bits
_RECENT = 1 << 20
_UNIT = 1 << 21
_COUNT = 31 << 21
_PLACE = (1 << 26) - 1  # above it is the slot's check, of 6 bits, in the first place
_MOST = 30  # what a place counts to
_LONGEST = 60  # what a match counts to
_SEEN, _SEEN_PLAIN, _SEEN_FAST = 60, 255, 3  # what nodes count to
_FULL = 0xFFF  # all places of three slots
_NO_LANE = 1 << 15
_RANK, _BESIDE_RANK, _BESIDE = 7, 8, 5  # kinds of nodes, beside digits of their own
_SECOND_RANK, _SAID_RANK, _LATE_BESIDE = 9, 10, 9  # those of more contexts; of digits from 2 on
_BEFORE = 1 << 44  # added to what stands for the token before the last two
_PLAIN_MASS, _MIN_MASS, _MAX_MASS = 1 << 24, 1 << 17, 1 << 31  # of the first node, and of others
_MASS_RATE = 24  # shift of what they learn, which is in units of 2^-16


# Nodes


@inlined
def _towards(a, b, weight):
    """The sum of both by a weight of the latter, in units of 2^-15."""
    return short.add(a, short.scaled(short.subtract(b, a), weight))


@inlined
def _direct(nodes, at):
    """A node of a table that has one for each context, and its count."""
    return short.without_first(short.load(nodes, at)), int64(nodes[index(at)])


@inlined
def _found(nodes, at, check, instead):
    """The node of a context and its count; what stands for it, and 0, where another's is there."""
    first = int64(nodes[index(at)])
    same = first >> 6 == check
    vector = short.either(same, short.without_first(short.load(nodes, at)), instead)
    return vector, (first & 63) * int64(same)


@inlined
def _learn(nodes, at, check, vector, seen, limit, target, rates):
    """Moves a node towards a symbol, the more slowly the more it has counted."""
    vector = _towards(vector, target, int64(rates[index(seen)]))
    count = (check << 6) | min(seen + 1, int64(limit))
    short.store(nodes, at, short.with_first(vector, count))


@inlined
def _ask(state, at, x, kind, bits, nodes):
    """Settles where the node of a context is, and its check, and asks memory for it."""
    hashed = hash_of(uint64((x << 4) + kind + 1) * uint64(MIX))
    place = top(hashed, bits) * NODE
    state[index(at)] = place
    state[index(at + 1)] = int64((hashed >> uint64(8)) & uint64(0x3FF)) | 1
    prefetch(nodes, place)


@inlined
def _weights(weights, kind, seen1, seen2):
    """Of the second and the third node; the first has what is left of one."""
    row = kind * 8 + int64(weights[index(seen1)])
    both = row * 8 + int64(weights[index(seen2)])
    return int64(weights[index(64 + row)]), int64(weights[index(64 + 64 + both)])


@inlined
def _mass(weights, row, seen):
    """Where the mass of a node of a row is, by what it has counted."""
    return 8 * row + int64(weights[index(seen)])


@inlined
def _weighed(vector, total, other, mass):
    """The sum of some nodes with one more, whose mass is given; and of their masses."""
    total += mass
    return _towards(vector, other, (mass << 15) // total), total


@inlined
def _share(nodes, at, symbol):
    """A node's probability of a symbol."""
    begin = int64(nodes[index(at + symbol)]) if symbol else int64(0)
    return (int64(nodes[index(at + symbol + 1)]) if symbol < NODE - 1 else int64(TOTAL)) - begin


@inlined
def _learn_mass(masses, at, share, coded, total):
    """Moves a mass up the gradient of what the symbol's probability `coded` has of it."""
    mass = masses[index(at)]
    part = ((mass * (share - coded)) << 16) // (total * coded)
    moved = mass + ((mass * part) >> _MASS_RATE)
    masses[index(at)] = max(min(moved, int64(_MAX_MASS)), int64(_MIN_MASS)) if mass else mass


# The coder


@inlined
def _code(encoding, symbol, vector, edges, coder, words, number, at):
    """Decodes a symbol, or notes it as word `number`; returns it, and how many words were read."""
    short.store(edges, 0, vector)
    if encoding:
        begin = int64(edges[index(symbol)])
        words[index(number)] = (begin << 15) | (int64(edges[index(symbol + 1)]) - begin)
        return symbol, at
    which = index(number & (CODERS - 1))
    state = coder[which]
    low = int64(state & uint64(TOTAL - 1))
    symbol = short.count_up_to(vector, low) - 1
    begin = int64(edges[index(symbol)])
    share = int64(edges[index(symbol + 1)]) - begin
    state = uint64(share) * (state >> uint64(15)) + uint64(low - begin)
    word = uint64(words[index(min(at, int64(words.size - 1)))])
    if state < uint64(1 << 31):
        state = (state << uint64(32)) | word
        at += 1
    coder[which] = state
    return symbol, at


# Candidates


@inlined
def _mask(slots, base, check):
    """What to take of a slot's places: nothing where its check is another one."""
    return int64(_PLACE) if int64(slots[index(base)]) >> 26 == check else int64(0)


@inlined
def _slots_of(state, slots, without):
    """A stream's slots of orders 3, 2 and 1, but for some bits."""
    b3, b2, b1 = state[of.SLOT3], state[of.SLOT2], state[of.SLOT1]
    m3 = _mask(slots, b3, state[of.CHECK3]) & ~without
    m2 = _mask(slots, b2, state[of.CHECK2]) & ~without
    m1 = _mask(slots, b1, state[of.CHECK1]) & ~without
    return load_slots(slots, b3, b2, b1, m3, m2, m1)


@inlined
def _count_of(same, seen, at):
    """The count of the place of a slot that is marked, or 0."""
    return int64(seen[index(at + first_of(same | 8))]) >> 21 if same else int64(0)


@inlined
def _said(same, seen, at, levels):
    """What the slot whose places begin at `at` says of the token in those that are marked."""
    counts = uint64(_COUNT | (_COUNT << 32))
    pairs = (load_pair(seen, at) & counts) + (load_pair(seen, at + 2) & counts)
    total = int64((pairs >> uint64(21)) & uint64(63)) + int64(pairs >> uint64(53))
    return state_of(_count_of(same, seen, at), total, levels)


@inlined
def _expect(state, tokens, matches):
    """What follows a match, or -1, to the state; returns how long it is, 0 to 4."""
    known = matches[index(state[of.MATCH])]
    check = int64((known >> uint64(20)) & uint64(0xFFF))
    length, source = state[of.LENGTH], state[of.SOURCE]
    expected = int64(tokens[index(source)])
    if length == 0:
        length = int64((known != 0) & (check == state[of.MATCH_CHECK]))
        source = int64(known >> uint64(32)) - 1 if length else source
        expected = int64(known & uint64(_TOKEN))
        prefetch(tokens, source + 1)
    state[of.SOURCE], state[of.LENGTH] = source, length
    state[of.EXPECTED] = expected if length else int64(-1)
    return int64(length > 0) + int64(length > 2) + int64(length > 8) + int64(length > 24)


@inlined
def _gather(state, at, seen, tokens, slots, matches, nodes, bits, levels, more):
    """Finds the candidates, and settles which nodes say what rank the token has."""
    near = _expect(state, tokens, matches)
    expected = state[of.EXPECTED]
    places = _slots_of(state, slots, int64(0))
    wide.store_u32(seen, at, places)
    full = ~wide.bits_of(wide.equal(places, wide.splat(0))) & _FULL
    candidates = wide.both(places, wide.splat(_TOKEN))
    again = int64(0)
    for lane in range(2 * PLACES):  # each again in the slots of lower orders
        token = int64(seen[index(at + lane)]) & _TOKEN
        same = wide.bits_of(wide.equal(candidates, wide.splat(token)))
        lower = 0xFF0 if lane < PLACES else 0xF00
        again |= same & lower & -((full >> lane) & 1)
    left = full & ~again
    first = int64(seen[index(at + first_of(left | _NO_LANE))]) & _TOKEN
    if expected >= 0:
        first = expected
    same = wide.bits_of(wide.equal(candidates, wide.splat(first))) & full
    left &= ~same if expected >= 0 else int64(-1)
    state[of.LEFT] = left
    s3 = _said(same & 15, seen, at, levels)
    s2 = _said((same >> 4) & 15, seen, at + PLACES, levels)
    s1 = _said(same >> 8, seen, at + 2 * PLACES, levels)
    said = 256 + s1 if (s3 | s2) == 0 else 16 * s3 + s2
    count = int64(ones(uint64(left))) + int64(expected >= 0)
    several = int64(count > 0) + int64(count > 1) + int64(count > 3)
    state[of.COMMON] = (((near * SAID + said) * 16 + state[of.HISTORY]) * 4 + several) * NODE
    _ask(state, of.OWN, 512 * first + said, _RANK, bits, nodes)
    _ask(state, of.BESIDE, 4 * state[of.A] + min(near, 2), _BESIDE_RANK, bits, nodes)
    if more:
        others = left if expected >= 0 else left & (left - 1)
        second = int64(seen[index(at + first_of(others | _NO_LANE))]) & _TOKEN
        same = wide.bits_of(wide.equal(candidates, wide.splat(second))) & full
        same = same if others else int64(0)
        s3 = _said(same & 15, seen, at, levels)
        s2 = _said((same >> 4) & 15, seen, at + PLACES, levels)
        _ask(state, of.THIRD, (first << 20) + second, _SECOND_RANK, bits, nodes)
        known = ((near * SAID + said) * 16 + s3) * 16 + s2
        _ask(state, of.FOURTH, 4 * known + several, _SAID_RANK, bits, nodes)


@inlined
def _rank_of(state, at, seen, token):
    """The rank of a token among the candidates, from 1 on; 0 if it is none."""
    left, expected = state[of.LEFT], state[of.EXPECTED]
    candidates = wide.both(wide.load_u32(seen, at), wide.splat(_TOKEN))
    same = wide.bits_of(wide.equal(candidates, wide.splat(token))) & left
    before = int64(ones(uint64(left & ((same & -same) - 1)))) + int64(expected >= 0)
    rank = 1 + before if same else int64(0)
    return int64(1) if expected == token else rank


@inlined
def _ranked(state, at, seen, rank, nth):
    """The candidate of a rank, and whether there is one of it."""
    left, expected = state[of.LEFT], state[of.EXPECTED]
    which = max(rank - 1 - int64(expected >= 0), int64(0))
    near = int64(ones(uint64(left & 255)))
    lane = int64(nth[index((left & 255) * MAX_RANKS + which)])
    far = int64(nth[index((left >> 8) * MAX_RANKS + max(which - near, int64(0)))])
    lane = lane if which < near else 8 + far
    token = int64(seen[index(at + lane)]) & _TOKEN
    of_match = (expected >= 0) & (rank == 1)
    known = of_match | (which < int64(ones(uint64(left))))
    return expected if of_match else token, known


@inlined
def _learn_slots(state, slots, token):
    """A stream's slots take in the token that came."""
    places = _slots_of(state, slots, int64(_RECENT))
    same = wide.bits_of(wide.equal(wide.both(places, wide.splat(_TOKEN)), wide.splat(token)))
    same &= ~wide.bits_of(wide.equal(places, wide.splat(0)))
    counted = wide.add(places, wide.splat(2 * _UNIT + _RECENT))
    counted = least(counted, wide.splat((_MOST << 21) | _RECENT | token))
    step = wide.both(most(wide.shift_right(places, 3), wide.splat(_UNIT)), wide.splat(_COUNT))
    step = wide.choose(wide.less(places, wide.splat(4 * _UNIT)), wide.splat(0), step)
    step = wide.choose(wide.mask_of(int64(0x111)), step, wide.splat(0))
    places = wide.subtract(places, step)
    new = wide.splat(_UNIT | _RECENT | token)
    weak = wide.less(places, wide.splat(3 * _UNIT))
    new = wide.choose(weak, new, wide.subtract(places, wide.splat(_UNIT)))
    found = same | (same >> 1)
    found |= found >> 2
    places = wide.choose(wide.mask_of(((found & 0x111) ^ 0x111) << 3), new, places)
    places = risen(wide.choose(wide.mask_of(same), counted, places))
    checks = by_slot(state[of.CHECK3], state[of.CHECK2], state[of.CHECK1])
    places = wide.either(places, wide.shift_left(checks, 26))
    store_slots(slots, state[of.SLOT3], state[of.SLOT2], state[of.SLOT1], places)


# Stages


@inlined
def _code_rank(
    encoding, token, state, at, seen, model, tables, coder, words, number, read, more
):  # fmt: skip
    """Codes the rank; returns it, the token if it has one, whether it is faulty, and words read."""
    _, _, ranks, nodes, edges, masses = model
    targets, rates, weights, _, nth = tables
    rank = _rank_of(state, at, seen, token) if encoding else int64(0)
    common, own, beside = state[of.COMMON], state[of.OWN], state[of.BESIDE]
    v0, n0 = _direct(ranks, common)
    v1, n1 = _found(nodes, own, state[of.OWN_CHECK], v0)
    third, fourth = state[of.THIRD], state[of.FOURTH]
    v2, n2, v3, n3, v4, n4 = v0, int64(0), v0, int64(0), v0, int64(0)
    m1 = m2 = m3 = m4 = total = coded = int64(0)
    if more:
        m1 = _mass(weights, 0, n1)
        vector, total = _weighed(v0, int64(_PLAIN_MASS), v1, masses[index(m1)])
        v2, n2 = _found(nodes, beside, state[of.BESIDE_CHECK], vector)
        m2 = _mass(weights, 1, n2)
        vector, total = _weighed(vector, total, v2, masses[index(m2)])
        v3, n3 = _found(nodes, third, state[of.THIRD_CHECK], vector)
        m3 = _mass(weights, 2, n3)
        vector, total = _weighed(vector, total, v3, masses[index(m3)])
        v4, n4 = _found(nodes, fourth, state[of.FOURTH_CHECK], vector)
        m4 = _mass(weights, 3, n4)
        vector, total = _weighed(vector, total, v4, masses[index(m4)])
    else:
        v2, n2 = _found(nodes, beside, state[of.BESIDE_CHECK], v0)
        w1, w2 = _weights(weights, 0, n1, n2)
        vector = _towards(_towards(v0, v1, w1), v2, w2)
    rank, read = _code(encoding, rank, vector, edges, coder, words, number, read)
    if more:
        coded = int64(edges[index(rank + 1)]) - int64(edges[index(rank)])
        _learn_mass(masses, m1, _share(nodes, own, rank), coded, total)
        _learn_mass(masses, m2, _share(nodes, beside, rank), coded, total)
        _learn_mass(masses, m3, _share(nodes, third, rank), coded, total)
        _learn_mass(masses, m4, _share(nodes, fourth, rank), coded, total)
    target = short.load(targets, rank * NODE)
    _learn(ranks, common, int64(0), v0, n0, _SEEN_PLAIN, target, rates)
    _learn(nodes, own, state[of.OWN_CHECK], v1, n1, _SEEN, target, rates)
    _learn(nodes, beside, state[of.BESIDE_CHECK], v2, n2, _SEEN, target, rates)
    if more:
        _learn(nodes, third, state[of.THIRD_CHECK], v3, n3, _SEEN, target, rates)
        _learn(nodes, fourth, state[of.FOURTH_CHECK], v4, n4, _SEEN, target, rates)
    faulty = False
    if not encoding:
        token, known = _ranked(state, at, seen, rank, nth)
        faulty = (rank > 0) & ~known
    outcome = int64(rank > 1) + int64(rank > 3) if rank else int64(3)
    state[of.HISTORY] = ((state[of.HISTORY] << 2) | outcome) & 15
    return rank, token, faulty, read


@inlined
def _code_digit(encoding, digits, j, base, state, model, tables, coder, words, number, read):
    """Codes a digit of a token that no candidate was; returns how many words were read."""
    _, plain, _, nodes, edges, _ = model
    targets, rates, weights = tables[:3]
    so_far = state[of.SO_FAR]
    at, own, beside = (base + so_far) * NODE, state[of.OWN], state[of.BESIDE]
    v0, n0 = _direct(plain, at)
    v1, n1 = _found(nodes, own, state[of.OWN_CHECK], v0)
    fast = plain.size // 2 + at
    v2, n2 = v0, int64(0)
    if j < 2:
        v2, n2 = _found(nodes, beside, state[of.BESIDE_CHECK], v0)
        w1, w2 = _weights(weights, j + 1, n1, n2)
    else:
        v2, n2 = _direct(plain, fast)
        w1, w2 = _weights(weights, min(j, 3) + 1, n1, int64(0))
    vector = _towards(_towards(v0, v1, w1), v2, w2)
    digit = (state[of.TOKEN] >> (4 * (digits - 1 - j))) & 15
    digit, read = _code(encoding, digit, vector, edges, coder, words, number, read)
    target = short.load(targets, digit * NODE)
    _learn(plain, at, int64(0), v0, n0, _SEEN_PLAIN, target, rates)
    _learn(nodes, own, state[of.OWN_CHECK], v1, n1, _SEEN, target, rates)
    if j < 2:
        _learn(nodes, beside, state[of.BESIDE_CHECK], v2, n2, _SEEN, target, rates)
    else:
        _learn(plain, fast, int64(0), v2, n2, _SEEN_FAST, target, rates)
    state[of.SO_FAR] = 16 * so_far + digit
    return read


@inlined
def _without_candidates(vector, edges, state, at, seen):
    """The distribution of the last digit, but for those that would make a candidate."""
    so_far, expected = state[of.SO_FAR], state[of.EXPECTED]
    candidates = wide.both(wide.load_u32(seen, at), wide.splat(_TOKEN))
    alike = wide.equal(wide.shift_right(candidates, 4), wide.splat(so_far))
    left = wide.bits_of(alike) & state[of.LEFT]
    none = int64(1) << (expected & 15) if expected >> 4 == so_far else int64(0)
    while left:
        none |= int64(1) << (int64(seen[index(at + first_of(left))]) & 15)
        left &= left - 1
    if none == 0:
        return vector
    short.store(edges, 0, vector)
    kept, begin = int64(0), int64(0)
    for k in range(NODE):
        end = int64(edges[index(k + 1)])
        edges[index(k)] = kept
        kept += (end - begin) & -(~(none >> k) & 1)
        begin = end
    factor = (int64(TOTAL) << 16) // kept
    for k in range(NODE):
        edges[index(k)] = min((int64(edges[index(k)]) * factor) >> 16, int64(TOTAL - 1))
    return short.load(edges, 0)


@inlined
def _code_late(
    encoding, digits, j, base, state, at, seen, model, tables, coder, words, number, read
):  # fmt: skip
    """As `_code_digit`, by more contexts."""
    _, plain, _, nodes, edges, masses = model
    targets, rates, weights = tables[:3]
    so_far, row = state[of.SO_FAR], 4 * (min(j, 3) + 1)
    common = (base + so_far) * NODE
    fast = plain.size // 2 + common
    own, beside, third = state[of.OWN], state[of.BESIDE], state[of.THIRD]
    v0, n0 = _direct(plain, common)
    v1, n1 = _found(nodes, own, state[of.OWN_CHECK], v0)
    m1 = _mass(weights, row, n1)
    vector, total = _weighed(v0, int64(_PLAIN_MASS), v1, masses[index(m1)])
    v2, n2 = _found(nodes, beside, state[of.BESIDE_CHECK], vector)
    m2 = _mass(weights, row + 1, n2)
    vector, total = _weighed(vector, total, v2, masses[index(m2)])
    v3, n3 = _found(nodes, third, state[of.THIRD_CHECK], vector)
    m3 = _mass(weights, row + 2, n3)
    vector, total = _weighed(vector, total, v3, masses[index(m3)])
    v4, n4 = _direct(plain, fast)
    m4 = _mass(weights, row + 3, n4)
    vector, total = _weighed(vector, total, v4, masses[index(m4)])
    mixed = vector
    if j == digits - 1:
        vector = _without_candidates(vector, edges, state, at, seen)
    digit = (state[of.TOKEN] >> (4 * (digits - 1 - j))) & 15
    digit, read = _code(encoding, digit, vector, edges, coder, words, number, read)
    short.store(edges, 0, mixed)
    coded = int64(edges[index(digit + 1)]) - int64(edges[index(digit)])
    _learn_mass(masses, m1, _share(nodes, own, digit), coded, total)
    _learn_mass(masses, m2, _share(nodes, beside, digit), coded, total)
    _learn_mass(masses, m3, _share(nodes, third, digit), coded, total)
    _learn_mass(masses, m4, _share(plain, fast, digit), coded, total)
    target = short.load(targets, digit * NODE)
    _learn(plain, common, int64(0), v0, n0, _SEEN_PLAIN, target, rates)
    _learn(nodes, own, state[of.OWN_CHECK], v1, n1, _SEEN, target, rates)
    _learn(nodes, beside, state[of.BESIDE_CHECK], v2, n2, _SEEN, target, rates)
    _learn(nodes, third, state[of.THIRD_CHECK], v3, n3, _SEEN, target, rates)
    _learn(plain, fast, int64(0), v4, n4, _SEEN_FAST, target, rates)
    state[of.SO_FAR] = 16 * so_far + digit
    return read


@inlined
def _ask_for_digit(state, j, bits, nodes, more):
    """Settles which nodes say what digit `j` is."""
    so_far = state[of.SO_FAR]
    _ask(state, of.OWN, (state[of.A] << 20) + so_far, j, bits, nodes)
    if j < 2 or more:
        kind = j + (_BESIDE if j < 2 else _LATE_BESIDE)
        _ask(state, of.BESIDE, (state[of.B] << 20) + so_far, kind, bits, nodes)
    if more:
        _ask(state, of.THIRD, _BEFORE + (state[of.C] << 20) + so_far, j, bits, nodes)


@inlined
def _learn_token(state, place, bits, slots, matches):
    """Slots and matches take in the token that came; settles where its successor's are."""
    token = state[of.TOKEN]
    _learn_slots(state, slots, token)
    entry = ((place + 1) << 32) | (state[of.MATCH_CHECK] << 20) | token
    matches[index(state[of.MATCH])] = uint64(entry)
    right = (state[of.LENGTH] > 0) & (state[of.EXPECTED] == token)
    state[of.LENGTH] = min(state[of.LENGTH] + 1, int64(_LONGEST)) if right else int64(0)
    state[of.SOURCE] += int64(right)
    a, b, c = state[of.A], state[of.B], state[of.C]
    state[of.A], state[of.B], state[of.C] = token, a, b
    second = (((token << 8) + 1) << 20) + a
    third = uint64(second) * uint64(MIX) + uint64(b + 1)
    fourth = third * uint64(MIX) + uint64(c + 1)
    hash1, hash2 = hash_of(token + 1), hash_of(second)
    hash3, hash4 = hash_of(third), hash_of(fourth)
    state[of.SLOT3] = PLACES * top(hash3, bits)
    state[of.SLOT2] = PLACES * (top(hash2, bits) + (int64(1) << bits))
    state[of.SLOT1] = PLACES * (top(hash1, min(bits, ORDER1_BITS)) + (int64(2) << bits))
    state[of.CHECK3] = int64((hash3 >> uint64(20)) & uint64(63))
    state[of.CHECK2] = int64((hash2 >> uint64(20)) & uint64(63))
    state[of.CHECK1] = int64((hash1 >> uint64(20)) & uint64(63))
    state[of.MATCH] = top(hash4, bits)
    state[of.MATCH_CHECK] = int64((hash4 >> uint64(20)) & uint64(0xFFF))
    prefetch(slots, state[of.SLOT3])
    prefetch(slots, state[of.SLOT2])
    prefetch(slots, state[of.SLOT1])
    prefetch(matches, state[of.MATCH])


_SIGNATURE = types.int64(
    types.boolean, types.boolean, W32, types.int64, types.int64, types.int64, I64, W64, W32, W32,
    W64, W16, W16, W16, W16, I64, W32, I64, W16, I64, W16, R8, R8,
)  # fmt: skip


@kernel(_SIGNATURE)
def code_ranks(
    encoding, more, tokens, begin, end, digits, states, coder, words, slots, matches, plain, ranks,
    nodes, edges, masses, seen, missed, targets, rates, weights, levels, nth,
):  # fmt: skip
    """Codes turns `begin` to `end`, whose tokens are below 16^`digits`, or fills these.

    `more`: whether by more contexts.

    Encoding: notes symbols in `words`, and returns how many. Decoding: reads `words`, of which the
    last one stands for all that are missing, by the states of `coder`; returns how many it read, or
    -1 where a rank was of no candidate. `tokens`: of each stream its own, one stream after the
    other. `states`: of each stream, as `ranking.py` makes them. All other arrays are state and
    constants.
    """
    bits = doublings(matches.size, 1)
    node_bits = doublings(nodes.size, NODE)
    streams = states.size // of.FIELDS
    turns = tokens.size // streams
    model = (slots, plain, ranks, nodes, edges, masses)
    tables = (targets, rates, weights, levels, nth)
    number, read, faulty = int64(0), int64(0), False
    for turn in range(begin, end):
        for s in range(streams):
            state = states[s * of.FIELDS : (s + 1) * of.FIELDS]
            _gather(state, 16 * s, seen, tokens, slots, matches, nodes, node_bits, levels, more)
        misses = int64(0)
        for s in range(streams):
            state = states[s * of.FIELDS : (s + 1) * of.FIELDS]
            token = int64(tokens[index(s * turns + turn)])
            rank, token, wrong, read = _code_rank(
                encoding,
                token,
                state,
                16 * s,
                seen,
                model,
                tables,
                coder,
                words,
                number,
                read,
                more,
            )
            number += 1
            faulty |= wrong
            state[of.TOKEN], state[of.SO_FAR] = token, 0
            missed[index(misses)] = s
            if rank == 0:
                misses += 1
                _ask_for_digit(state, int64(0), node_bits, nodes, more)
        base = int64(0)
        for j in range(digits):
            for i in range(misses):
                s = missed[index(i)]
                state = states[s * of.FIELDS : (s + 1) * of.FIELDS]
                if more:
                    read = _code_late(
                        encoding, digits, j, base, state, 16 * s, seen, model, tables, coder, words,
                        number, read,
                    )  # fmt: skip
                else:
                    read = _code_digit(
                        encoding, digits, j, base, state, model, tables, coder, words, number, read
                    )
                number += 1
                if j + 1 < digits:
                    _ask_for_digit(state, j + 1, node_bits, nodes, more)
                else:
                    state[of.TOKEN] = state[of.SO_FAR]
            base = 16 * base + 1
        for s in range(streams):
            state = states[s * of.FIELDS : (s + 1) * of.FIELDS]
            place = s * turns + turn
            tokens[index(place)] = state[of.TOKEN]
            _learn_token(state, place, bits, slots, matches)
    if encoding:
        return number
    return int64(-1) if faulty else read


@kernel(types.int64(W32, types.int64, W64, W32))
def code_backwards(symbols, count, coder, words):
    """Codes symbols as `code_ranks` notes them, the last first, to the end of `words`.

    Returns where they begin. A symbol takes one word at most.
    """
    at = int64(words.size)
    for number in range(count - 1, -1, -1):
        which = index(number & (CODERS - 1))
        begin = uint64(symbols[index(number)]) >> uint64(15)
        share = uint64(symbols[index(number)]) & uint64(TOTAL - 1)
        state = coder[which]
        if state >= share << uint64(48):
            at -= 1
            words[index(at)] = state & uint64(0xFFFFFFFF)
            state >>= uint64(32)
        quotient = state // share
        coder[which] = (quotient << uint64(15)) + (state - quotient * share) + begin
    return at
