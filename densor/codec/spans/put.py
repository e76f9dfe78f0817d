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
BLOCK = 2048  # symbols whose codes are joined before these are written
HALF = BLOCK // 8
_MOST = np.uint64(56)  # bits that fit in a word beside those that filled no byte before
_THREE = np.uint64(3)
_SEVEN = np.uint64(7)
_WHOLE = np.uint64(56)


def tables_of(builder: Any, table: Any) -> list[Any]:
    """256 bytes at a pointer, as four vectors."""
    parts = []
    for quarter in range(4):
        address = builder.gep(table, [_I64(64 * quarter)])
        parts.append(builder.load(builder.bitcast(address, _B64.as_pointer())))
        parts[-1].align = 1
    return parts


def look_up(builder: Any, parts: list[Any], symbols: Any) -> Any:
    """table[symbol] of 64 symbols; `parts`: as from `tables_of`. Needs AVX-512 VBMI."""
    kind = ir.FunctionType(_B64, [_B64] * 3)
    name = "llvm.x86.avx512.vpermi2var.qi.512"
    permute = cgutils.get_or_insert_function(builder.module, kind, name)
    low = builder.call(permute, [parts[0], symbols, parts[1]])
    high = builder.call(permute, [parts[2], symbols, parts[3]])
    upper = builder.icmp_signed("<", symbols, ir.Constant(_B64, [0] * 64))
    return builder.select(upper, high, low)


def _look_up(context: Any, builder: Any, table: Any, symbols: Any) -> Any:
    """table[symbol] of 64 symbols; `table`: pointer to 256 bytes."""
    if "avx512vbmi" in features_of(context)[1]:
        return look_up(builder, tables_of(builder, table), symbols)
    found = ir.Constant(_B64, ir.Undefined)
    for lane in range(64):
        symbol = builder.zext(builder.extract_element(symbols, _I32(lane)), _I64)
        value = builder.load(builder.gep(table, [symbol]))
        found = builder.insert_element(found, value, _I32(lane))
    return found


def _bytes_of(builder: Any, vector: Any) -> list[Any]:
    """Byte k of each of the 16 lanes of 32 bits, of one in four symbols that is."""
    lanes = builder.bitcast(vector, _D16)
    return [
        builder.and_(
            builder.lshr(lanes, ir.Constant(_D16, [8 * k] * 16)), ir.Constant(_D16, [255] * 16)
        )
        for k in range(4)
    ]


def _halves(builder: Any, vector: Any) -> tuple[Any, Any]:
    """Every second of 16 integers of 32 bits, as 64 bits; and the others."""
    pairs = builder.bitcast(vector, _Q8)
    low = builder.and_(pairs, ir.Constant(_Q8, [(1 << 32) - 1] * 8))
    return low, builder.lshr(pairs, ir.Constant(_Q8, [32] * 8))


def _fours(builder: Any, found: list[Any]) -> tuple[list[Any], list[Any]]:
    """Codes of 64 symbols joined by fours, and their bits: first those of every second four.

    `found`: length, low and high byte of each code.
    """
    length, low, high = (_bytes_of(builder, each) for each in found)
    eight = ir.Constant(_D16, [8] * 16)
    code = [builder.or_(low[k], builder.shl(high[k], eight)) for k in range(4)]
    first = builder.or_(code[0], builder.shl(code[1], length[0]))
    second = builder.or_(code[2], builder.shl(code[3], length[2]))
    half = builder.add(length[0], length[1])
    total = builder.add(half, builder.add(length[2], length[3]))
    joined = [
        builder.or_(a, builder.shl(b, bits))
        for a, b, bits in zip(
            *(_halves(builder, each) for each in (first, second, half)), strict=True
        )
    ]
    return joined, list(_halves(builder, total))


def _join(eights: bool) -> Any:
    @intrinsic
    def join(typingctx, symbols, at, table, words, sizes, to):
        """The codes of 64 symbols, joined: uint64 to `words`, their bits to `sizes`.

        `symbols`, `table`: uint8[]; `words`, `sizes`: uint64[], from `to` on, 8 of each. By eights,
        codes that do not fit are lost, which `sizes` tells; by fours, half of `words` and
        `sizes` lie behind each other: 8 from `to` on, 8 from `to + HALF` on.
        """

        def codegen(context, builder, signature, args):
            symbols, at, table, words, sizes, to = args
            behind = builder.add(to, _I64(HALF))
            if BOUNDSCHECK:
                for position, value, index, count in (
                    (0, symbols, at, 64),
                    (2, table, _I64(0), TABLE),
                    (3, words, to, 8),
                    (4, sizes, to, 8),
                    (3, words, behind, 8),
                    (4, sizes, behind, 8),
                ):
                    kind = signature.args[position]
                    check_range(context, builder, kind, value, index, _I64(count))

            def data(position: int) -> Any:
                return context.make_array(signature.args[position])(
                    context, builder, args[position]
                ).data

            def put(position: int, place: Any, vector: Any) -> None:
                target = builder.gep(data(position), [place])
                target = builder.bitcast(target, _Q8.as_pointer())
                builder.store(vector, target).align = 8

            address = builder.bitcast(builder.gep(data(0), [at]), _B64.as_pointer())
            block = builder.load(address)
            block.align = 1
            found = [
                _look_up(context, builder, builder.gep(data(2), [_I64(256 * k)]), block)
                for k in range(3)
            ]
            fours, bits = _fours(builder, found)
            if eights:
                put(3, to, builder.or_(fours[0], builder.shl(fours[1], bits[0])))
                put(4, to, builder.add(*bits))
            else:
                for k, place in enumerate((to, behind)):
                    put(3, place, fours[k])
                    put(4, place, bits[k])
            return context.get_dummy_value()

        index = types.intp
        return types.void(symbols, index, table, words, sizes, index), codegen

    return join


_join_eights, _join_fours = _join(True), _join(False)


@part
def _put_bits(bits, size, out, position, buffer, filled):
    buffer |= bits << filled
    filled += size
    store_u64(out, position, buffer)
    position += nb.intp(filled >> _THREE)
    return position, buffer >> (filled & _WHOLE), filled & _SEVEN


@part
def put_codes(symbols, table, out, position, buffer, filled, words, sizes):
    """Appends the codes of `symbols` to a stream; returns position, buffer and bits in it.

    `table`: uint8[TABLE]. Bits that fill no byte stay in `buffer`, at most 7. `out` has 12 bits
    for each symbol and 16 bytes to spare. Work space: `words`, `sizes`, uint64[2 * HALF].
    """
    whole = symbols.size & ~63
    eights = True
    for begin in range(0, whole, BLOCK):
        end = min(begin + BLOCK, whole)
        joined = (end - begin) >> 3
        if eights:
            for i in range(begin, end, 64):
                _join_eights(symbols, i, table, words, sizes, (i - begin) >> 3)
            most = np.uint64(0)
            for k in range(joined):
                most = max(most, sizes[k])
            eights = most <= _MOST
        if eights:
            for k in range(joined):
                position, buffer, filled = _put_bits(
                    words[k], sizes[k], out, position, buffer, filled
                )
        else:
            for i in range(begin, end, 64):
                _join_fours(symbols, i, table, words, sizes, (i - begin) >> 3)
            for k in range(joined):
                position, buffer, filled = _put_bits(
                    words[k], sizes[k], out, position, buffer, filled
                )
                position, buffer, filled = _put_bits(
                    words[HALF + k], sizes[HALF + k], out, position, buffer, filled
                )
    for i in range(whole, symbols.size):
        symbol = np.int64(symbols[i])
        code = np.uint64(table[256 + symbol]) | np.uint64(table[512 + symbol]) << np.uint64(8)
        size = np.uint64(table[symbol])
        position, buffer, filled = _put_bits(code, size, out, position, buffer, filled)
    return position, buffer, filled
