"""The coding side of pages: finds the values in them, and how they were made of these.

A column whose pages cannot be made again stays as it is.
"""

from collections import deque
from dataclasses import replace

import numpy as np

from densor.codec.batch import Batch, Bytes
from densor.codec.chunks import ChunkEncoder
from densor.codec.levels import (
    MAX_BYTES_OF_LITTLE,
    Level,
    with_fewer_contexts,
    with_plain_tables,
)
from densor.codec.pages import compression, recipe
from densor.codec.pages.content import arrays_of, rows_of_tables
from densor.codec.pages.layout import MAX_CONTENT, SPLIT, Column, Pages
from densor.codec.pages.payload import FIRST, MAX_TABLES, NEWER, NEWEST, model_of, pack_table
from densor.codec.pages.undo import Undone, undo
from densor.codec.table import params
from densor.codec.table.array_cells import fitting
from densor.codec.table.encoder import TableCoder
from densor.codec.table.layout import MAX_ARRAY_BYTES
from densor.codec.table.packing import Packer
from densor.codec.table.wire import Writer
from densor.errors import FormatError
from densor.runtime.workers import Task, Workers


class PagesCoder:
    """A `ChunkCoder` of stretches of pages, each as they lie in one."""

    repeats = False

    def __init__(self, pages: Pages, level: Level, workers: Workers) -> None:
        self._pages = pages
        self._level = replace(level, latents=False)
        self._workers = workers
        self._packer = Packer(level.zstd, level.tables > 0, level.tables < 4, level)

    def model(self) -> bytes:
        """The payload of the MODEL frame."""
        return model_of(max(map(_form_of, self._pages.columns)))

    def encode(self, chunk: Bytes, index: int) -> Bytes:
        """The payload of a stretch; the stretch itself where no page can be made again."""
        undone = self._undone(chunk)
        try:
            return np.frombuffer(self._coded(undone, chunk), np.uint8) if undone else chunk
        except FormatError:  # of more than a chunk may have
            return chunk

    def _undone(self, chunk: Bytes) -> list[Undone]:
        """The columns that can be made again but the largest, of which one chunk has no room.

        A few are taken apart at a time, since values of a hostile file may be many times its size.
        """
        rows, columns = self._pages
        ahead = self._workers.threads
        tasks: deque[Task[Undone | None]] = deque()
        kept: list[Undone] = []
        for number in range(len(columns) + ahead):
            if number < len(columns):
                tasks.append(self._workers.submit(undo, columns[number], rows, chunk))
            found = tasks.popleft().result() if number >= ahead else None
            if found is not None:
                kept.append(found)
            while sum(map(_size, kept)) > MAX_CONTENT:
                del kept[max(range(len(kept)), key=lambda place: (_size(kept[place]), place))]
        return kept

    def _coded(self, undone: list[Undone], chunk: Bytes) -> bytes:
        rows = self._pages.rows
        counts = rows_of_tables([one.values for one in undone], rows)
        rest, recipes, at = [], [], 0
        for one in undone:
            begin = one.column.begin
            rest += [chunk[at:begin].tobytes(), one.headers]
            recipes.append(one.recipe._replace(before=begin - at))
            at = begin + one.column.size
        rest.append(chunk[at:].tobytes())
        out = Writer()
        out.number(rows)
        out.raw(recipe.pack(recipes, self._packer))
        out.raw(self._packer.pack(b"".join(rest)))
        out.number(len(counts))
        at = 0
        for count in counts:
            out.raw(self._table(undone, at, at + count))
            at += count
        if len(counts) > MAX_TABLES:
            raise FormatError("pages have too many values")
        return out.bytes()

    def _table(self, undone: list[Undone], begin: int, end: int) -> bytes:
        """The values of some rows, the smallest way."""
        values, dtypes = [one.values for one in undone], [one.column.dtype for one in undone]
        layout, content = arrays_of(values, dtypes, begin, end)
        if content.size > MAX_ARRAY_BYTES:
            raise FormatError("pages have too many values")
        rows, found = end - begin, []
        fits = fitting(content, layout)
        for level in self._ways(content.size) if fits is not None else ():
            assert fits is not None
            stored = TableCoder(fits, level, self._workers).encode(content, 0)
            if stored is not content:
                found.append(pack_table(rows, content.size, params.pack(fits), stored.tobytes()))
        if not found or content.size <= MAX_BYTES_OF_LITTLE:
            packed = self._packer.pack(content.tobytes())
            found.append(pack_table(rows, content.size, b"", packed))
        return min(found, key=len)

    def _ways(self, size: int) -> list[Level]:
        """Levels whose models are tried."""
        level = self._level
        if size > MAX_BYTES_OF_LITTLE:
            return [level]
        ways = [level, *with_fewer_contexts(level), with_plain_tables(level)]
        different = {way.tables: way for way in reversed(ways)}
        return [different[tables] for tables in sorted(different, reverse=True)]


def _form_of(column: Column) -> int:
    """The first form of which pages can be those of a column."""
    last = max(page.kind for page in column.pages)
    if last > SPLIT:
        return NEWEST
    return NEWER if column.codec in compression.NEWER or last == SPLIT else FIRST


def _size(undone: Undone) -> int:
    return undone.values.data.size + 8 * undone.values.rows


def propose(batch: Batch, level: Level) -> ChunkEncoder | None:
    """An encoder for a stretch of pages."""
    pages = batch.kind.pages
    assert pages is not None
    return ChunkEncoder(PagesCoder(pages, level, batch.workers), batch, level.zstd)
