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

_I8, _I16, _I32, _I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
_B64 = ir.VectorType(_I8, 64)
_W32, _D16, _Q8 = ir.VectorType(_I16, 32), ir.VectorType(_I32, 16), ir.VectorType(_I64, 8)
BLOCK = 512  # symbols whose codes are joined before these are written
_EIGHTS, _FOURS = 8, 16  # words that the codes of 64 symbols are joined to
_MOST = 63  # bits of a word
_THREE = np.uint64(3)
_SEVEN = np.uint64(7)
_WHOLE = np.uint64(56)
_WORD = np.uint64(64)
_WORD_BYTES = np.uint64(8)
_BIT = np.uint64(63)


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


def _halves(builder: Any, vector: Any, kind: Any) -> tuple[Any, Any]:
    """Every second integer of a vector, at twice its width; and the others. `kind`: the result."""
    bits = kind.element.width // 2
    wide = builder.bitcast(vector, kind)
    low = builder.and_(wide, ir.Constant(kind, [(1 << bits) - 1] * kind.count))
    return low, builder.lshr(wide, ir.Constant(kind, [bits] * kind.count))


def _fours(builder: Any, found: list[Any]) -> tuple[list[Any], list[Any]]:
    """Codes of 64 symbols joined by fours, and their bits: first those of every second four.

    `found`: what the tables say of each symbol, see `fill_table`.
    """
    low, high = (builder.bitcast(each, _W32) for each in found)
    eight, twelve = (ir.Constant(_W32, [bits] * 32) for bits in (8, 12))
    byte, upper, code = (ir.Constant(_W32, [mask] * 32) for mask in (0xFF, 0xFF00, 0xFFF))
    pairs = (
        builder.or_(builder.and_(low, byte), builder.shl(high, eight)),
        builder.or_(builder.lshr(low, eight), builder.and_(high, upper)),
    )
    lengths = [builder.lshr(each, twelve) for each in pairs]
    codes = [_halves(builder, builder.and_(each, code), _D16) for each in pairs]
    shifts = _halves(builder, lengths[0], _D16)
    bits = _halves(builder, builder.add(*lengths), _D16)
    joined = [builder.or_(codes[0][k], builder.shl(codes[1][k], shifts[k])) for k in range(2)]
    fours = [
        builder.or_(first, builder.shl(second, shift))
        for first, second, shift in zip(
            *(_halves(builder, each, _Q8) for each in (*joined, bits[0])), strict=True
        )
    ]
    return fours, list(_halves(builder, builder.add(*bits), _Q8))


@intrinsic
def _join(typingctx, symbols, at, table, words, sizes, to):
    """The codes of 64 symbols, joined by eights or fours: to `words`; their bits to `sizes`.

    `symbols`, `table`: uint8[]; `words`, `sizes`: uint64[], from `to` on, up to 16 of each. By
    eights where all have at most `_MOST` bits. Returns how many words there are.
    """

    def codegen(context, builder, signature, args):
        symbols, at, table, words, sizes, to = args
        if BOUNDSCHECK:
            for position, value, index, count in (
                (0, symbols, at, 64),
                (2, table, _I64(0), TABLE),
                (3, words, to, _FOURS),
                (4, sizes, to, _FOURS),
            ):
                kind = signature.args[position]
                check_range(context, builder, kind, value, index, _I64(count))

        def data(position: int) -> Any:
            return context.make_array(signature.args[position])(
                context, builder, args[position]
            ).data

        def put(position: int, place: int, vector: Any) -> None:
            target = builder.gep(data(position), [builder.add(to, _I64(place))])
            target = builder.bitcast(target, _Q8.as_pointer())
            builder.store(vector, target).align = 8

        address = builder.bitcast(builder.gep(data(0), [at]), _B64.as_pointer())
        block = builder.load(address)
        block.align = 1
        found = [
            _look_up(context, builder, builder.gep(data(2), [_I64(256 * k)]), block)
            for k in range(2)
        ]
        fours, bits = _fours(builder, found)
        eights = builder.add(*bits)
        put(3, 0, builder.or_(fours[0], builder.shl(fours[1], bits[0])))
        put(4, 0, eights)
        over = builder.icmp_unsigned(">", eights, ir.Constant(_Q8, [_MOST] * 8))
        too_many = builder.icmp_unsigned("!=", builder.bitcast(over, _I8), _I8(0))
        with builder.if_then(too_many, likely=False):
            for position, (first, second) in ((3, fours), (4, bits)):
                for half in range(2):
                    lanes = [4 * half + k // 2 + 8 * (k % 2) for k in range(8)]
                    picked = ir.Constant(ir.VectorType(_I32, 8), lanes)
                    put(position, 8 * half, builder.shuffle_vector(first, second, picked))
        return builder.select(too_many, _I64(_FOURS), _I64(_EIGHTS))

    index = types.intp
    return index(symbols, index, table, words, sizes, index), codegen


@part
def fill_table(codes, table):
    """The codes of all symbols as `put_codes` looks them up.

    `codes`: uint32[256] as from `assign_codes`. `table`: uint8[TABLE], of each symbol the low 8
    bits of its code; then the others, and the length of the code from bit 4 on.
    """
    for s in range(256):
        code = np.int64(codes[s])
        table[s] = code & 255
        table[256 + s] = ((code >> 8) & 15) | (code >> 16) << 4


@part
def put_codes(symbols, table, out, position, buffer, filled, words, sizes):
    """Appends the codes of `symbols` to a stream; returns position, buffer and bits in it.

    `table`: uint8[TABLE], from `fill_table`. Bits that fill no byte stay in `buffer`, at most 7.
    `out` has 12 bits for each symbol and 16 bytes to spare. Work space: `words`, `sizes`,
    uint64[BLOCK // 4].
    """
    whole = symbols.size & ~63
    for begin in range(0, whole, BLOCK):
        joined = 0
        for i in range(begin, min(begin + BLOCK, whole), 64):
            joined += _join(symbols, i, table, words, sizes, joined)
        for k in range(joined):
            word = words[k]
            end = filled + sizes[k]
            buffer |= word << filled
            store_u64(out, position, buffer)
            position += nb.intp((end >> _THREE) & _WORD_BYTES)
            buffer = word >> ((_WORD - filled) & _BIT) if end >= _WORD else buffer
            filled = end & _BIT
    store_u64(out, position, buffer)
    position += nb.intp(filled >> _THREE)
    buffer >>= filled & _WHOLE
    filled &= _SEVEN
    for i in range(whole, symbols.size):
        symbol = np.int64(symbols[i])
        high = np.uint64(table[256 + symbol])
        code = np.uint64(table[symbol]) | (high & np.uint64(15)) << np.uint64(8)
        buffer |= code << filled
        filled += high >> np.uint64(4)
        store_u64(out, position, buffer)
        position += nb.intp(filled >> _THREE)
        buffer >>= filled & _WHOLE
        filled &= _SEVEN
    return position, buffer, filled
