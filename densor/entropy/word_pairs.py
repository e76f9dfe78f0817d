"""Vectors of 16 pairs of signed 16-bit words as numba values, beside those of `entropy.vectors`.

A pair stands in a lane of 32 bits, its first word in the low half.
"""

from typing import Any

from llvmlite import ir
from numba.core import cgutils
from numba.extending import intrinsic

from densor.entropy.vectors import LANES, features_of, u32x16

_I16, _I32 = ir.IntType(16), ir.IntType(32)
_V32 = ir.VectorType(_I32, LANES)


def _in_parts(builder: Any, name: str, count: int, args: list[Any]) -> Any:
    """What a function makes of each of `count` parts of vectors, taken for words."""
    size = LANES // count
    part, words = ir.VectorType(_I32, size), ir.VectorType(_I16, 2 * size)
    kind = ir.FunctionType(part, [words, words])
    function = cgutils.get_or_insert_function(builder.module, kind, name)
    if count == 1:
        return builder.call(function, [builder.bitcast(x, words) for x in args])
    undefined = ir.Constant(_V32, ir.Undefined)
    found = []
    for begin in range(0, LANES, size):
        lanes = ir.Constant(part, list(range(begin, begin + size)))
        parts = [builder.shuffle_vector(x, undefined, lanes) for x in args]
        found.append(builder.call(function, [builder.bitcast(x, words) for x in parts]))
    return builder.shuffle_vector(*found, ir.Constant(_V32, list(range(LANES))))


@intrinsic
def multiply_pairs(typingctx, a, b):
    """In each lane the products of first and of second words, added up modulo 2^32.

    One instruction with AVX-512, two with AVX2.
    """

    def codegen(context, builder, signature, args):
        features = features_of(context)[1]
        if "avx512bw" in features:
            return _in_parts(builder, "llvm.x86.avx512.pmaddw.d.512", 1, args)
        if "avx2" in features:
            return _in_parts(builder, "llvm.x86.avx2.pmadd.wd", 2, args)
        half = ir.Constant(_V32, [16] * LANES)
        first = [builder.ashr(builder.shl(x, half), half) for x in args]
        second = [builder.ashr(x, half) for x in args]
        return builder.add(builder.mul(*first), builder.mul(*second))

    return u32x16(a, b), codegen
