"""Symbols of scale contexts to elements, a block of 32 at a time: code that kernels are made of.

See `scale_context/spec.md`. High bits that a symbol does not tell by itself are filled in later.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from densor.entropy.jit import BOUNDSCHECK
from densor.entropy.vectors import check_range, u32x16

_BLOCK = 32
_I1, _I8, _I16, _I32, _I64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))
_BYTES = ir.VectorType(_I8, _BLOCK)
_HALF = ir.VectorType(_I8, _BLOCK // 2)
_WORDS = ir.VectorType(_I16, _BLOCK)
_LANES = ir.VectorType(_I32, _BLOCK)  # of what a shuffle goes by

Low = Callable[[Any, Any, Any, Any], Any]


def _splat(builder: Any, value: Any) -> Any:
    """A vector of words, all of them the lowest bits of an int64."""
    undefined = ir.Constant(_WORDS, ir.Undefined)
    first = builder.insert_element(undefined, builder.trunc(value, _I16), _I32(0))
    return builder.shuffle_vector(first, undefined, ir.Constant(_LANES, [0] * _BLOCK))


def _number(value: int) -> Any:
    return ir.Constant(_WORDS, [value] * _BLOCK)


def _at(builder: Any, address: Any, kind: Any) -> Any:
    value = builder.load(builder.bitcast(address, kind.as_pointer()))
    value.align = 1
    return value


def _signs(builder: Any, signs: Any, bit: int) -> Any:
    """Words with this bit set where the sign is."""
    minus = builder.bitcast(_at(builder, signs, _I32), ir.VectorType(_I1, _BLOCK))
    return builder.select(minus, _number(bit), _number(0))


def _bf16(builder: Any, high: Any, rest: Any, signs: Any) -> Any:
    nibbles = _at(builder, rest, _HALF)
    four = ir.Constant(_HALF, [4] * (_BLOCK // 2))
    first = builder.and_(nibbles, ir.Constant(_HALF, [15] * (_BLOCK // 2)))
    second = builder.lshr(nibbles, four)
    low = builder.shuffle_vector(first, second, ir.Constant(_LANES, list(range(_BLOCK))))
    low = builder.or_(builder.zext(low, _WORDS), _signs(builder, signs, 0x8000))
    return builder.or_(builder.shl(high, _number(4)), low)


def _fp16(builder: Any, high: Any, rest: Any, signs: Any) -> Any:
    low = builder.zext(_at(builder, rest, _BYTES), _WORDS)
    sign = builder.shl(builder.and_(low, _number(128)), _number(8))
    below = builder.or_(sign, builder.and_(low, _number(127)))
    return builder.or_(builder.shl(high, _number(7)), below)


def _fp8(builder: Any, high: Any, rest: Any, signs: Any) -> Any:
    return builder.trunc(builder.or_(high, _signs(builder, signs, 128)), _BYTES)


def _join(size: int, rest_bytes: int, sign_bytes: int, low: Low) -> Any:
    @intrinsic
    def join(
        typingctx, first, second, scales, k, rest, j, signs, g, out, at, phase, top, base, mask,
        main,
    ):  # fmt: skip
        """32 elements from symbols, scales and what is below them, the latter from an index on.

        `first`, `second`: vectors whose low bytes are symbols. Through memory, a load of all of
        them would have to wait until both stores are done.

        `phase`, `top`: bits; `base`: what is added to high bits; `mask`: of all high bits; `main`:
        the symbol of high bits of 0. Returns a bit for each symbol above `main`.
        """

        def codegen(context, builder, signature, args):
            def address(place: int, count: int) -> Any:
                kind, value, index = signature.args[place], args[place], args[place + 1]
                if BOUNDSCHECK:
                    check_range(context, builder, kind, value, index, index.type(count))
                data = context.make_array(kind)(context, builder, value).data
                return builder.gep(data, [index])

            phase, top, base, mask, main = (_splat(builder, value) for value in args[10:])
            symbol = builder.shuffle_vector(*args[:2], ir.Constant(_LANES, list(range(_BLOCK))))
            symbol = builder.and_(builder.trunc(symbol, _WORDS), _number(255))
            scale = builder.zext(_at(builder, address(2, _BLOCK), _BYTES), _WORDS)
            high = builder.add(symbol, builder.shl(builder.lshr(scale, phase), top))
            high = builder.and_(builder.add(high, base), mask)
            zero = builder.icmp_unsigned("==", symbol, main)
            high = builder.select(zero, _number(0), high)
            element = low(builder, high, address(4, rest_bytes), address(6, sign_bytes))
            target = builder.bitcast(address(8, _BLOCK * size), element.type.as_pointer())
            builder.store(element, target).align = 1
            above = builder.icmp_unsigned(">", symbol, main)
            return builder.zext(builder.bitcast(above, _I32), _I64)

        places = (scales, types.intp, rest, types.intp, signs, types.intp)
        return types.int64(u32x16, u32x16, *places, out, types.intp, *[types.int64] * 5), codegen

    return join


join_bf16 = _join(2, 16, 4, _bf16)
join_fp16 = _join(2, 32, 0, _fp16)
join_fp8 = _join(1, 0, 4, _fp8)
