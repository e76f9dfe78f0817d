"""Huffman codes of many symbols at once: code that kernels are made of.

Symbols are looked up 64 at a time in tables of 256 bytes, four registers each, with the byte
permutations of AVX-512 VBMI; elsewhere one after the other.
"""

from typing import Any

import numba as nb
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from densor.codec.spans.jit import part
from densor.codec.spans.table import CODE_TABLE as TABLE
from densor.entropy.intrinsics import store_u64
from densor.entropy.jit import BOUNDSCHECK
from densor.entropy.vectors import check_range, features_of

_I8, _I32, _I64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)
_B64 = ir.VectorType(_I8, 64)
_D16, _Q8 = ir.VectorType(_I32, 16), ir.VectorType(_I64, 8)
BLOCK = 4096  # symbols whose codes are joined by eights before these are written
_FULL = np.uint64(57)  # bits that fit in a word beside those that filled no byte before
_THREE = np.uint64(3)
_SEVEN = np.uint64(7)
_WHOLE = np.uint64(56)


def _look_up(context: Any, builder: Any, table: Any, symbols: Any) -> Any:
    """table[symbol] of 64 symbols; `table`: pointer to 256 bytes."""
    if "avx512vbmi" not in features_of(context)[1]:
        found = ir.Constant(_B64, ir.Undefined)
        for lane in range(64):
            symbol = builder.zext(builder.extract_element(symbols, _I32(lane)), _I64)
            value = builder.load(builder.gep(table, [symbol]))
            found = builder.insert_element(found, value, _I32(lane))
        return found
    parts = []
    for quarter in range(4):
        address = builder.gep(table, [_I64(64 * quarter)])
        parts.append(builder.load(builder.bitcast(address, _B64.as_pointer())))
        parts[-1].align = 1
    kind = ir.FunctionType(_B64, [_B64] * 3)
    name = "llvm.x86.avx512.vpermi2var.qi.512"
    permute = cgutils.get_or_insert_function(builder.module, kind, name)
    low = builder.call(permute, [parts[0], symbols, parts[1]])
    high = builder.call(permute, [parts[2], symbols, parts[3]])
    upper = builder.icmp_signed("<", symbols, ir.Constant(_B64, [0] * 64))
    return builder.select(upper, high, low)


def _bytes_of(builder: Any, vector: Any) -> list[Any]:
    """Byte k of each of the 16 lanes of 32 bits, of one in four symbols that is."""
    lanes = builder.bitcast(vector, _D16)
    return [
        builder.and_(
            builder.lshr(lanes, ir.Constant(_D16, [8 * k] * 16)), ir.Constant(_D16, [255] * 16)
        )
        for k in range(4)
    ]


@intrinsic
def _join_eights(typingctx, symbols, at, table, words, sizes, to):
    """The codes of 64 symbols, eight by eight: 8 x uint64 to `words`, their bits to `sizes`.

    `symbols`, `table`: uint8[]; `words`: uint64[]; `sizes`: uint64[]; both from `to` on. Codes that
    do not fit are lost, which `sizes` tells.
    """

    def codegen(context, builder, signature, args):
        symbols, at, table, words, sizes, to = args
        if BOUNDSCHECK:
            for position, value, index, count in (
                (0, symbols, at, 64),
                (2, table, _I64(0), TABLE),
                (3, words, to, 8),
                (4, sizes, to, 8),
            ):
                kind = signature.args[position]
                check_range(context, builder, kind, value, index, _I64(count))

        def data(position: int) -> Any:
            return context.make_array(signature.args[position])(
                context, builder, args[position]
            ).data

        address = builder.bitcast(builder.gep(data(0), [at]), _B64.as_pointer())
        block = builder.load(address)
        block.align = 1
        length, low, high = (
            _bytes_of(
                builder,
                _look_up(context, builder, builder.gep(data(2), [_I64(256 * k)]), block),
            )
            for k in range(3)
        )
        eight = ir.Constant(_D16, [8] * 16)
        code = [builder.or_(low[k], builder.shl(high[k], eight)) for k in range(4)]
        first = builder.or_(code[0], builder.shl(code[1], length[0]))
        second = builder.or_(code[2], builder.shl(code[3], length[2]))
        half = builder.add(length[0], length[1])
        total = builder.add(half, builder.add(length[2], length[3]))
        wide = ir.Constant(_Q8, [32] * 8)

        def halves(vector: Any) -> tuple[Any, Any]:
            """Every second of 16 integers of 32 bits, as 64 bits; and the others."""
            pairs = builder.bitcast(vector, _Q8)
            return builder.and_(pairs, ir.Constant(_Q8, [(1 << 32) - 1] * 8)), builder.lshr(
                pairs, wide
            )

        fours = []
        for a, b, bits in zip(halves(first), halves(second), halves(half), strict=True):
            fours.append(builder.or_(a, builder.shl(b, bits)))
        bits, more = halves(total)
        joined = builder.or_(fours[0], builder.shl(fours[1], bits))
        for position, vector in ((3, joined), (4, builder.add(bits, more))):
            target = builder.bitcast(builder.gep(data(position), [to]), _Q8.as_pointer())
            builder.store(vector, target).align = 8
        return context.get_dummy_value()

    index = types.intp
    return types.void(symbols, index, table, words, sizes, index), codegen


@part
def _put_code(symbol, table, out, position, buffer, filled):
    code = np.uint64(table[256 + symbol]) | np.uint64(table[512 + symbol]) << np.uint64(8)
    buffer |= code << filled
    filled += np.uint64(table[symbol])
    store_u64(out, position, buffer)
    position += nb.intp(filled >> _THREE)
    return position, buffer >> (filled & _WHOLE), filled & _SEVEN


@part
def put_codes(symbols, table, out, position, buffer, filled, words, sizes):
    """Appends the codes of `symbols` to a stream; returns position, buffer and bits in it.

    `table`: uint8[TABLE]. Bits that fill no byte stay in `buffer`, at most 7. `out` has 12 bits
    for each symbol and 16 bytes to spare. Work space: `words`, `sizes`, uint64[BLOCK // 8].
    """
    whole = symbols.size & ~63
    for begin in range(0, whole, BLOCK):
        end = min(begin + BLOCK, whole)
        for i in range(begin, end, 64):
            _join_eights(symbols, i, table, words, sizes, (i - begin) >> 3)
        most = np.uint64(0)
        for k in range((end - begin) >> 3):
            most = max(most, sizes[k])
        if most <= _FULL:
            for k in range((end - begin) >> 3):
                buffer |= words[k] << filled
                filled += sizes[k]
                store_u64(out, position, buffer)
                position += nb.intp(filled >> _THREE)
                buffer >>= filled & _WHOLE
                filled &= _SEVEN
        else:
            for i in range(begin, end):
                symbol = np.int64(symbols[i])
                position, buffer, filled = _put_code(symbol, table, out, position, buffer, filled)
    for i in range(whole, symbols.size):
        symbol = np.int64(symbols[i])
        position, buffer, filled = _put_code(symbol, table, out, position, buffer, filled)
    return position, buffer, filled
