"""The coding side of blocks: every field gets the coder that suits its element type."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from densor.codec import registry
from densor.codec.batch import Batch, Bytes, Coding, Smallest
from densor.codec.blocks.block import Field, columns, items
from densor.codec.blocks.joined import take_symbols
from densor.codec.blocks.order import Order, arrange
from densor.codec.blocks.payload import FIELD, HEAD, JOINED
from densor.codec.chunks import CountingEncoder
from densor.codec.interfaces import Encoder
from densor.codec.kind import Kind, kind_of
from densor.codec.levels import Level
from densor.codec.parts import PartEncoder, fit_models, join_parts
from densor.codec.planes.propose import element_coder
from densor.codec.sampling import sample
from densor.dtypes import SIZES
from densor.runtime.buffers import POOL

_PIECE = 1 << 15  # bytes at each place of a batch that is looked at, about
_SORTED_RUN = 512  # elements
_SAMPLE = 1 << 12  # bytes at each place by which fields are joined or not
_BITS_OF_SYMBOL = 6.0  # that parameters take for each symbol of a code, about
_MIN_SHARE, _MAX_SHARE = 0.99, 1.01  # of what fields take apart; between, both ways are tried
_MAX_BYTES_OF_TRIAL = 1 << 15  # of blocks, up to which both are tried in any case


def propose(batch: Batch, level: Level) -> Encoder:
    """An encoder for a batch of blocks, whose packed elements are joined where that pays."""
    ways = [Split(batch.kind, batch.data.size)]
    if any(field.joined for field in batch.kind.fields):
        ways.append(Split(batch.kind, batch.data.size, together=True))
        if batch.data.size > _MAX_BYTES_OF_TRIAL:
            ways = _clear(batch, ways, level.classes)
    encoders = [CountingEncoder(_coder(batch, way, level), batch, level.zstd) for way in ways]
    return encoders[0] if len(encoders) == 1 else _Both(*encoders)


def _coder(batch: Batch, way: "Split", level: Level) -> "BlocksEncoder":
    return BlocksEncoder(batch.data, batch.kind, level, batch.chunks()[0].size, way)


def _clear(batch: Batch, ways: "list[Split]", codes: int) -> "list[Split]":
    """The one of two ways that takes less of a sample, or both where that is not clear."""
    run = batch.kind.columns * batch.kind.unit
    some = sample(batch.data, run, max(1, _SAMPLE // run))
    apart, together = (way.expected(some, codes) for way in ways)
    if _MIN_SHARE * apart < together < _MAX_SHARE * apart:
        return ways
    return ways[together < apart :][:1]


class _Both(Encoder):
    """An `Encoder` in two ways, the smaller of which is taken."""

    def __init__(self, *encoders: Encoder) -> None:
        self._encoders = encoders

    def encode(self) -> Coding:
        """Starts coding all chunks in both ways."""
        return Smallest(*(encoder.encode() for encoder in self._encoders))


class Split:
    """How the blocks of a batch of `size` bytes are taken apart, field by field.

    `together`: packed elements are joined where their field says how.
    """

    def __init__(self, kind: Kind, size: int, together: bool = False) -> None:
        self.sizes = [field.size for field in kind.fields]
        self.joined = {i: field.joined for i, field in enumerate(kind.fields) if field.joined}
        self._run = kind.run
        self._fields = kind.fields
        high = {one.high for one in self.joined.values() if one.high_bits}
        self._packed = sorted({*self.joined, *high})
        if not together:
            self.joined, high = {}, set()
        whole = size % (kind.columns * kind.unit) == 0  # unless the input ended early
        self.orders = [_order(field, kind.columns, whole) for field in kind.fields]
        for i in self.joined:
            self.orders[i] = Order(registry.ORDER_JOINED)
        for i in high:
            self.orders[i] = Order(registry.ORDER_ELSEWHERE)

    def parts(self, data: Bytes) -> list[Bytes]:
        """The fields of whole blocks as they are coded, each in an array of its own; pooled."""
        blocks = data.size // sum(self.sizes)
        parts = [POOL.take(blocks * size) for size in self.sizes]
        for part, column, size in zip(parts, columns(data, self.sizes), self.sizes, strict=True):
            items(part, size)[:] = column
        coded = []
        for i, (part, size, order) in enumerate(zip(parts, self.sizes, self.orders, strict=True)):
            if order.kind == registry.ORDER_BLOCKS:
                coded.append(part)
            elif order.kind == registry.ORDER_JOINED:
                coded.append(take_symbols(data, self.joined[i], i, self.sizes, parts))
            elif order.kind == registry.ORDER_ELSEWHERE:
                coded.append(part[:0])
            else:
                coded.append(POOL.take(part.size))
                arrange(part, size, order, parts[:i], coded[i])
        for part, ordered in zip(parts, coded, strict=True):
            if part is not ordered:
                POOL.give(part)
        return coded

    def kind(self, i: int, rows: int) -> Kind:
        """What the part of field `i` is in chunks of `rows` rows: elements in runs that are alike.

        In the order of the blocks these are rows of the tensor; by columns what a chunk has of a
        column; otherwise runs of a fixed length.
        """
        field, order = self._fields[i], self.orders[i].kind
        joined = self.joined.get(i)
        if joined is not None and joined.key == registry.KEY_NONE:
            return kind_of("U8", (2, self._run * joined.symbols(field.size)))
        if order == registry.ORDER_COLUMNS and rows > 1:
            return kind_of(field.dtype, (2, rows))
        if order == registry.ORDER_BLOCKS:
            return kind_of(field.dtype, (2, self._run * field.size // SIZES[field.dtype]))
        return kind_of(field.dtype, (_SORTED_RUN, _SORTED_RUN))

    def expected(self, some: Bytes, codes: int) -> float:
        """Bits that a sample's fields which may be joined take, about, with so many codes each."""
        parts = self.parts(some)
        bits = sum(_order_0(parts[i], codes) for i in self._packed)
        for part in parts:
            POOL.give(part)
        return bits


class BlocksEncoder:
    """A `BatchCoder` of blocks; `data` is the whole batch, of which a sample is looked at.

    `chunk`: bytes of a chunk. `way`: how blocks are taken apart, by fields alone if not given.
    """

    repeats = False  # every field tries Zstandard by itself

    def __init__(
        self, data: Bytes, kind: Kind, level: Level, chunk: int, way: Split | None = None
    ) -> None:
        self._way = Split(kind, data.size) if way is None else way
        run = kind.columns * kind.unit
        rows = chunk // run
        parts = self._way.parts(sample(data, run, max(1, _PIECE // run)))
        coders = [
            element_coder(part, self._way.kind(i, rows), level) if part.size else None
            for i, part in enumerate(parts)
        ]
        self._parts = [PartEncoder(coder, level.zstd) for coder in coders]
        for part in parts:
            POOL.give(part)

    def count(self, chunk: Bytes) -> list[Any]:
        """What each field's coder counts."""
        split = self._way.parts(chunk)
        tallies = [part.count(data) for part, data in zip(self._parts, split, strict=True)]
        for data in split:
            POOL.give(data)
        return tallies

    def decide(self, tallies: Sequence[list[Any]]) -> None:
        """Lets each field's coder settle its model."""
        for part, counted in zip(self._parts, zip(*tallies, strict=True), strict=True):
            part.decide(counted)
        fit_models(self._parts)

    def model(self) -> bytes:
        """The payload of the MODEL frame."""
        fields = (self._field(i) + part.model() for i, part in enumerate(self._parts))
        return HEAD.pack(registry.CODEC_BLOCKS, len(self._parts)) + b"".join(fields)

    def _field(self, i: int) -> bytes:
        """The description of a field."""
        way = self._way
        described = FIELD.pack(way.sizes[i], *way.orders[i])
        return described + (JOINED.pack(*way.joined[i]) if i in way.joined else b"")

    def encode(self, chunk: Bytes, index: int) -> Bytes:
        """The payload of chunk number `index`."""
        split = self._way.parts(chunk)
        coded = [part.encode(data, index) for part, data in zip(self._parts, split, strict=True)]
        payload = join_parts(b"", coded)
        for stored in itertools.chain(split, (stored for _, stored in coded)):
            POOL.give(stored)
        return payload


def _order_0(part: Bytes, codes: int) -> float:
    """Bits that a part takes where each of so many stretches has a code of its own, about."""
    bits = 0.0
    for stretch in np.array_split(part, codes):
        counts = np.bincount(stretch, minlength=1)
        counts = counts[counts > 0]
        bits += float((counts * np.log2(max(stretch.size, 1) / counts)).sum())
        bits += _BITS_OF_SYMBOL * counts.size
    return bits


def _order(field: Field, row: int, whole: bool) -> Order:
    """The order of a field in rows of `row` blocks; by columns only if there are `whole` rows."""
    if field.order != registry.ORDER_COLUMNS:
        return Order(field.order)
    if not whole:
        return Order()
    width = SIZES[field.dtype]
    return Order(field.order, width, row * field.size // width)
