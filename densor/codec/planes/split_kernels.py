"""Elements to byte planes and back: arrays in, arrays out; no allocation, no validation.

Each layout rearranges the bits of an element to a word whose bytes, top first, are the planes. The
kernels of all layouts are made of one body each, for a size in bytes and an arrangement.

Split kernels: `data`, uint8[n * size], elements in memory order; `planes`, uint8[planes * n].

Merge kernels: run `r` of plane `p` lies at `where[p, r]` in `payload` if `stored[p]`, else in
`scratch`; all runs have `run` elements but the last, which has the rest of `out`, uint8[n * size].
"""

import numpy as np
from numba import types

from densor.codec.planes.arrangements import ARRANGED, EXPONENT_FIRST, PLAIN, WIDE_EXPONENT
from densor.entropy.intrinsics import (
    copy_bytes,
    load_u16,
    load_u32,
    load_u64,
    store_u16,
    store_u32,
    store_u64,
)
from densor.entropy.jit import R8, W8, Kernel, inlined, kernel

_FP64_FRACTION = np.uint64((1 << 45) - 1)
_FP64_BIAS = np.uint64(896)  # of FP64 less that of FP32


@inlined
def _plane(v, size, arrangement, p):
    """Byte `p` from the top of the word of an element's bits `v`, uint64."""
    if arrangement == EXPONENT_FIRST:  # of 8 bits, then the sign, then the mantissa
        if p == 0:
            return np.uint8((v >> np.uint64(8 * size - 9)) & np.uint64(255))
        if p == 1:
            sign = (v >> np.uint64(8 * size - 8)) & np.uint64(128)
            return np.uint8(sign | (v >> np.uint64(8 * size - 16)) & np.uint64(127))
    elif arrangement == WIDE_EXPONENT:
        exponent = ((v >> np.uint64(52)) - _FP64_BIAS) & np.uint64(2047)
        v = (
            (exponent & np.uint64(255)) << np.uint64(56)
            | (v >> np.uint64(63)) << np.uint64(55)
            | ((v >> np.uint64(45)) & np.uint64(127)) << np.uint64(48)
            | (exponent >> np.uint64(8)) << np.uint64(45)  # its upper 3 bits
            | (v & _FP64_FRACTION)
        )
    return np.uint8((v >> np.uint64(8 * (size - 1 - p))) & np.uint64(255))


@inlined
def _restore(w, size, arrangement):
    """An element's bits from its word."""
    if arrangement == PLAIN:
        return w
    if arrangement == EXPONENT_FIRST:
        sign = np.uint64(1 << (8 * size - 9))
        exponent = np.uint64(255 << (8 * size - 9))
        low = np.uint64((1 << (8 * size - 9)) - 1)
        return (w & sign) << np.uint64(8) | (w >> np.uint64(1)) & exponent | w & low
    exponent = (w >> np.uint64(56)) | ((w >> np.uint64(45)) & np.uint64(7)) << np.uint64(8)
    exponent = (exponent + _FP64_BIAS) & np.uint64(2047)
    return (
        ((w >> np.uint64(55)) & np.uint64(1)) << np.uint64(63)
        | exponent << np.uint64(52)
        | ((w >> np.uint64(48)) & np.uint64(127)) << np.uint64(45)
        | (w & _FP64_FRACTION)
    )


@inlined
def load(data, i, size):
    """Element `i` of `size` bytes, as uint64."""
    if size == 1:
        return np.uint64(data[i])
    if size == 2:
        return np.uint64(load_u16(data, 2 * i))
    if size == 4:
        return np.uint64(load_u32(data, 4 * i))
    return np.uint64(load_u64(data, 8 * i))


@inlined
def store(data, i, size, v):
    """Undoes `load`."""
    if size == 1:
        data[i] = np.uint8(v)
    elif size == 2:
        store_u16(data, 2 * i, np.uint16(v))
    elif size == 4:
        store_u32(data, 4 * i, np.uint32(v))
    else:
        store_u64(data, 8 * i, v)


@inlined
def _source(payload, scratch, stored):
    if stored:
        return payload
    return scratch


def split_kernel(size: int, arrangement: int) -> Kernel:
    """The split kernel of elements of `size` bytes: 1, 2, 4, or 8."""
    # Closures over numbers only: those over compiled functions are not found in the cache again.

    def split(data, planes):
        n = planes.size // size
        if size == 1:
            copy_bytes(planes, 0, data, 0, n)
        elif size == 2:
            p0, p1 = planes[:n], planes[n:]
            for i in range(n):
                v = load(data, i, size)
                p0[i] = _plane(v, size, arrangement, 0)
                p1[i] = _plane(v, size, arrangement, 1)
        elif size == 4:
            p0, p1, p2, p3 = planes[:n], planes[n : 2 * n], planes[2 * n : 3 * n], planes[3 * n :]
            for i in range(n):
                v = load(data, i, size)
                p0[i] = _plane(v, size, arrangement, 0)
                p1[i] = _plane(v, size, arrangement, 1)
                p2[i] = _plane(v, size, arrangement, 2)
                p3[i] = _plane(v, size, arrangement, 3)
        else:
            for p in range(8):
                plane = planes[p * n : (p + 1) * n]
                for i in range(n):
                    plane[i] = _plane(load(data, i, size), size, arrangement, p)

    return kernel(types.void(R8, W8), name=f"split_{size}_{arrangement}")(split)


@inlined
def _pair(high, low):
    """Two bytes as one number."""
    return np.uint64(high) << np.uint64(8) | np.uint64(low)


def merge_kernel(size: int, arrangement: int) -> Kernel:
    """The merge kernel of elements of `size` bytes: 1, 2, 4, or 8."""

    def merge(payload, scratch, where, stored, run, out):
        n = out.size // size
        for r in range(where.shape[1]):
            begin = r * run
            m = min(run, n - begin)
            target = out[size * begin : size * (begin + m)]
            p0 = _source(payload, scratch, stored[0])[where[0, r] : where[0, r] + m]
            if size == 1:
                copy_bytes(target, 0, p0, 0, m)
                continue
            p1 = _source(payload, scratch, stored[1])[where[1, r] : where[1, r] + m]
            if size == 2:
                for i in range(m):
                    store(target, i, size, _restore(_pair(p0[i], p1[i]), size, arrangement))
                continue
            p2 = _source(payload, scratch, stored[2])[where[2, r] : where[2, r] + m]
            p3 = _source(payload, scratch, stored[3])[where[3, r] : where[3, r] + m]
            if size == 4:
                for i in range(m):
                    word = _pair(p0[i], p1[i]) << np.uint64(16) | _pair(p2[i], p3[i])
                    store(target, i, size, _restore(word, size, arrangement))
                continue
            p4 = _source(payload, scratch, stored[4])[where[4, r] : where[4, r] + m]
            p5 = _source(payload, scratch, stored[5])[where[5, r] : where[5, r] + m]
            p6 = _source(payload, scratch, stored[6])[where[6, r] : where[6, r] + m]
            p7 = _source(payload, scratch, stored[7])[where[7, r] : where[7, r] + m]
            for i in range(m):
                high = _pair(p0[i], p1[i]) << np.uint64(16) | _pair(p2[i], p3[i])
                low = _pair(p4[i], p5[i]) << np.uint64(16) | _pair(p6[i], p7[i])
                word = high << np.uint64(32) | low
                store(target, i, size, _restore(word, size, arrangement))

    signature = types.void(R8, R8, types.int64[:, ::1], R8, types.int64, W8)
    return kernel(signature, counted=False, name=f"merge_{size}_{arrangement}")(merge)


for _size, _arrangement in ARRANGED:
    split_kernel(_size, _arrangement)
    merge_kernel(_size, _arrangement)
