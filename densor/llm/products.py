"""Products of small integer matrices: int16 rows by packed int8 columns, exact in int32.

The inner loop is `pmaddwd` on x86 (`vpdpwssd` where there is VNNI), plain multiplications
elsewhere; all of them give the same integers, whatever the order.
"""

from typing import Any, NamedTuple

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from densor.entropy.intrinsics import fetch_line
from densor.entropy.jit import BOUNDSCHECK
from densor.entropy.vectors import LANES, check_range, features_of

_I8, _I16, _I32, _I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
_V32 = ir.VectorType(_I32, LANES)
_PAIR = ir.VectorType(_I16, 2)
_AHEAD = 8192  # bytes that weights are fetched before they are needed


def _pick(builder: Any, vector: Any, lanes: list[int]) -> Any:
    kind = ir.VectorType(_I32, len(lanes))
    undefined = ir.Constant(vector.type, ir.Undefined)
    return builder.shuffle_vector(vector, undefined, ir.Constant(kind, lanes))


def _join(builder: Any, parts: list[Any]) -> Any:
    while len(parts) > 1:
        lanes = ir.Constant(
            ir.VectorType(_I32, 2 * parts[0].type.count), list(range(2 * parts[0].type.count))
        )
        parts = [
            builder.shuffle_vector(parts[i], parts[i + 1], lanes) for i in range(0, len(parts), 2)
        ]
    return parts[0]


def _multiply_pairs(context: Any, builder: Any, a: Any, b: Any) -> Any:
    """<16 x i32>: a[2i] b[2i] + a[2i+1] b[2i+1] of two <32 x i16>."""
    family, features = features_of(context)
    width, name = 0, ""
    if family == "x86_64":
        width, name = 8, "llvm.x86.sse2.pmadd.wd"
        if "avx512bw" in features:
            width, name = 32, "llvm.x86.avx512.pmaddw.d.512"
        elif "avx2" in features:
            width, name = 16, "llvm.x86.avx2.pmadd.wd"
    if not width:
        even, odd = list(range(0, 2 * LANES, 2)), list(range(1, 2 * LANES, 2))
        products = [
            builder.mul(
                builder.sext(_pick(builder, a, lanes), _V32),
                builder.sext(_pick(builder, b, lanes), _V32),
            )
            for lanes in (even, odd)
        ]
        return builder.add(*products)
    kind = ir.VectorType(_I16, width)
    function = cgutils.get_or_insert_function(
        builder.module,
        ir.FunctionType(ir.VectorType(_I32, width // 2), [kind, kind]),
        name,
    )
    parts = []
    for at in range(0, 2 * LANES, width):
        lanes = list(range(at, at + width))
        args = [a, b] if width == 2 * LANES else [_pick(builder, v, lanes) for v in (a, b)]
        parts.append(builder.call(function, args))
    return _join(builder, parts)


class _Tile(NamedTuple):
    """Code for `rows` rows by `vectors` times 16 columns, whose weights have so many bits."""

    rows: int
    vectors: int
    bits: int

    def check(self, context: Any, builder: Any, kinds: Any, args: Any) -> None:
        """That all arrays reach as far as they are read and written."""
        a, at, stride, w, begin, pairs, out, to, wide = args
        columns = self.vectors * LANES
        last = _I64(self.rows - 1)
        reach = builder.add(builder.mul(stride, last), builder.shl(pairs, _I64(1)))
        check_range(context, builder, kinds[0], a, at, reach)
        check_range(context, builder, kinds[3], w, begin, builder.mul(pairs, _I64(2 * columns)))
        reach = builder.add(builder.mul(wide, last), _I64(columns))
        check_range(context, builder, kinds[6], out, to, reach)

    def sum_up(
        self, context: Any, builder: Any, data: Any, steps: Any, begin: int, end: int
    ) -> None:
        """The sums of vectors `begin` to `end` of columns.

        `data`: addresses of rows, weights and sums. `steps`: from row to row, pairs of a row, and
        from sums to sums.
        """
        a, w, out = data
        stride, pairs, wide = steps
        sums = [
            [cgutils.alloca_once(builder, _V32) for _ in range(begin, end)]
            for _ in range(self.rows)
        ]
        for row in sums:
            for place in row:
                builder.store(ir.Constant(_V32, [0] * LANES), place)
        with cgutils.for_range(builder, pairs, intp=_I64) as loop:
            columns = [self._column(builder, w, loop.index, v) for v in range(begin, end)]
            for r in range(self.rows):
                first = builder.add(builder.mul(stride, _I64(r)), builder.shl(loop.index, _I64(1)))
                source = builder.gep(a, [first])
                pair = builder.load(builder.bitcast(source, _PAIR.as_pointer()))
                pair.align = 2
                spread = _pick(builder, pair, [0, 1] * LANES)
                for place, column in zip(sums[r], columns, strict=True):
                    product = _multiply_pairs(context, builder, spread, column)
                    builder.store(builder.add(builder.load(place), product), place)
        for r in range(self.rows):
            for v, place in enumerate(sums[r], begin):
                first = builder.add(builder.mul(wide, _I64(r)), _I64(LANES * v))
                target = builder.bitcast(builder.gep(out, [first]), _V32.as_pointer())
                builder.store(builder.load(place), target).align = 4

    def _column(self, builder: Any, w: Any, pair: Any, v: int) -> Any:
        """<32 x i16>: the weights of a pair of inputs in vector `v` of columns."""
        step = builder.mul(pair, _I64(2 * LANES * self.vectors))
        source = builder.gep(w, [builder.add(step, _I64(2 * LANES * v))])
        kind = ir.VectorType(ir.IntType(self.bits), 2 * LANES)
        value = builder.load(builder.bitcast(source, kind.as_pointer()))
        value.align = 1
        if self.bits == 16:
            return value
        if v % 2 == 0:  # of each line once
            fetch_line(builder, builder.gep(source, [_I64(_AHEAD * 8 // self.bits)]))
        return builder.sext(value, ir.VectorType(_I16, 2 * LANES))

    def together(self, context: Any) -> int:
        """Vectors whose sums fit the registers: 16 of 32 bytes hold 4 rows of one vector or 2 of
        two, 32 of 64 all sums."""
        fits = (self.rows < 4 and self.bits < 16) or "avx512bw" in features_of(context)[1]
        return self.vectors if fits else 1


def tile(rows: int, vectors: int, bits: int) -> Any:
    """An intrinsic that multiplies `rows` rows by `vectors` times 16 columns.

    tile(a, at, stride, w, from, pairs, out, to, wide): a: int16, rows of pairs that begin at `at`,
    `stride` apart. w: int8 or int16, by `bits`: pairs of all columns, from `from` on. out: int32,
    rows `wide` apart, from `to` on. Sums must fit 32 bits.
    """
    shape = _Tile(rows, vectors, bits)

    @intrinsic
    def multiply(typingctx, a, at, stride, w, begin, pairs, out, to, wide):
        def codegen(context, builder, signature, args):
            kinds = signature.args
            if BOUNDSCHECK:
                shape.check(context, builder, kinds, args)
            data = [
                builder.gep(context.make_array(kinds[i])(context, builder, args[i]).data, [args[j]])
                for i, j in ((0, 1), (3, 4), (6, 7))
            ]
            steps = args[2], args[5], args[8]
            together = shape.together(context)
            for first in range(0, vectors, together):
                shape.sum_up(context, builder, data, steps, first, first + together)
            return context.get_dummy_value()

        size = types.intp
        return types.void(a, size, size, w, size, size, out, size, size), codegen

    return multiply
