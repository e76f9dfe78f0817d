"""Loops over the frames of FLAC (RFC 9639): to samples and what else frames say, and back.

Beside samples, a frame is settled by its header, by the predictor of each subframe and by its Rice
parameters. These go to three arrays, in the order of the file; see section 10 of
docs/format/audio.md. Reading checks every position; `flac.py` proves the bounds of what is written.
"""

from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt
from numba import types

from densor.entropy.intrinsics import leading_zeros, load_u64
from densor.entropy.jit import I64, R8, W8, index, inlined, kernel

int64 = numba.int64

MOST_BLOCK = 1 << 16  # samples of a frame
PADDING = 16  # bytes behind a stream that is read
HEADS, PARAMETERS, WEIGHTS, INSTANTS = range(4)  # cursors
_SAME, _NEXT = 1, 2  # flags: the header is as before, the number is the next one
_LEFT, _RIGHT, _MIDDLE = 8, 9, 10  # channels: left and side, side and right, middle and side
_CONSTANT, _VERBATIM, _FIXED, _LINEAR = 0, 1, 8, 32  # types of subframes
_ORDERS = 32
_ESCAPES = 15, 31  # parameters of partitions that are not coded
NUMBER_BYTES = 5
_SPARE = np.uint64(255)

_PLANES = types.int32[:, ::1]
_I16 = types.int16[::1]
_R16 = types.Array(types.int16, 1, "C", readonly=True)
_CRC16 = types.Array(types.uint16, 1, "C", readonly=True)


class Work(NamedTuple):
    """Work space of both kernels, zeros."""

    head: npt.NDArray[np.uint8]  # uint8[8]
    before: npt.NDArray[np.uint8]  # uint8[8]
    weights: npt.NDArray[np.int64]  # int64[32]
    kept: npt.NDArray[np.int64]  # int64[4]
    place: npt.NDArray[np.int64]  # int64[3]


_WORK = types.NamedTuple((W8, W8, I64, I64, I64), Work)


@inlined
def _peek(data, at):
    """64 bits from bit `at` on, of which the last seven may be 0; the highest comes first."""
    x = load_u64(data, at >> 3)
    low, high = np.uint64(0x00FF00FF00FF00FF), np.uint64(0x0000FFFF0000FFFF)
    x = ((x & low) << np.uint64(8)) | ((x >> np.uint64(8)) & low)
    x = ((x & high) << np.uint64(16)) | ((x >> np.uint64(16)) & high)
    x = (x << np.uint64(32)) | (x >> np.uint64(32))
    return x << np.uint64(at & 7)


@inlined
def _bits(data, at, count):
    """`count` bits, up to 57."""
    return int64((_peek(data, at) >> np.uint64(1)) >> np.uint64(63 - count))


@inlined
def _signed(value, bits):
    spare = 64 - bits
    return (value << spare) >> spare


@inlined
def _unary(data, at, end):
    """How many zeros come before a one, and the position behind that, beyond `end` if too far."""
    zeros = int64(0)
    while at < end:
        x = _peek(data, at) & ~_SPARE
        if x:
            found = int64(leading_zeros(x))
            return zeros + found, at + found + 1
        zeros += 56
        at += 56
    return zeros, end + 1


@inlined
def _block_of(head, more):
    """Samples of a block by the header; 0 for none. `head`: uint8[8]; `more`: where more begins."""
    code = int64(head[2]) >> 4
    if code == 1:
        return int64(192)
    if 2 <= code <= 5:
        return int64(576) << (code - 2)
    if code == 6:
        return int64(head[more]) + 1
    if code == 7:
        return (int64(head[more]) << 8 | int64(head[more + 1])) + 1
    return int64(256) << (code - 8) if code >= 8 else int64(0)


@inlined
def _more_of(head):
    """Bytes of the header behind the number: of the block's size, and of the rate."""
    size, rate = int64(head[2]) >> 4, int64(head[2]) & 15
    more = int64(1) if size == 6 else (int64(2) if size == 7 else int64(0))
    if rate == 12:
        return more + 1
    return more + 2 if rate in (13, 14) else more


@inlined
def _depth_of(head):
    """Bits of a sample by the header; 0 for none."""
    code = (int64(head[3]) >> 1) & 7
    if code == 1:
        return int64(8)
    if code == 2:
        return int64(12)
    return int64(4 * code) if 4 <= code <= 6 else int64(0)


@inlined
def _good_head(head, channels, depth):
    """Whether a header is one of such a stream."""
    if head[0] != 0xFF or head[1] & 0xFE != 0xF8 or head[3] & 1 or _depth_of(head) != depth:
        return False
    if int64(head[2]) & 15 == 15 or int64(head[2]) >> 4 == 0:
        return False
    kind = int64(head[3]) >> 4
    return kind + 1 == channels if kind < 8 else kind <= _MIDDLE and channels == 2


@inlined
def _wider(kind, c):
    """Whether a channel is a difference, of one bit more."""
    return int64((kind == _RIGHT and c == 0) or (kind in (_LEFT, _MIDDLE) and c == 1))


@inlined
def _fixed(order, i):
    """Weight i of the fixed predictor of an order up to 4."""
    if order == 1:
        return int64(1)
    if order == 2:
        return int64(2) if i == 0 else int64(-1)
    if order == 3:
        return int64(3) if i == 0 else (int64(-3) if i == 1 else int64(1))
    return int64(4) if i == 0 else (int64(-6) if i == 1 else (int64(4) if i == 2 else int64(-1)))


@inlined
def _predicted(block, t, weights, order, shift):
    total = int64(0)
    for i in range(order):
        total += weights[index(i)] * block[index(t - 1 - i)]
    return total >> shift


@inlined
def _take_number(data, at):
    """The number of a frame, coded like a character of UTF-8, and its bytes; -1 for none."""
    first = int64(data[at])
    if first < 128:
        return first, int64(1)
    size = int64(leading_zeros(np.uint64((~first & 255) << 56) | np.uint64(1)))
    if not 2 <= size <= 7:
        return int64(-1), int64(0)
    value = first & ((1 << (7 - size)) - 1) if size < 7 else int64(0)
    for i in range(1, size):
        value = value << 6 | (int64(data[at + i]) & 63)
    return value, size


@inlined
def _take_head(data, at, head):
    """Reads a header into `head`, without its number; returns that, and where the header ends."""
    for i in range(4):
        head[i] = data[at + i]
    number, size = _take_number(data, at + 4)
    more = _more_of(head)
    for i in range(4):
        head[4 + i] = data[at + 4 + size + i] if i < more else np.uint8(0)
    return number, at + 4 + size + more + 1


@inlined
def _take_residual(data, at, end, block, n, order, weights, shift, store, params, cursors):
    """Reads what prediction leaves, and adds the predictions; returns the position, or -1."""
    method = _bits(data, at, 2)
    log = _bits(data, at + 2, 4)
    at += 6
    part = n >> log
    if method > 1 or part << log != n or part < order:
        return int64(-1)
    width = 4 + method
    escape = int64(_ESCAPES[0]) if method == 0 else int64(_ESCAPES[1])
    t = order
    for p in range(int64(1) << log):
        k = _bits(data, at, width)
        at += width
        raw = int64(-1)
        if k == escape:
            raw = _bits(data, at, 5)
            at += 5
        if store:
            params[index(cursors[PARAMETERS])] = np.uint8(k if raw < 0 else 32 + raw)
        cursors[PARAMETERS] += 1
        for t in range(max(order, p * part), (p + 1) * part):
            if raw >= 0:
                error = _signed(_bits(data, at, raw), raw) if raw else int64(0)
                at += raw
            else:
                high, at = _unary(data, at, end)
                if at > end:
                    return int64(-1)
                folded = high << k | _bits(data, at, k)
                at += k
                error = (folded >> 1) ^ -(folded & 1)
            if at > end:
                return int64(-1)
            block[index(t)] = _predicted(block, t, weights, order, shift) + error
    return at


@inlined
def _take_subframe(data, at, end, n, bits, block, weights, store, heads, params, coefs, cursors):
    """Reads the samples of a subframe; returns the position, or -1."""
    first = _bits(data, at, 8)
    at += 8
    kind, wasted = first >> 1, int64(0)
    if first >= 128:
        return int64(-1)
    here = cursors[HEADS]
    if store:
        heads[index(here)] = np.uint8(first)
    here += 1
    if first & 1:
        wasted, at = _unary(data, at, end)
        wasted += 1
        if wasted >= bits or at > end:
            return int64(-1)
        if store:
            heads[index(here)] = np.uint8(wasted)
        here += 1
        bits -= wasted
    order, shift = int64(0), int64(0)
    if kind == _CONSTANT:
        value = _signed(_bits(data, at, bits), bits)
        at += bits
        for t in range(n):
            block[t] = value
    elif kind == _VERBATIM:
        if at + n * bits > end:
            return int64(-1)
        for t in range(n):
            block[t] = _signed(_bits(data, at, bits), bits)
            at += bits
    else:
        if _FIXED <= kind <= _FIXED + 4:
            order = kind - _FIXED
        elif kind >= _LINEAR:
            order = kind - _LINEAR + 1
        else:
            return int64(-1)
        if order > n or at + order * bits > end:
            return int64(-1)
        for t in range(order):
            block[t] = _signed(_bits(data, at, bits), bits)
            at += bits
        if kind >= _LINEAR:
            precision, shift = _bits(data, at, 4) + 1, _bits(data, at + 4, 5)
            at += 9
            if precision > 15 or shift > 15 or at + order * precision > end:
                return int64(-1)
            if store:
                heads[index(here)] = np.uint8(precision)
                heads[index(here + 1)] = np.uint8(shift)
            here += 2
            for i in range(order):
                weights[i] = _signed(_bits(data, at, precision), precision)
                at += precision
                if store:
                    coefs[index(cursors[WEIGHTS])] = np.int16(weights[i])
                cursors[WEIGHTS] += 1
        else:
            for i in range(order):
                weights[i] = _fixed(order, i)
        if store:
            heads[index(here)] = np.uint8(_bits(data, at, 6))
        here += 1
        at = _take_residual(
            *(data, at, end, block, n, order, weights, shift, store, params, cursors)
        )
        if at < 0:
            return int64(-1)
    cursors[HEADS] = here
    if wasted:
        for t in range(n):
            block[t] <<= wasted
    return at if at <= end else int64(-1)


@inlined
def _store_channels(kind, n, depth, blocks, planes, at):
    """Sets samples from subframes; False where one does not fit."""
    channels = planes.shape[0]
    most = int64(1) << (depth - 1)
    good = True
    for t in range(n):
        a = blocks[0, t]
        if kind >= _LEFT:
            b = blocks[1, t]
            if kind == _LEFT:
                b = a - b
            elif kind == _RIGHT:
                a = a + b
            else:
                a = a << 1 | (b & 1)
                a, b = (a + b) >> 1, (a - b) >> 1
            good &= -most <= b < most
            planes[1, at + t] = np.int32(b)
        good &= -most <= a < most
        planes[0, at + t] = np.int32(a)
    if kind < _LEFT:
        for c in range(1, channels):
            for t in range(n):
                planes[c, at + t] = np.int32(blocks[c, t])
                good &= -most <= blocks[c, t] < most
    return good


@kernel(
    types.int64(
        *(R8, types.int64, types.int64, types.boolean, _PLANES, types.int64[:, ::1]),
        *(W8, W8, _I16, I64, _WORK),
    )
)
def take_frames(data, size, depth, store, planes, blocks, heads, params, coefs, cursors, work):
    """Reads frames from the first byte on; returns where those end that can be read.

    `data`: with `PADDING` bytes behind its `size`. If not `store`, `cursors`, int64[4], zeros, are
    set to how much there is, and no array is written but `blocks`, int64[channels, MOST_BLOCK].
    """
    channels = blocks.shape[0]
    head, before, weights, kept = work.head, work.before, work.weights, work.kept
    last, step = int64(-1), int64(1)
    at = int64(0)
    end = 8 * size
    kept[:] = cursors
    while at + 6 < size:
        number, place = _take_head(data, at, head)
        n = _block_of(head, 4)
        if number < 0 or n == 0 or place > size or not _good_head(head, channels, depth):
            break
        same = at > 0
        for i in range(8):
            same = same and head[i] == before[i]
            before[i] = head[i]
        here = cursors[HEADS]
        flags = int64(_SAME if same else 0) | int64(_NEXT if number == last + step else 0)
        if store:
            heads[index(here)] = np.uint8(flags)
        here += 1
        if not same:
            for i in range(4 + _more_of(head)):
                if store:
                    heads[index(here + i)] = head[i]
            here += 4 + _more_of(head)
        if not flags & _NEXT:
            for i in range(NUMBER_BYTES):
                if store:
                    heads[index(here + i)] = np.uint8((number >> (8 * i)) & 255)
            here += NUMBER_BYTES
        cursors[HEADS] = here
        kind = int64(head[3]) >> 4
        bit = 8 * place
        for c in range(channels):
            bits = depth + _wider(kind, c)
            bit = _take_subframe(
                *(data, bit, end, n, bits, blocks[c], weights, store, heads, params, coefs),
                cursors,
            )
            if bit < 0:
                break
        if bit < 0 or ((bit + 7) >> 3) + 2 > size:
            break
        if store and not _store_channels(kind, n, depth, blocks, planes, cursors[INSTANTS]):
            break
        cursors[INSTANTS] += n
        last, step = number, int64(1) if head[1] & 1 == 0 else n
        at = ((bit + 7) >> 3) + 2
        kept[:] = cursors
    cursors[:] = kept
    return at


@inlined
def _put(out, place, value, count):
    """Appends up to 32 bits. `place`: int64[3]: the next byte, bits that wait, how many those are.

    Counts on beyond the end.
    """
    mask = (int64(1) << count) - 1
    place[1] = place[1] << count | (value & mask)
    place[2] += count
    while place[2] >= 8:
        place[2] -= 8
        if place[0] < out.size:
            out[index(place[0])] = np.uint8((place[1] >> place[2]) & 255)
        place[0] += 1
    place[1] &= 255


@inlined
def _put_zeros(out, place, count):
    """Appends zeros; False where there is no room."""
    if place[0] + (count >> 3) > out.size:
        return False
    while count > 32:
        _put(out, place, int64(0), int64(32))
        count -= 32
    _put(out, place, int64(0), count)
    return True


@inlined
def _put_residual(out, place, method, log, block, n, order, weights, shift, params, cursors):
    """Appends what prediction leaves; False where that cannot be."""
    part = n >> log
    if part << log != n or part < order:
        return False
    width = 4 + method
    escape = int64(_ESCAPES[0]) if method == 0 else int64(_ESCAPES[1])
    _put(out, place, method << 4 | log, int64(6))
    for p in range(int64(1) << log):
        if cursors[PARAMETERS] >= params.size:
            return False
        k = int64(params[index(cursors[PARAMETERS])])
        cursors[PARAMETERS] += 1
        raw = k - 32
        if raw > 31 or (raw < 0 and k >= escape):
            return False
        _put(out, place, k if raw < 0 else escape, width)
        if raw >= 0:
            _put(out, place, raw, int64(5))
        for t in range(max(order, p * part), (p + 1) * part):
            error = block[index(t)] - _predicted(block, t, weights, order, shift)
            if raw >= 0:
                _put(out, place, error, raw)
                continue
            folded = (error << 1) ^ (error >> 63)
            if folded < 0 or not _put_zeros(out, place, folded >> k):
                return False
            _put(out, place, folded | (int64(1) << k), k + 1)
    return True


@inlined
def _put_subframe(out, place, n, bits, block, weights, heads, params, coefs, cursors):
    """Appends a subframe; False where that cannot be."""
    here = cursors[HEADS]
    if here + 5 > heads.size:
        return False
    first = int64(heads[index(here)])
    here += 1
    kind, wasted = first >> 1, int64(0)
    _put(out, place, first, int64(8))
    if first & 1:
        wasted = int64(heads[index(here)])
        here += 1
        if not 1 <= wasted < bits:
            return False
        _put(out, place, int64(1), wasted)
        bits -= wasted
        for t in range(n):
            block[t] >>= wasted
    order, shift = int64(0), int64(0)
    if kind == _CONSTANT:
        _put(out, place, block[0], bits)
    elif kind == _VERBATIM:
        if place[0] + ((n * bits) >> 3) > out.size:
            return False
        for t in range(n):
            _put(out, place, block[t], bits)
    else:
        if _FIXED <= kind <= _FIXED + 4:
            order = kind - _FIXED
        elif _LINEAR <= kind < _LINEAR + _ORDERS:
            order = kind - _LINEAR + 1
        else:
            return False
        if order > n:
            return False
        for t in range(order):
            _put(out, place, block[t], bits)
        if kind >= _LINEAR:
            precision, shift = int64(heads[index(here)]), int64(heads[index(here + 1)])
            here += 2
            if not 1 <= precision <= 15 or shift > 15 or cursors[WEIGHTS] + order > coefs.size:
                return False
            _put(out, place, precision - 1, int64(4))
            _put(out, place, shift, int64(5))
            for i in range(order):
                weights[i] = int64(coefs[index(cursors[WEIGHTS] + i)])
                _put(out, place, weights[i], precision)
            cursors[WEIGHTS] += order
        else:
            for i in range(order):
                weights[i] = _fixed(order, i)
        way = int64(heads[index(here)])
        here += 1
        if way >> 4 > 1 or not _put_residual(
            *(out, place, way >> 4, way & 15, block, n, order, weights, shift, params, cursors)
        ):
            return False
    cursors[HEADS] = here
    return place[0] <= out.size


@inlined
def _load_channel(kind, n, planes, at, c, block):
    """Sets the samples of a subframe."""
    for t in range(n):
        if kind < _LEFT:
            block[t] = int64(planes[c, at + t])
            continue
        a, b = int64(planes[0, at + t]), int64(planes[1, at + t])
        if _wider(kind, c):
            block[t] = a - b
        elif kind == _MIDDLE:
            block[t] = (a + b) >> 1
        else:
            block[t] = a if kind == _LEFT else b


@inlined
def _put_number(out, place, number):
    """Appends the number of a frame; False for one of more than 36 bits."""
    if number < 0 or number >> 36:
        return False
    if number < 128:
        _put(out, place, number, int64(8))
        return True
    size = int64(2)
    while size < 7 and number >> (5 * size + 1):
        size += 1
    _put(out, place, (int64(0xFF00) >> size) & 255 | number >> (6 * (size - 1)), int64(8))
    for i in range(size - 2, -1, -1):
        _put(out, place, 128 | ((number >> (6 * i)) & 63), int64(8))
    return True


@kernel(
    types.int64(
        *(_PLANES, types.int64, types.int64[::1], R8, R8, _R16, R8, _CRC16),
        *(I64, _WORK, W8),
    )
)
def put_frames(planes, depth, block, heads, params, coefs, crc8, crc16, cursors, work, out):
    """Writes frames until all instants are in some; returns the bytes, or -1 where that cannot be.

    `block`: int64[MOST_BLOCK], work space; `crc8`, `crc16`: tables; `cursors`: int64[4], zeros.
    """
    channels, count = planes.shape
    head, weights, place = work.head, work.weights, work.place
    last, step = int64(-1), int64(1)
    first = True
    while cursors[INSTANTS] < count:
        begin, here = place[0], cursors[HEADS]
        if here >= heads.size:
            return int64(-1)
        flags = int64(heads[index(here)])
        here += 1
        if flags > 3 or (first and flags & _SAME):
            return int64(-1)
        if not flags & _SAME:
            if here + 8 > heads.size:
                return int64(-1)
            head[:] = 0
            for i in range(4):
                head[i] = heads[index(here + i)]
            more = _more_of(head)
            for i in range(more):
                head[4 + i] = heads[index(here + 4 + i)]
            here += 4 + more
        number = last + step
        if not flags & _NEXT:
            if here + NUMBER_BYTES > heads.size:
                return int64(-1)
            number = int64(0)
            for i in range(NUMBER_BYTES):
                number |= int64(heads[index(here + i)]) << (8 * i)
            here += NUMBER_BYTES
        cursors[HEADS] = here
        n = _block_of(head, 4)
        if n == 0 or n > count - cursors[INSTANTS] or not _good_head(head, channels, depth):
            return int64(-1)
        for i in range(4):
            _put(out, place, int64(head[i]), int64(8))
        if not _put_number(out, place, number):
            return int64(-1)
        for i in range(_more_of(head)):
            _put(out, place, int64(head[4 + i]), int64(8))
        if place[0] >= out.size:
            return int64(-1)
        check = int64(0)
        for i in range(begin, place[0]):
            check = int64(crc8[index(check ^ int64(out[index(i)]))])
        _put(out, place, check, int64(8))
        kind = int64(head[3]) >> 4
        for c in range(channels):
            _load_channel(kind, n, planes, cursors[INSTANTS], c, block)
            bits = depth + _wider(kind, c)
            if not _put_subframe(
                *(out, place, n, bits, block, weights, heads, params, coefs, cursors)
            ):
                return int64(-1)
        if place[2]:
            _put(out, place, int64(0), 8 - place[2])
        if place[0] + 2 > out.size:
            return int64(-1)
        check = int64(0)
        for i in range(begin, place[0]):
            byte = (check >> 8) ^ int64(out[index(i)])
            check = ((check << 8) & 0xFFFF) ^ int64(crc16[index(byte)])
        _put(out, place, check, int64(16))
        cursors[INSTANTS] += n
        last, step = number, int64(1) if head[1] & 1 == 0 else n
        first = False
    return place[0]
