"""Loops between elements and the forms in which they stand in files.

Varints: https://protobuf.dev/programming-guides/encoding/; UTF-8: RFC 3629; base64: RFC 4648.
"""

import numpy as np
from numba import types

from densor.codec.notation.layout import BASE64, HEX, LATIN, MAX_ITEM, VARINTS
from densor.entropy.jit import I64, R8, R32, W8, W32, inlined, kernel

_MORE = 0x80  # in a byte of a varint that is not the last one
_LATIN_LEAD, _FOLLOWS = 0xC2, 0x80  # of characters from 128 on
_NONE = 255  # no digit
_ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
_DIGITS = np.frombuffer(_ALPHABET + b"+/" + _ALPHABET + b"-_", np.uint8).copy()
_HEX_DIGITS = np.frombuffer(b"0123456789abcdef0123456789ABCDEF", np.uint8).copy()


def _values(digits, count):
    """The value of each byte as a digit, of one alphabet after the other."""
    found = np.full(512, _NONE, np.uint8)
    for option in range(2):
        for value in range(count):
            found[256 * option + int(digits[count * option + value])] = value
    return found


_VALUES = _values(_DIGITS, 64)
_HEX_VALUES = _values(_HEX_DIGITS, 16)


@inlined
def _extended(value, unit):
    """An integer of `unit` bytes, with its sign, in 64 bits."""
    shift = np.uint64(64 - 8 * unit)
    return np.uint64(np.int64(value << shift) >> np.int64(shift))


@inlined
def _put(value, unit, plain, at):
    for i in range(unit):
        plain[at + i] = np.uint8(value >> np.uint64(8 * i) & np.uint64(255))


@inlined
def _take_varint(data, at, unit, option, plain, n):
    """Bytes of the varint at `at`, less than 0 where it is not as it would be written."""
    value, size = np.uint64(0), 0
    while size < MAX_ITEM and at + size < data.size:
        byte = data[at + size]
        value |= np.uint64(byte & 127) << np.uint64(7 * size)
        size += 1
        if byte < _MORE:
            low = value
            if unit < 8:
                low = value & ((np.uint64(1) << np.uint64(8 * unit)) - np.uint64(1))
            whole = _extended(low, unit) if option else low
            if (byte == 0 and size > 1) or (size == MAX_ITEM and byte > 1) or whole != value:
                return -size
            _put(low, unit, plain, n)
            return size
    return -size


@inlined
def _take_latin(data, at, plain, n):
    byte = data[at]
    if byte < _MORE:
        plain[n] = byte
        return 1
    if (byte == _LATIN_LEAD or byte == _LATIN_LEAD + 1) and at + 1 < data.size:
        follows = data[at + 1]
        if follows >> 6 == 2:
            plain[n] = (byte & 3) << 6 | (follows & 63)
            return 2
    return -1


@inlined
def _take_base64(data, at, option, plain, n):
    if at + 4 > data.size:
        return -1
    bits = 0
    for i in range(4):
        value = _VALUES[256 * option + data[at + i]]
        if value == _NONE:
            return -1
        bits = bits << 6 | int(value)
    for i in range(3):
        plain[n + i] = np.uint8(bits >> (16 - 8 * i) & 255)
    return 4


@inlined
def _take_hex(data, at, option, plain, n):
    if at + 2 > data.size:
        return -1
    high, low = _HEX_VALUES[256 * option + data[at]], _HEX_VALUES[256 * option + data[at + 1]]
    if high == _NONE or low == _NONE:
        return -1
    plain[n] = high << 4 | low
    return 2


@inlined
def _take(data, at, form, unit, option, plain, n):
    if form == VARINTS:
        return _take_varint(data, at, unit, option, plain, n)
    if form == LATIN:
        return _take_latin(data, at, plain, n)
    if form == BASE64:
        return _take_base64(data, at, option, plain, n)
    return _take_hex(data, at, option, plain, n)


@kernel(types.boolean(R8, types.int64, types.int64, types.int64, W8, W32, W8, I64), counted=False)
def undo(data, form, unit, option, plain, runs, literals, found):
    """Takes a stretch apart into elements and bytes that are made of none.

    `plain`: uint8[], room for as many items of `unit` bytes as there may be. `runs`: uint32[2 k],
    of each run the literal bytes before it and its items. `literals`: uint8[n]. `found`: int64[3],
    bytes of elements, runs and literals. False where there are more runs than `runs` has room for.
    """
    n, k, kept = 0, 0, 0
    before, items = 0, 0
    at = 0
    while at < data.size:
        size = _take(data, at, form, unit, option, plain, n)
        if size > 0:
            at += size
            n += unit
            items += 1
            continue
        if items > 0:
            if 2 * k + 2 > runs.size:
                return False
            runs[2 * k], runs[2 * k + 1] = before, items
            k += 1
            before, items = 0, 0
        for _ in range(-size):
            literals[kept] = data[at]
            kept += 1
            at += 1
        before -= size
    if items > 0:
        if 2 * k + 2 > runs.size:
            return False
        runs[2 * k], runs[2 * k + 1] = before, items
        k += 1
    found[0], found[1], found[2] = n, k, kept
    return True


@inlined
def _make(plain, n, form, unit, option, out, at):
    """Writes an item, for which there is room of `MAX_ITEM` bytes; returns its bytes."""
    if form == LATIN:
        byte = plain[n]
        if byte < _MORE:
            out[at] = byte
            return 1
        out[at] = _LATIN_LEAD | byte >> 6 & 1
        out[at + 1] = _FOLLOWS | byte & 63
        return 2
    if form == BASE64:
        bits = int(plain[n]) << 16 | int(plain[n + 1]) << 8 | int(plain[n + 2])
        for i in range(4):
            out[at + i] = _DIGITS[64 * option + (bits >> (18 - 6 * i) & 63)]
        return 4
    if form == HEX:
        out[at] = _HEX_DIGITS[16 * option + (plain[n] >> 4)]
        out[at + 1] = _HEX_DIGITS[16 * option + (plain[n] & 15)]
        return 2
    value = np.uint64(0)
    for i in range(unit):
        value |= np.uint64(plain[n + i]) << np.uint64(8 * i)
    if option:
        value = _extended(value, unit)
    size = 0
    while value >= np.uint64(_MORE):
        out[at + size] = np.uint8(value & np.uint64(127)) | _MORE
        value >>= np.uint64(7)
        size += 1
    out[at + size] = np.uint8(value)
    return size + 1


@kernel(types.int64(R8, types.int64, types.int64, types.int64, R32, R8, W8, W8), counted=False)
def make(plain, form, unit, option, runs, literals, item, out):
    """The inverse. Returns the bytes written, -1 where `out` has no room for all of them.

    `plain` has all items of `runs`, `literals` all bytes before these; what is left of it follows
    the last run. `item`: uint8[MAX_ITEM], work space.
    """
    n, kept, at = 0, 0, 0
    for k in range(runs.size // 2 + 1):
        last = 2 * k == runs.size
        before = literals.size - kept if last else int(runs[2 * k])
        if before > out.size - at:
            return -1
        for i in range(before):
            out[at + i] = literals[kept + i]
        at += before
        kept += before
        for _ in range(0 if last else int(runs[2 * k + 1])):
            if out.size - at >= MAX_ITEM:
                at += _make(plain, n, form, unit, option, out, at)
            else:
                size = _make(plain, n, form, unit, option, item, 0)
                if size > out.size - at:
                    return -1
                for i in range(size):
                    out[at + i] = item[i]
                at += size
            n += unit
    return at
