"""A carry-less binary arithmetic coder, as functions for kernels.

The interval is [low, high], 32 bits each, both ends included; a probability is that of a 1, in
units of 2^-16, from 1 to 65535. Whole bytes that both ends share leave the interval at once (M.
Mahoney, lpaq). The state is int64[5]: low, high, position in the bytes, code (decoder only), and
limit, the end of what may be written or read. See docs/format/arithmetic.md.
"""

import numba

_MASK = 0xFFFFFFFF
_TOP = 0xFF000000


@numba.njit(inline="always")
def split(low, high, p):
    """The last value of the lower part of the interval, which a 1 takes."""
    width = high - low
    return low + (width >> 16) * p + (((width & 0xFFFF) * p) >> 16)


@numba.njit
def start_encoder(state, at, limit):
    """Sets the state of an encoder that writes from `at`, below `limit`."""
    state[0] = 0
    state[1] = 0xFFFFFFFF
    state[2] = at
    state[3] = 0
    state[4] = limit


@numba.njit
def start_decoder(state, data, at, limit):
    """Sets the state of a decoder that reads from `at`, below `limit`, and zeros from there on."""
    state[0] = 0
    state[1] = 0xFFFFFFFF
    state[2] = at
    state[3] = 0
    state[4] = limit
    for _ in range(4):
        state[3] = (state[3] << 8) | _next_byte(state, data)


@numba.njit(inline="always")
def _next_byte(state, data):
    at = state[2]
    state[2] = at + 1
    if at < state[4]:
        return numba.int64(data[at])
    return numba.int64(0)


@numba.njit(inline="always")
def encode_bit(state, out, bit, p):
    """Codes a bit that is 1 with probability `p`. Bytes from the limit on are counted, not kept."""
    low = state[0]
    high = state[1]
    middle = split(low, high, p)
    if bit:
        high = middle
    else:
        low = middle + 1
    while ((low ^ high) & _TOP) == 0:
        if state[2] < state[4]:
            out[state[2]] = high >> 24
        state[2] += 1
        low = (low << 8) & _MASK
        high = ((high << 8) & _MASK) | 255
    state[0] = low
    state[1] = high


@numba.njit(inline="always")
def decode_bit(state, data, p):
    """The next bit, which is 1 with probability `p`."""
    low = state[0]
    high = state[1]
    middle = split(low, high, p)
    bit = 0
    if state[3] <= middle:
        bit = 1
        high = middle
    else:
        low = middle + 1
    while ((low ^ high) & _TOP) == 0:
        low = (low << 8) & _MASK
        high = ((high << 8) & _MASK) | 255
        state[3] = ((state[3] << 8) & _MASK) | _next_byte(state, data)
    state[0] = low
    state[1] = high
    return bit


@numba.njit
def flush(state, out):
    """Ends a stream: the decoder reads exactly as many bytes as were written."""
    for shift in (24, 16, 8, 0):
        if state[2] < state[4]:
            out[state[2]] = (state[0] >> shift) & 255
        state[2] += 1
