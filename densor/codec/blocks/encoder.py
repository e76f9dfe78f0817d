"""The coding side of blocks: every field gets the coder that suits its element type."""

import itertools
from collections.abc import Sequence
from typing import Any

from densor.codec import registry
from densor.codec.batch import Batch, Bytes
from densor.codec.blocks.block import Field, columns, items
from densor.codec.blocks.order import Order, arrange
from densor.codec.blocks.payload import FIELD, HEAD
from densor.codec.chunks import CountingEncoder
from densor.codec.kind import Kind, kind_of
from densor.codec.levels import Level
from densor.codec.parts import PartEncoder, fit_models, join_parts
from densor.codec.planes.propose import element_coder
from densor.codec.sampling import sample
from densor.dtypes import SIZES
from densor.runtime.buffers import POOL

_PIECE = 1 << 15  # bytes at each place of a batch that is looked at, about
_SORTED_RUN = 512  # elements


def propose(batch: Batch, level: Level) -> CountingEncoder:
    """An encoder for a batch of blocks."""
    coder = BlocksEncoder(batch.data, batch.kind, level, batch.chunks()[0].size)
    return CountingEncoder(coder, batch, level.zstd)


class BlocksEncoder:
    """A `BatchCoder` of blocks; `data` is the whole batch, of which a sample is looked at.

    `chunk`: bytes of a chunk.
    """

    repeats = False  # every field tries Zstandard by itself

    def __init__(self, data: Bytes, kind: Kind, level: Level, chunk: int) -> None:
        self._fields = kind.fields
        self._sizes = [field.size for field in kind.fields]
        row = kind.columns
        whole = data.size % (row * kind.unit) == 0  # unless the input ended early
        self._orders = [_order(field, row, whole) for field in kind.fields]
        rows = chunk // (row * kind.unit)  # of a chunk
        run = row * kind.unit
        pieces = sample(data, run, max(1, _PIECE // run))
        self._parts = [
            PartEncoder(element_coder(part, _field_kind(field, kind.run, rows), level), level.zstd)
            for field, part in zip(self._fields, self._split(pieces), strict=True)
        ]

    def count(self, chunk: Bytes) -> list[Any]:
        """What each field's coder counts."""
        split = self._split(chunk)
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
        fields = (
            FIELD.pack(size, *order) + part.model()
            for size, order, part in zip(self._sizes, self._orders, self._parts, strict=True)
        )
        return HEAD.pack(registry.CODEC_BLOCKS, len(self._fields)) + b"".join(fields)

    def encode(self, chunk: Bytes, index: int) -> Bytes:
        """The payload of chunk number `index`."""
        split = self._split(chunk)
        coded = [part.encode(data, index) for part, data in zip(self._parts, split, strict=True)]
        payload = join_parts(b"", coded)
        for stored in itertools.chain(split, (stored for _, stored in coded)):
            POOL.give(stored)
        return payload

    def _split(self, data: Bytes) -> list[Bytes]:
        """The fields of whole blocks as they are coded, each in an array of its own."""
        blocks = data.size // sum(self._sizes)
        parts = [POOL.take(blocks * size) for size in self._sizes]
        for part, column, size in zip(parts, columns(data, self._sizes), self._sizes, strict=True):
            items(part, size)[:] = column
        coded = []
        for i, (part, size, order) in enumerate(zip(parts, self._sizes, self._orders, strict=True)):
            if order.kind == registry.ORDER_BLOCKS:
                coded.append(part)
                continue
            coded.append(POOL.take(part.size))
            arrange(part, size, order, parts[:i], coded[i])
        for part, ordered in zip(parts, coded, strict=True):
            if part is not ordered:
                POOL.give(part)
        return coded


def _order(field: Field, row: int, whole: bool) -> Order:
    """The order of a field in rows of `row` blocks; by columns only if there are `whole` rows."""
    if field.order != registry.ORDER_COLUMNS:
        return Order(field.order)
    if not whole:
        return Order()
    width = SIZES[field.dtype]
    return Order(field.order, width, row * field.size // width)


def _field_kind(field: Field, run: int, rows: int) -> Kind:
    """What a field is: elements in runs that are likely to be alike.

    In the order of the blocks these are rows of the tensor, of `run` blocks each; by columns what
    a chunk of so many `rows` has of a column; otherwise runs of a fixed length.
    """
    size = SIZES[field.dtype]
    if field.order == registry.ORDER_COLUMNS and rows > 1:
        return kind_of(field.dtype, (2, rows))
    if field.order == registry.ORDER_BLOCKS:
        return kind_of(field.dtype, (2, run * field.size // size))
    return kind_of(field.dtype, (_SORTED_RUN, _SORTED_RUN))
