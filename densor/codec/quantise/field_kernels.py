"""The fields of GGUF's blocks of 256 weights, put together from codes that are a byte each.

`codes`, uint8[`SUPER_CODES`]: quanta of four blocks, then scales of groups, minima, and numbers as
FP16. `k`: which of the four a block is.
"""

import numpy as np

from densor.codec.quantise.forms import SUPER_BLOCK, SUPER_CODES
from densor.entropy import intrinsics, vectors
from densor.entropy.jit import inlined

AT_ONCE = 4  # blocks
WEIGHTS = AT_ONCE * SUPER_BLOCK
CODES = WEIGHTS  # of scales, behind those of weights; of minima
MORE_CODES = CODES + 80
HALVES = MORE_CODES + 80
_4 = np.uint64(4)
# Of each byte of a word:
_NIBBLES = np.uint64(0x0F0F0F0F0F0F0F0F)
_PAIRS = np.uint64(0x0303030303030303)
_HIGH_PAIRS = np.uint64(0x3030303030303030)
_TOP_PAIRS = np.uint64(0xC0C0C0C0C0C0C0C0)
_MIDDLE = np.uint64(0x2020202020202020)
_WORD = np.uint64(0xFFFFFFFF)
assert SUPER_CODES == HALVES + 32


@inlined
def copy_number(codes, lane, out, at):
    intrinsics.store_u16(out, at, intrinsics.load_u16(codes, HALVES + 2 * lane))


@inlined
def _field(codes, at, shift, mask, to):
    """Bits of 16 codes, at another place."""
    field = vectors.shift_right(vectors.load_u8(codes, at), shift)
    return vectors.shift_left(vectors.both(field, vectors.splat(mask)), to)


@inlined
def _put_fields(codes, begin, step, count, shift, mask, width, out, at):
    """Bits of `count` codes, `step` apart, to fields of `width` bits in each of 16 bytes."""
    byte = _field(codes, begin, shift, mask, 0)
    for k in range(1, count):
        field = _field(codes, begin + step * k, shift, mask, width * k)
        byte = vectors.either(byte, field)
    vectors.store_u8(out, at, byte)


@inlined
def _put_pairs(codes, begin, shift, out, at):
    """Two bits of quanta, four of them a byte."""
    for part in range(4):
        first = begin + 128 * (part // 2) + 16 * (part % 2)
        _put_fields(codes, first, 32, 4, shift, 3, 2, out, at + 16 * part)


@inlined
def _put_bits(codes, begin, shift, out, at):
    """One bit of quanta, eight of them a byte."""
    for part in range(2):
        _put_fields(codes, begin + 16 * part, 32, 8, shift, 1, 1, out, at + 16 * part)


@inlined
def _put_nibbles(codes, begin, step, out, at):
    """The low four bits of quanta, two a byte, which are `step` weights apart."""
    for part in range(8):
        place = 16 * part
        first = begin + place // step * 2 * step + place % step
        _put_fields(codes, first, step, 2, 0, 15, 4, out, at + place)


@inlined
def put_q2_scales(codes, k, out, at):
    vectors.store_u8(out, at, vectors.load_u8(codes, CODES + 16 * k))
    copy_number(codes, k, out, at + 80)
    copy_number(codes, AT_ONCE + k, out, at + 82)


@inlined
def put_q2(codes, k, out, at):
    put_q2_scales(codes, k, out, at)
    _put_pairs(codes, SUPER_BLOCK * k, 0, out, at + 16)


@inlined
def _three_bit_scales(codes, at):
    """Eight scales as they are stored, with 32 added, six bits in a byte each."""
    return (intrinsics.load_u64(codes, at) & np.uint64(0x3F3F3F3F3F3F3F3F)) ^ _MIDDLE


@inlined
def put_q3(codes, k, none, out, at):
    _put_bits(codes, SUPER_BLOCK * k, 2, out, at)
    _put_pairs(codes, SUPER_BLOCK * k, 0, out, at + 32)
    first = _three_bit_scales(codes, CODES + 16 * k)
    second = _three_bit_scales(codes, CODES + 16 * k + 8)
    if none:
        first = second = np.uint64(0)
    low = first & _NIBBLES | (second & _NIBBLES) << _4
    high = first >> _4 & _PAIRS | (second & _HIGH_PAIRS)
    intrinsics.store_u64(out, at + 96, low)
    intrinsics.store_u32(out, at + 104, np.uint32((high | high >> np.uint64(30)) & _WORD))
    copy_number(codes, k, out, at + 108)


@inlined
def _first_six_bits(codes):
    """Of eight numbers of six bits four, above them the high bits of the others."""
    return np.uint32((codes | codes >> np.uint64(30) & _TOP_PAIRS) & _WORD)


@inlined
def _put_six_bits(codes, k, out, at):
    """Scales and minima of a block of 8 groups, to 12 bytes."""
    scales = intrinsics.load_u64(codes, CODES + 8 * k)
    minima = intrinsics.load_u64(codes, MORE_CODES + 8 * k)
    low = scales & _NIBBLES | (minima & _NIBBLES) << _4
    intrinsics.store_u32(out, at, _first_six_bits(scales))
    intrinsics.store_u32(out, at + 4, _first_six_bits(minima))
    intrinsics.store_u32(out, at + 8, np.uint32(low >> np.uint64(32)))


@inlined
def put_q4_scales(codes, k, out, at):
    copy_number(codes, k, out, at)
    copy_number(codes, 8 + k, out, at + 2)
    _put_six_bits(codes, k, out, at + 4)


@inlined
def put_q4_or_q5(wide, codes, k, out, at):
    put_q4_scales(codes, k, out, at)
    at += 16
    if wide:
        _put_bits(codes, SUPER_BLOCK * k, 4, out, at)
        at += 32
    _put_nibbles(codes, SUPER_BLOCK * k, 32, out, at)


@inlined
def put_q6(codes, k, zero, out, at):
    if zero:
        for j in range(210):
            out[at + j] = 0
        return
    _put_nibbles(codes, SUPER_BLOCK * k, 64, out, at)
    _put_pairs(codes, SUPER_BLOCK * k, 4, out, at + 128)
    vectors.store_u8(out, at + 192, vectors.load_u8(codes, CODES + 16 * k))
    copy_number(codes, k, out, at + 208)
