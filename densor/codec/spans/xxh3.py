"""XXH3-64 with seed 0 as compiled code, for kernels that check or make frames.

Y. Collet: xxHash, specification of XXH3 in release 0.8. Bit for bit what the library gives.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

from densor.codec.spans.jit import part
from densor.entropy.intrinsics import load_u32, load_u64
from densor.entropy.jit import BOUNDSCHECK, R8, kernel
from densor.entropy.vectors import check_range

_LANES = 8
_I32, _I64 = ir.IntType(32), ir.IntType(64)
_V64 = ir.VectorType(_I64, _LANES)
_BLOCK = 1024  # bytes between two scrambles: 16 stripes of 64

_SECRET = np.frombuffer(
    bytes.fromhex(
        "b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671f"
        "cb79e64eccc0e578825ad07dccff7221b8084674f743248ee03590e6813a264c"
        "3c2852bb91c300cb88d0658b1b532ea371644897a20df94e3819ef46a9deacd8"
        "a8fa763fe39c343ff9dcbbc7c70b4f1d8a51e04bcdb45931c89f7ec9d9787364"
        "eac5ac8334d3ebc3c581a0fffa1363eb170ddd51b7f0da49d316552629d4689e"
        "2b16be587d47a1fc8ff8b8d17ad031ce45cb3a8f95160428afd7fbcabb4b407e"
    ),
    np.uint8,
)
_PRIME64 = (
    0x9E3779B185EBCA87,
    0xC2B2AE3D27D4EB4F,
    0x165667B19E3779F9,
    0x85EBCA77C2B2AE63,
    0x27D4EB2F165667C5,
)
_PRIME32 = (0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D)
_START = np.frombuffer(
    np.array([_PRIME32[2], *_PRIME64[:4], _PRIME32[1], _PRIME64[4], _PRIME32[0]], "<u8").tobytes(),
    np.uint8,
)
_P1, _P2, _P3 = (np.uint64(prime) for prime in _PRIME64[:3])
_MIX = np.uint64(0x165667919E3779F9)
_RRMXMX = np.uint64(0x9FB21C651E98DF25)


class U64x8Type(types.Type):  # type: ignore[misc]
    """The numba type of a vector of 8 uint64."""

    def __init__(self) -> None:
        super().__init__(name="u64x8")


_u64x8 = U64x8Type()


@register_model(U64x8Type)
class _VectorModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _V64)


def _number(value: int) -> Any:
    return ir.Constant(_V64, [value] * _LANES)


@intrinsic
def _load(typingctx, array, offset):
    """64 bytes of a uint8 array."""

    def codegen(context, builder, signature, args):
        arytype = signature.args[0]
        if BOUNDSCHECK:
            check_range(context, builder, arytype, *args, args[1].type(64))
        data = context.make_array(arytype)(context, builder, args[0]).data
        address = builder.bitcast(builder.gep(data, [args[1]]), _V64.as_pointer())
        value = builder.load(address)
        value.align = 1
        return value

    return _u64x8(array, types.intp), codegen


@intrinsic
def _accumulate(typingctx, state, data, key):
    """The step of XXH3 for 64 bytes."""

    def codegen(context, builder, signature, args):
        state, data, key = args
        keyed = builder.xor(data, key)
        low = builder.and_(keyed, _number(0xFFFFFFFF))
        product = builder.mul(low, builder.lshr(keyed, _number(32)))
        pairs = ir.Constant(ir.VectorType(_I32, _LANES), [1, 0, 3, 2, 5, 4, 7, 6])
        swapped = builder.shuffle_vector(data, data, pairs)
        return builder.add(builder.add(state, swapped), product)

    return _u64x8(_u64x8, _u64x8, _u64x8), codegen


@intrinsic
def _scramble(typingctx, state, key):
    """The step of XXH3 after each block."""

    def codegen(context, builder, signature, args):
        mixed = builder.xor(args[0], builder.lshr(args[0], _number(47)))
        return builder.mul(builder.xor(mixed, args[1]), _number(_PRIME32[0]))

    return _u64x8(_u64x8, _u64x8), codegen


@intrinsic
def _lane(typingctx, state, index):
    """One of the 8 integers."""

    def codegen(context, builder, signature, args):
        return builder.extract_element(args[0], builder.trunc(args[1], _I32))

    return types.uint64(_u64x8, types.intp), codegen


@intrinsic
def _fold(typingctx, a, b):
    """Both halves of the product of two uint64, xored."""

    def codegen(context, builder, signature, args):
        wide = ir.IntType(128)
        product = builder.mul(builder.zext(args[0], wide), builder.zext(args[1], wide))
        high = builder.lshr(product, ir.Constant(wide, 64))
        return builder.xor(builder.trunc(product, _I64), builder.trunc(high, _I64))

    return types.uint64(types.uint64, types.uint64), codegen


@intrinsic
def _swap_bytes(typingctx, value):
    """A uint64 with its bytes in the opposite order."""

    def codegen(context, builder, signature, args):
        kind = ir.FunctionType(_I64, [_I64])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.bswap.i64")
        return builder.call(function, [args[0]])

    return types.uint64(types.uint64), codegen


@part
def _avalanche(h):
    h ^= h >> np.uint64(37)
    h *= _MIX
    return h ^ (h >> np.uint64(32))


@part
def _avalanche64(h):
    h ^= h >> np.uint64(33)
    h *= _P2
    h ^= h >> np.uint64(29)
    h *= _P3
    return h ^ (h >> np.uint64(32))


@part
def _mix16(data, at, key):
    """What 16 bytes of the input contribute under 16 bytes of the secret."""
    return _fold(
        load_u64(data, at) ^ load_u64(_SECRET, key),
        load_u64(data, at + 8) ^ load_u64(_SECRET, key + 8),
    )


@part
def _few(data):
    """At most 16 bytes."""
    n = data.size
    if n == 0:
        return _avalanche64(load_u64(_SECRET, 56) ^ load_u64(_SECRET, 64))
    if n < 4:
        flip = np.uint64(load_u32(_SECRET, 0) ^ load_u32(_SECRET, 4))
        low = np.uint64(data[n - 1]) | np.uint64(n) << np.uint64(8)
        high = np.uint64(data[0]) << np.uint64(16) | np.uint64(data[n >> 1]) << np.uint64(24)
        return _avalanche64((low | high) ^ flip)
    if n <= 8:
        h = np.uint64(load_u32(data, n - 4)) + (np.uint64(load_u32(data, 0)) << np.uint64(32))
        h ^= load_u64(_SECRET, 8) ^ load_u64(_SECRET, 16)
        h ^= (h << np.uint64(49) | h >> np.uint64(15)) ^ (h << np.uint64(24) | h >> np.uint64(40))
        h *= _RRMXMX
        h ^= (h >> np.uint64(35)) + np.uint64(n)
        h *= _RRMXMX
        return h ^ (h >> np.uint64(28))
    low = load_u64(data, 0) ^ load_u64(_SECRET, 24) ^ load_u64(_SECRET, 32)
    high = load_u64(data, n - 8) ^ load_u64(_SECRET, 40) ^ load_u64(_SECRET, 48)
    return _avalanche(np.uint64(n) + _swap_bytes(low) + high + _fold(low, high))


@part
def _short(data):
    """17 to 240 bytes."""
    n = data.size
    h = np.uint64(n) * _P1
    if n <= 128:
        for i in range((n - 1) // 32, -1, -1):
            h += _mix16(data, 16 * i, 32 * i)
            h += _mix16(data, n - 16 * (i + 1), 32 * i + 16)
        return _avalanche(h)
    for i in range(8):
        h += _mix16(data, 16 * i, 16 * i)
    h = _avalanche(h)
    for i in range(8, n // 16):
        h += _mix16(data, 16 * i, 16 * (i - 8) + 3)
    return _avalanche(h + _mix16(data, n - 16, 119))


@part
def _long(data):
    """More than 240 bytes."""
    n = data.size
    state = _load(_START, 0)
    last_key = _load(_SECRET, 128)
    at = 0
    for _ in range((n - 1) // _BLOCK):
        for stripe in range(16):
            state = _accumulate(state, _load(data, at + 64 * stripe), _load(_SECRET, 8 * stripe))
        state = _scramble(state, last_key)
        at += _BLOCK
    for stripe in range((n - 1 - at) // 64):
        state = _accumulate(state, _load(data, at + 64 * stripe), _load(_SECRET, 8 * stripe))
    state = _accumulate(state, _load(data, n - 64), _load(_SECRET, 121))
    h = np.uint64(n) * _P1
    for i in range(4):
        h += _fold(
            _lane(state, 2 * i) ^ load_u64(_SECRET, 11 + 16 * i),
            _lane(state, 2 * i + 1) ^ load_u64(_SECRET, 19 + 16 * i),
        )
    return _avalanche(h)


@part
def xxh3_64(data):
    """XXH3-64 of a uint8 array, for use in kernels."""
    if data.size > 240:
        return _long(data)
    return _short(data) if data.size > 16 else _few(data)


@kernel(types.uint64(R8))
def digest64(data):
    """XXH3-64 of a uint8 array."""
    return xxh3_64(data)
