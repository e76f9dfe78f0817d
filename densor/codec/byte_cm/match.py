"""The match model: what followed the latest place with the same last bytes."""

import numba

from densor.codec.byte_cm.contexts import LAST, mix
from densor.codec.byte_cm.counters import pair
from densor.entropy.intrinsics import prefetch
from densor.entropy.jit import index, inlined

int64 = numba.int64

(
    POINTER,  # the byte that is expected
    LENGTH,  # equal bytes before it, 0 without a match
    BYTE,
    BUCKET,  # of the length, below BUCKETS
    LONG,  # hash of the last six bytes
    SHORT,  # of the last four
    MATCH,
) = range(7)
BUCKETS = 32
_MIN_LONG, _MIN_SHORT = 6, 4  # bytes that a match of either kind has at least
_MAX_LENGTH = 65535
_MAX_COMPARED = 400


@inlined
def _common(data, a, b):
    """How many bytes before `a` and `b` are equal."""
    length = int64(0)
    while (
        length < _MAX_COMPARED
        and a - length > 0
        and data[index(a - length - 1)] == data[index(b - length - 1)]
    ):
        length += 1
    return length


@inlined
def _bucket(length):
    if length < 16:
        return length
    if length < 32:
        return 16 + ((length - 16) >> 2)
    return min(20 + ((length - 32) >> 5), int64(BUCKETS - 1))


@inlined
def prefetch_match(match, text, long_places, short_places):
    """Notes the hashes of the last bytes, and prefetches the entries of the tables under them."""
    match[LONG] = mix(text[LAST] & 0xFFFFFFFFFFFF, 1)
    match[SHORT] = mix(text[LAST] & 0xFFFFFFFF, 2)
    prefetch(long_places, match[LONG] & (long_places.size - 1))
    prefetch(short_places, match[SHORT] & (short_places.size - 1))


@inlined
def _place_of(places, h):
    """The position noted under a hash; 0 if there is none, or its check is of other bytes."""
    entry = int64(places[index(h & (places.size - 1))])
    return entry >> 8 if entry & 255 == (h >> 32) & 255 else int64(0)


@inlined
def _note(places, h, at):
    places[index(h & (places.size - 1))] = at << 8 | (h >> 32) & 255


@inlined
def find_match(match, long_places, short_places, data, at):
    """Goes on with the match, or looks for one; then notes that the last bytes end before `at`."""
    if match[LENGTH] > 0:
        match[LENGTH] = min(match[LENGTH] + 1, int64(_MAX_LENGTH))
        match[POINTER] += 1
    else:
        place = _place_of(long_places, match[LONG])
        length = _common(data, place, at)
        if length < _MIN_LONG:
            place = _place_of(short_places, match[SHORT])
            length = _common(data, place, at)
        match[POINTER] = place
        match[LENGTH] = length if length >= _MIN_SHORT else int64(0)
    _note(long_places, match[LONG], at)
    _note(short_places, match[SHORT], at)
    if match[LENGTH]:
        match[BYTE] = int64(data[index(match[POINTER])])
        match[BUCKET] = _bucket(match[LENGTH])


@inlined
def expected(match):
    """The byte that is expected and the bucket of the length, as one number; 0 without a match."""
    if match[LENGTH]:
        return (match[BYTE] | 256) << 5 | match[BUCKET]
    return int64(0)


@inlined
def expected_bit(match, place):
    """Bit number `place`, from the highest, of the byte that is expected."""
    return (match[BYTE] >> (7 - place)) & 1


@inlined
def match_inputs(match, counters, place, stretch):
    """Two inputs from how often matches of this length were right."""
    if match[LENGTH]:
        p = int64(counters[index(match[BUCKET])]) >> 20
        sign = 2 * expected_bit(match, place) - 1
        return pair(sign * int64(stretch[index(p)]), sign * ((p - 2048) >> 1))
    return int64(0)
