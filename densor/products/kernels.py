"""Compiled loops over packed matrices: products with few inputs, packing and unpacking.

Functions of two integers, the address of a job and the number of a part of it, that a `Team` calls.
A job is an array of int64 with the addresses and sizes below; `matrix.py` proves that they fit.

Layout. A tile is 8 rows by 64 columns; the tiles of 8 rows follow each other, so that a product
reads one stream of whole cache lines. A tile has the planes of ranks, then, for FP16, those of sign
and two mantissa bits, then 64 bytes of each row: sign and mantissa of BF16, the low byte of FP16.

- 4 bits: 4 planes of 64 bytes with two rows each. Ranks of the 15 commonest exponents, 15 is an
  escape.
- 3 bits: 2 planes with two bits of four rows each, 1 plane with the third bit of all eight. Ranks
  of the 7 commonest exponents, 7 is an escape.

Exponents of escapes lie in a stream of bytes per row, in the order of their places. The palette
holds the exponents of ranks, 16 bytes four times over: those of BF16 rotated right by one bit, so
that two selections of bits make both bytes of a weight; those of FP16 shifted to their place in the
high byte. Byte p of 64 is of column 8 (p // 16) + p % 8, and 32 more where p % 16 > 7.

Sums. A row and an input have 16 sums in FP32. Of each 32 columns, sum l gets the product of column
2l + 1, then that of 2l, each a fused multiply-add; in the end sums are added 8 + 8, 4 + 4, 2 + 2
and 1 + 1, then the bias. So results depend neither on the layout nor on the number of inputs,
threads or parts.
"""

from typing import Any, NamedTuple

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from densor.products.vector_kernels import (
    COLUMNS,
    F32,
    I8,
    I16,
    I32,
    I64,
    V8,
    V16,
    VF,
    Emitter,
    number,
)

ROWS = 8  # of a tile
# Fields of a job.
PACKED, ESCAPES, STARTS, PALETTE, TILES, MATRIX_ROWS, MATRIX_COLUMNS, FILLER = range(
    8
)  # the matrix
PARTS, INPUT, OUTPUT, BIAS, TOKENS, INPUT_STRIDE, OUTPUT_STRIDE = range(8, 15)  # strides in bytes
FIELDS = 16

_AT_A_TIME = {1: 8, 2: 8, 4: 4, 8: 2}  # rows, so that sums stay in 32 registers
_IN_16 = {1: 4, 2: 2, 4: 1, 8: 1}  # the same where there are 16 of half the size
_AHEAD = {1: 8, 2: 8, 4: 8, 8: 16}  # tiles that are asked for before their turn


class Layout(NamedTuple):
    """How a matrix is held: `bits` of a rank, 16 for plain words; FP16 or BF16."""

    bits: int
    half_floats: bool

    @property
    def plane_bytes(self) -> int:
        """Bytes of the planes of a tile."""
        return 0 if self.plain else ROWS * COLUMNS * (self.bits + 3 * self.half_floats) // 8

    @property
    def tile_bytes(self) -> int:
        """Bytes of a tile."""
        return ROWS * COLUMNS * 2 if self.plain else self.plane_bytes + ROWS * COLUMNS

    @property
    def plain(self) -> bool:
        """Whether weights are as they were, row by row."""
        return self.bits == 16

    @property
    def escape(self) -> int:
        """The rank of exponents that have none."""
        return (1 << self.bits) - 1


def _ranks(e: Emitter, layout: Layout, planes: Any, row: int) -> Any:
    return e.in_four_bits(planes, row) if layout.bits == 4 else e.in_three_bits(planes, row)


def _bytes(e: Emitter, layout: Layout, exponent: Any, rest: Any, planes: Any, row: Any) -> Any:
    """The two vectors of 32 weights that 64 exponents and the rest of each make."""
    b = e.b
    if layout.half_floats:
        more = row if not isinstance(row, int) else e.in_three_bits(planes[-3:], row)
        sign = e.shifted(b.and_(more, number(V8, 4)), -5)
        high = b.or_(exponent, b.or_(sign, b.and_(more, number(V8, 3))))
        return e.words(rest, high)
    top, low = number(V8, 0x80), number(V8, 0x7F)
    high = b.or_(b.and_(rest, top), b.and_(exponent, low))
    return e.words(b.or_(b.and_(exponent, top), b.and_(rest, low)), high)


def _escaped(e: Emitter, layout: Layout, rank: Any) -> Any:
    return e.b.icmp_unsigned("==", rank, number(V8, layout.escape))


class _Product:
    """Code for eight rows of a matrix times `batch` inputs."""

    def __init__(self, e: Emitter, layout: Layout, batch: int, job: Any) -> None:
        self.e, self.layout, self.batch, self.job = e, layout, batch, job
        self.tiles = e.field(job, TILES)
        self.rows = e.field(job, MATRIX_ROWS)
        self.tokens = e.field(job, TOKENS)
        self.packed = e.pointer(job, PACKED)
        self.output = e.pointer(job, OUTPUT)
        self.inputs = self._inputs()
        if not layout.plain:
            self.table = e.load(e.pointer(job, PALETTE), V8)
            self.escapes, self.starts = e.pointer(job, ESCAPES), e.pointer(job, STARTS)
        self.ahead = 0 if layout.plain and batch == 1 else _AHEAD[batch]

    def _inputs(self) -> list[Any]:
        """Addresses of inputs; the last one stands for those that are not there."""
        e, b = self.e, self.e.b
        last = b.sub(self.tokens, I64(1))
        stride, base = e.field(self.job, INPUT_STRIDE), e.pointer(self.job, INPUT)
        found = []
        for k in range(self.batch):
            token = b.select(b.icmp_signed("<", I64(k), last), I64(k), last)
            found.append(e.at(base, b.mul(token, stride)))
        return found

    def group(self, group: Any) -> None:
        """The products of eight rows."""
        e, b = self.e, self.e.b
        wide = "avx512f" in e.features
        together = (_AT_A_TIME if wide else _IN_16)[self.batch]
        for start in range(0, ROWS, together):
            sums = [
                [cgutils.alloca_once(b, VF) for _ in range(self.batch)] for _ in range(together)
            ]
            for row in sums:
                for place in row:
                    b.store(ir.Constant(VF, [0.0] * 16), place)
            first = b.add(b.mul(group, I64(ROWS)), I64(start))
            places = self._escape_places(first, together)
            bases = self._bases(group, first, together)
            with cgutils.for_range(b, self.tiles, intp=I64) as loop:
                if self.layout.plain:
                    weights = self._plain_weights(bases, loop.index)
                else:
                    weights = self._weights(bases[0], loop.index, start, places)
                self._multiply(loop.index, weights, sums)
            for r in range(together):
                for k in range(self.batch):
                    self._put(b.load(sums[r][k]), b.add(first, I64(r)), k)

    def _escape_places(self, first: Any, rows: int) -> list[Any]:
        if self.layout.plain:
            return []
        e, b = self.e, self.e.b
        places = []
        for r in range(rows):
            at = e.at(self.starts, b.shl(b.add(first, I64(r)), I64(2)))
            place = cgutils.alloca_once(b, I64)
            b.store(b.zext(b.load(b.bitcast(at, I32.as_pointer())), I64), place)
            places.append(place)
        return places

    def _bases(self, group: Any, first: Any, rows: int) -> list[Any]:
        """Where tiles of the group begin; of plain weights, each row, the last one for missing."""
        e, b = self.e, self.e.b
        if not self.layout.plain:
            size = b.mul(self.tiles, I64(self.layout.tile_bytes))
            return [e.at(self.packed, b.mul(group, size))]
        last = b.sub(self.rows, I64(1))
        found = []
        for r in range(rows):
            row = b.add(first, I64(r))
            row = b.select(b.icmp_signed("<", row, last), row, last)
            found.append(e.at(self.packed, b.mul(row, b.shl(self.tiles, I64(7)))))
        return found

    def _plain_weights(self, bases: list[Any], tile: Any) -> list[Any]:
        e, b = self.e, self.e.b
        found = []
        for base in bases:
            at = e.at(base, b.shl(tile, I64(7)))
            if self.ahead:
                for line in (0, 64):
                    e.prefetch(e.at(at, self.ahead * 128 + line))
            halves = [e.load(e.at(at, half), V16) for half in (0, 64)]
            found.append([e.operand(half, self.layout.half_floats) for half in halves])
        return found

    def _weights(self, base: Any, tile: Any, start: int, places: list[Any]) -> list[Any]:
        e, b, layout = self.e, self.e.b, self.layout
        at = e.at(base, b.mul(tile, I64(layout.tile_bytes)))
        count = layout.plane_bytes // COLUMNS
        rows = len(places)
        lines = self._lines(start, rows)
        if self.ahead:
            for line in lines:
                e.prefetch(e.at(at, self.ahead * layout.tile_bytes + COLUMNS * line))
        planes = [e.load(e.at(at, COLUMNS * p), V8, 32) for p in range(count)]
        found = []
        for r, place in enumerate(places):
            rank = _ranks(e, layout, planes, start + r)
            rest = e.load(e.at(at, layout.plane_bytes + COLUMNS * (start + r)), V8, 32)
            exponent = self._exponent(rank, place)
            halves = _bytes(e, layout, exponent, rest, planes, start + r)
            found.append([e.operand(half, layout.half_floats) for half in halves])
        return found

    def _lines(self, start: int, rows: int) -> list[int]:
        """The lines of a tile that these rows need."""
        layout = self.layout
        if layout.bits == 4:
            planes = set(range(start // 2, (start + rows + 1) // 2))
        else:
            planes = {start // 4, (start + rows - 1) // 4, 2}
        if layout.half_floats:
            planes |= {3 + p for p in planes}
        first = layout.plane_bytes // COLUMNS + start
        return sorted(planes) + list(range(first, first + rows))

    def _exponent(self, rank: Any, place: Any) -> Any:
        """Exponents by their ranks; the next ones of the row's escapes where there is none."""
        e, b = self.e, self.e.b
        exponent = e.lookup(self.table, rank)
        escaped = _escaped(e, self.layout, rank)
        bits = e.mask_bits(escaped)
        if self.layout.bits == 3 and "avx512vbmi2" in e.features:  # too often to ask
            at = b.load(place)
            b.store(b.add(at, e.ones(bits)), place)
            return e.expand(e.at(self.escapes, at), escaped, exponent)
        found = cgutils.alloca_once(b, V8)
        b.store(exponent, found)
        with b.if_then(b.icmp_unsigned("!=", bits, I64(0)), likely=False):
            at = b.load(place)
            b.store(b.add(at, e.ones(bits)), place)
            b.store(e.expand(e.at(self.escapes, at), escaped, exponent), found)
        return b.load(found)

    def _multiply(self, tile: Any, weights: list[Any], sums: Any) -> None:
        e, b = self.e, self.e.b
        for k, inputs in enumerate(self.inputs):
            at = e.at(inputs, b.shl(tile, I64(7)))
            for half in (0, 1):
                given = e.operand(e.load(e.at(at, 64 * half), V16), self.layout.half_floats)
                for row, places in zip(weights, sums, strict=True):
                    total = e.multiply_add(b.load(places[k]), row[half], given)
                    b.store(total, places[k])

    def _put(self, sums: Any, row: Any, token: int) -> None:
        """Writes a product, if there is such a row and input."""
        e, b = self.e, self.e.b
        there = b.icmp_signed("<", row, self.rows)
        there = b.and_(there, b.icmp_signed("<", I64(token), self.tokens))
        with b.if_then(there):
            bias = e.field(self.job, BIAS)
            offset = b.shl(row, I64(1))
            place = cgutils.alloca_once(b, F32)
            b.store(e.total(sums), place)
            with b.if_then(b.icmp_unsigned("!=", bias, I64(0))):
                word = b.load(b.inttoptr(b.add(bias, offset), I16.as_pointer()))
                b.store(b.fadd(b.load(place), e.to_float(word, self.layout.half_floats)), place)
            at = e.at(self.output, b.mul(e.field(self.job, OUTPUT_STRIDE), I64(token)))
            e.store(e.to_word(b.load(place), self.layout.half_floats), e.at(at, offset), 2)


def _groups_of(e: Emitter, job: Any, part: Any) -> tuple[Any, Any]:
    """The groups of eight rows of a part: from, to."""
    b = e.b
    groups = b.lshr(b.add(e.field(job, MATRIX_ROWS), I64(ROWS - 1)), I64(3))
    parts = e.field(job, PARTS)
    return tuple(b.sdiv(b.mul(groups, p), parts) for p in (part, b.add(part, I64(1))))


def _loop(b: Any, begin: Any, end: Any) -> Any:
    return cgutils.for_range(b, end, start=begin, intp=I64)


def product(layout: Layout, batch: int) -> Any:
    """An intrinsic of a job and a part: products of the rows of that part."""

    @intrinsic
    def products(typingctx, job, part):
        def codegen(context, builder, signature, args):
            e = Emitter(context, builder)
            code = _Product(e, layout, batch, args[0])
            with _loop(builder, *_groups_of(e, *args)) as loop:
                code.group(loop.index)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64), codegen

    return products


class _Rows:
    """Code that packs or unpacks rows of a matrix, one after the other."""

    def __init__(self, e: Emitter, layout: Layout, job: Any) -> None:
        self.e, self.layout, self.job = e, layout, job
        self.tiles = e.field(job, TILES)
        self.packed = e.pointer(job, PACKED)
        self.starts = e.pointer(job, STARTS)
        self.escapes = e.pointer(job, ESCAPES)
        b = e.b
        columns = e.field(job, MATRIX_COLUMNS)
        self.last = b.sub(self.tiles, I64(1))
        self.row_bytes = b.shl(columns, I64(1))
        self.last_bytes = b.sub(self.row_bytes, b.shl(self.last, I64(7)))
        self.place = cgutils.alloca_once(b, I64)  # of the next escape
        self.edge = cgutils.alloca_once(b, ir.ArrayType(I8, 128))  # the last tile of a row
        self.edge.align = 64
        self.edge_bytes = b.bitcast(self.edge, I8.as_pointer())

    def start_of(self, row: Any) -> Any:
        """Where the number of the first escape of a row stands."""
        b = self.e.b
        return b.bitcast(self.e.at(self.starts, b.shl(row, I64(2))), I32.as_pointer())

    def tile(self, row: Any, tile: Any) -> Any:
        """Where a tile that has a part of a row begins."""
        b = self.e.b
        number_ = b.add(b.mul(b.lshr(row, I64(3)), self.tiles), tile)
        return self.e.at(self.packed, b.mul(number_, I64(self.layout.tile_bytes)))

    def _plane_places(self, row: Any, first: int, bits: int) -> list[tuple[Any, Any, int, int]]:
        """Offset in the tile, shift there, mask and shift of the number, of its parts."""
        b = self.e.b
        r = b.and_(row, I64(ROWS - 1))
        if bits == 4:
            offset = b.shl(b.lshr(r, I64(1)), I64(6))
            return [(b.add(offset, I64(first)), b.shl(b.and_(r, I64(1)), I64(2)), 15, 0)]
        offset = b.add(b.shl(b.lshr(r, I64(2)), I64(6)), I64(first))
        low = (offset, b.shl(b.and_(r, I64(3)), I64(1)), 3, 0)
        return [low, (I64(first + 128), r, 1, 2)]

    def get(self, at: Any, row: Any, first: int, bits: int) -> Any:
        """The numbers of a row in the planes from byte `first` of a tile."""
        e, b = self.e, self.e.b
        found = number(V8, 0)
        for offset, shift, mask, left in self._plane_places(row, first, bits):
            some = e.moved(e.load(e.at(at, offset), V8, 32), shift)
            found = b.or_(found, e.shifted(b.and_(some, number(V8, mask)), -left))
        return found

    def merge(self, at: Any, row: Any, first: int, bits: int, numbers: Any) -> None:
        """Puts numbers of a row into planes where there are zeros."""
        e, b = self.e, self.e.b
        for offset, shift, mask, left in self._plane_places(row, first, bits):
            some = b.and_(e.shifted(numbers, left), number(V8, mask))
            place = e.at(at, offset)
            e.store(b.or_(e.load(place, V8, 32), e.moved(some, shift, left=True)), place, 32)

    def unpack(self, row: Any, target: Any) -> None:
        """Writes the weights of a row to `target`."""
        e, b, layout = self.e, self.e.b, self.layout
        table = e.load(e.pointer(self.job, PALETTE), V8)
        b.store(b.zext(b.load(self.start_of(row)), I64), self.place)
        r = b.and_(row, I64(ROWS - 1))
        with cgutils.for_range(b, self.tiles, intp=I64) as loop:
            at = self.tile(row, loop.index)
            rank = self.get(at, row, 0, layout.bits)
            rest = e.load(e.at(at, b.add(b.shl(r, I64(6)), I64(layout.plane_bytes))), V8, 32)
            found = cgutils.alloca_once(b, V8)
            exponent = e.lookup(table, rank)
            b.store(exponent, found)
            escaped = _escaped(e, layout, rank)
            bits = e.mask_bits(escaped)
            with b.if_then(b.icmp_unsigned("!=", bits, I64(0))):
                place = b.load(self.place)
                b.store(e.expand(e.at(self.escapes, place), escaped, exponent), found)
                b.store(b.add(place, e.ones(bits)), self.place)
            more = None
            if layout.half_floats:
                more = self.get(at, row, layout.plane_bytes - 192, 3)
            words = _bytes(e, layout, b.load(found), rest, None, more)
            to = e.at(target, b.shl(loop.index, I64(7)))
            self._put(words, to, loop.index)

    def _put(self, words: Any, to: Any, tile: Any) -> None:
        e, b = self.e, self.e.b
        whole = b.icmp_signed("!=", tile, self.last)
        whole = b.or_(whole, b.icmp_signed("==", self.last_bytes, I64(128)))
        with b.if_else(whole) as (then, otherwise):
            with then:
                for half, offset in zip(words, (0, 64), strict=True):
                    e.store(half, e.at(to, offset))
            with otherwise:
                for half, offset in zip(words, (0, 64), strict=True):
                    e.store(half, e.at(self.edge_bytes, offset))
                cgutils.raw_memcpy(b, to, self.edge_bytes, self.last_bytes, 1)

    def source(self, row: Any, tile: Any) -> list[Any]:
        """64 weights of a row of a plain matrix, with the filler behind its columns."""
        e, b = self.e, self.e.b
        last_row = b.sub(e.field(self.job, MATRIX_ROWS), I64(1))
        row = b.select(b.icmp_signed("<", row, last_row), row, last_row)
        begin = e.at(e.pointer(self.job, INPUT), b.mul(row, self.row_bytes))
        at = e.at(begin, b.shl(tile, I64(7)))
        is_edge = b.icmp_signed("==", tile, self.last)
        is_edge = b.and_(is_edge, b.icmp_signed("!=", self.last_bytes, I64(128)))
        with b.if_then(is_edge, likely=False):
            filler = e.splat(b.trunc(e.field(self.job, FILLER), I16), V16)
            for offset in (0, 64):
                e.store(filler, e.at(self.edge_bytes, offset))
            cgutils.raw_memcpy(b, self.edge_bytes, at, self.last_bytes, 1)
        at = b.select(is_edge, self.edge_bytes, at)
        return [e.load(e.at(at, offset), V16) for offset in (0, 64)]

    def split(self, row: Any, tile: Any) -> tuple[Any, Any, Any]:
        """Exponents as in the palette, the byte beside them, and, of FP16, three more bits."""
        e, b = self.e, self.e.b
        low, high = e.parts(self.source(row, tile))
        if self.layout.half_floats:
            sign = e.shifted(b.and_(high, number(V8, 0x80)), 5)
            more = b.or_(b.and_(sign, number(V8, 4)), b.and_(high, number(V8, 3)))
            return b.and_(high, number(V8, 0x7C)), low, more
        top, rest = number(V8, 0x80), number(V8, 0x7F)
        exponent = b.or_(b.and_(low, top), b.and_(high, rest))
        return exponent, b.or_(b.and_(high, top), b.and_(low, rest)), None

    def ranks_of(self, exponent: Any) -> Any:
        """Ranks of exponents, by comparison with all of the palette."""
        e, b = self.e, self.e.b
        palette = e.pointer(self.job, PALETTE)
        rank = number(V8, self.layout.escape)
        for k in range(self.layout.escape):
            entry = e.splat(b.load(e.at(palette, k)), V8)
            rank = b.select(b.icmp_unsigned("==", exponent, entry), number(V8, k), rank)
        return rank

    def count(self, row: Any) -> None:
        """Writes how many escapes a row has to its place among the starts."""
        e, b = self.e, self.e.b
        b.store(I64(0), self.place)
        with cgutils.for_range(b, self.tiles, intp=I64) as loop:
            rank = self.ranks_of(self.split(row, loop.index)[0])
            some = e.ones(e.mask_bits(_escaped(e, self.layout, rank)))
            b.store(b.add(b.load(self.place), some), self.place)
        b.store(b.trunc(b.load(self.place), I32), self.start_of(row))

    def pack(self, row: Any) -> None:
        """Packs a row, whose planes hold zeros yet, and its escapes from its start on."""
        e, b, layout = self.e, self.e.b, self.layout
        b.store(b.zext(b.load(self.start_of(row)), I64), self.place)
        r = b.and_(row, I64(ROWS - 1))
        with cgutils.for_range(b, self.tiles, intp=I64) as loop:
            exponent, rest, more = self.split(row, loop.index)
            rank = self.ranks_of(exponent)
            at = self.tile(row, loop.index)
            e.store(rest, e.at(at, b.add(b.shl(r, I64(6)), I64(layout.plane_bytes))), 32)
            self.merge(at, row, 0, layout.bits, rank)
            if more is not None:
                self.merge(at, row, layout.plane_bytes - 192, 3, more)
            escaped = _escaped(e, layout, rank)
            count = e.ones(e.mask_bits(escaped))
            with b.if_then(b.icmp_unsigned("!=", count, I64(0))):
                # Escapes of the next row may be there already: no byte more than there are.
                e.compress(exponent, escaped, self.edge_bytes)
                place = b.load(self.place)
                cgutils.raw_memcpy(b, e.at(self.escapes, place), self.edge_bytes, count, 1)
                b.store(b.add(place, count), self.place)


def _over_rows(layout: Layout, work: str) -> Any:
    """An intrinsic of a job and a part: a method of `_Rows` for all rows of that part."""

    @intrinsic
    def rows(typingctx, job, part):
        def codegen(context, builder, signature, args):
            e = Emitter(context, builder)
            code = _Rows(e, layout, args[0])
            begin, end = (builder.shl(place, I64(3)) for place in _groups_of(e, *args))
            with _loop(builder, begin, end) as loop:
                getattr(code, work)(loop.index)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64), codegen

    return rows


def counting(layout: Layout) -> Any:
    """An intrinsic of a job and a part: the number of escapes of each row, among the starts."""
    return _over_rows(layout, "count")


def packing(layout: Layout) -> Any:
    """An intrinsic of a job and a part: packs rows from the input."""
    return _over_rows(layout, "pack")


def gathering(layout: Layout) -> Any:
    """An intrinsic of a job and a part: rows by their numbers, an array of int64 at `BIAS`, to the
    output; there are `TOKENS`, divided among `PARTS`."""

    @intrinsic
    def rows(typingctx, job, part):
        def codegen(context, builder, signature, args):
            e, b = Emitter(context, builder), builder
            job, part = args
            code = _Rows(e, layout, job)
            tokens, parts = e.field(job, TOKENS), e.field(job, PARTS)
            begin, end = (b.sdiv(b.mul(tokens, p), parts) for p in (part, b.add(part, I64(1))))
            numbers, output = e.field(job, BIAS), e.pointer(job, OUTPUT)
            stride = e.field(job, OUTPUT_STRIDE)
            with _loop(b, begin, end) as loop:
                row = e.field(b.add(numbers, b.shl(loop.index, I64(3))), 0)
                code.unpack(row, e.at(output, b.mul(loop.index, stride)))
            return context.get_dummy_value()

        return types.void(types.int64, types.int64), codegen

    return rows
