"""Takes arrays apart into columns of different cells, for the coding side."""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from densor.codec.batch import Bytes
from densor.codec.table.arrays import columns_of, sizes_of
from densor.codec.table.cells import Cells, Rows, cells_of
from densor.codec.table.layout import BITS, CELLS, I32, I64, MAX_CELLS, Layout
from densor.codec.table.packing import Packer
from densor.codec.table.state import PADDING
from densor.codec.table.wire import Writer
from densor.errors import FormatError


@dataclass(frozen=True, eq=False)
class ArrayRows(Rows):
    """Buffers in a padded chunk. `sizes`: int64[batches, buffers]; `texts`: those of texts."""

    sizes: I64
    texts: I64

    def cells(self) -> list[Cells]:
        """The different cells of each column."""
        return [self.cells_of(column) for column in range(self.layout.columns)]

    def cells_of(self, column: int) -> Cells:
        """The different cells of a column."""
        layout = self.layout
        first = [number for number, _ in columns_of(layout)].index(column)
        begins = np.array(layout.places, np.int64).reshape(self.sizes.shape)
        form, width = layout.arrays[column], layout.widths[column]
        if form == BITS:
            return self._bits(begins[:, first])
        starts, ends = [], []
        for batch, rows in enumerate(layout.batches):
            at = int(begins[batch, first])
            if form == CELLS:
                offsets = np.arange(rows + 1) * width + at
            else:
                offsets = _offsets(self.data, at, rows, form) + int(begins[batch, first + 1])
            starts.append(offsets[:-1])
            ends.append(offsets[1:])
        where = np.concatenate([*starts, *ends]).astype(np.int32)
        return cells_of(self.data, where, self.rows, [0], self.rows)[0]

    def _bits(self, begins: I64) -> Cells:
        parts = []
        for at, rows in zip(begins.tolist(), self.layout.batches, strict=True):
            packed = self.data[at : at + (rows + 7) // 8]
            parts.append(np.unpackbits(packed, count=rows, bitorder="little"))
        bits = np.concatenate(parts)
        first = int(bits[0])
        ids: I32 = (bits ^ np.uint8(first)).astype(np.int32)
        count = 1 + int(ids.any())
        data = np.zeros(2 + PADDING, np.uint8)
        data[:2] = first, 1 - first
        places = np.arange(count, dtype=np.int32)
        return Cells(data, ids, places, np.ones(count, np.int32), data[:count].astype(np.int64))

    def pack_pieces(self, out: Writer, packer: Packer) -> None:
        """Where buffers lie, and what is between them."""
        begins = np.array(self.layout.places, np.int64)
        sizes = self.sizes.reshape(-1)
        size = self.data.size - PADDING
        before = np.concatenate([[0], begins + sizes])
        gaps = np.concatenate([begins, [size]]) - before
        spans = zip(before.tolist(), gaps.tolist(), strict=True)
        out.number(len(self.layout.batches))
        out.raw(packer.numbers(np.array(self.layout.batches, np.int64)))
        out.raw(packer.numbers(gaps) + packer.numbers(self.texts.reshape(-1)))
        out.raw(packer.pack(b"".join(self.data[at : at + gap].tobytes() for at, gap in spans)))


def arrays_of(data: Bytes, layout: Layout) -> Rows | None:
    """The columns of arrays; None where their buffers do not lie in the data as they should."""
    rows = sum(layout.batches)
    if not rows or rows * layout.columns > MAX_CELLS or _without_bad(data, layout) != layout:
        return None
    sizes, texts = _sizes(data, layout)
    padded = np.concatenate([data, np.zeros(PADDING, np.uint8)])
    nothing = np.zeros(0, np.int64)
    starts = np.zeros(0, np.int32)
    pieces = nothing, nothing, nothing
    return ArrayRows(padded, layout, False, rows, starts, 0, *pieces, sizes, texts)


def fitting(data: Bytes, layout: Layout) -> Layout | None:
    """The layout with those columns alone that the data bears; None where there are none.

    Texts must have offsets that ascend from 0 and not have every byte; bits must end in zeros.
    """
    while True:
        found = _without_bad(data, layout)
        if found is None or found == layout:
            return found
        layout = found


def _without_bad(data: Bytes, layout: Layout) -> Layout | None:
    """The layout without the columns of which some buffers are not as they should be."""
    buffers = columns_of(layout)
    places = np.array(layout.places, np.int64).reshape(len(layout.batches), len(buffers))
    if not places.size or places.min() < 0 or places.max() > data.size:
        return None
    sizes, _ = _sizes(data, layout)
    ends = (places + sizes).reshape(-1)
    over = np.any(
        (ends > np.append(places.reshape(-1)[1:], data.size)).reshape(sizes.shape), axis=0
    )
    bad = {buffers[number][0] for number in np.flatnonzero(over).tolist()}
    for number, (column, is_data) in enumerate(buffers):
        if column in bad:
            continue
        spans = list(zip(places[:, number].tolist(), sizes[:, number].tolist(), strict=True))
        if layout.arrays[column] == BITS:
            lasts = zip(spans, layout.batches, strict=True)
            if any(rows % 8 and data[at + size - 1] >> rows % 8 for (at, size), rows in lasts):
                bad.add(column)
        elif is_data:
            counts = sum(np.bincount(data[at : at + size], minlength=256) for at, size in spans)
            if np.all(counts):
                bad.add(column)
    return layout if not bad else _without(layout, bad)


def _without(layout: Layout, bad: set[int]) -> Layout | None:
    left = [column for column in range(layout.columns) if column not in bad]
    if not left:
        return None
    kept = np.array([column not in bad for column, _ in columns_of(layout)])
    places = np.array(layout.places, np.int64).reshape(len(layout.batches), -1)[:, kept]
    return replace(
        layout,
        columns=len(left),
        widths=tuple(layout.widths[column] for column in left),
        types=tuple(layout.types[column] for column in left),
        arrays=tuple(layout.arrays[column] for column in left),
        places=tuple(places.reshape(-1).tolist()),
    )


def _sizes(data: Bytes, layout: Layout) -> tuple[I64, I64]:
    """Bytes of each buffer, and of those of texts; more than there are where offsets are bad."""
    buffers = columns_of(layout)
    places = np.array(layout.places, np.int64).reshape(len(layout.batches), len(buffers))
    texts = []
    for batch, rows in enumerate(layout.batches):
        for number, (column, is_data) in enumerate(buffers):
            if is_data:
                at, form = int(places[batch, number - 1]), layout.arrays[column]
                texts.append(_text_size(data, at, rows, form))
    found = np.array(texts, np.int64).reshape(len(layout.batches), -1)
    return sizes_of(layout, np.array(layout.batches, np.int64), found), found


def _text_size(data: Bytes, at: int, rows: int, form: int) -> int:
    try:
        offsets = _offsets(data, at, rows, form)
    except FormatError:
        return data.size + 1
    if offsets[0] or (offsets[1:] < offsets[:-1]).any() or offsets[-1] > data.size:
        return data.size + 1
    return int(offsets[-1])


def _offsets(data: Bytes, at: int, rows: int, form: int) -> I64:
    size = (rows + 1) * form
    if at + size > data.size:
        raise FormatError("offsets of texts are not in their chunk")
    found: npt.NDArray[np.signedinteger] = data[at : at + size].view(f"<i{form}")
    return found.astype(np.int64)
