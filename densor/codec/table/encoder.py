"""The coding side of tables."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import xxhash

from densor.codec.batch import Batch, Bytes, Chunks, Coding
from densor.codec.chunks import ChunkEncoder
from densor.codec.levels import Level
from densor.codec.table.array_cells import arrays_of as columns_of_arrays
from densor.codec.table.array_cells import fitting
from densor.codec.table.cells import (
    Cells,
    Dictionary,
    Rows,
    dictionary_of,
    pack_values,
    rows_of,
)
from densor.codec.table.contexts import (
    MAX_VALUES,
    Context,
    Values,
    arrays_of,
    function_places,
    pack_contexts,
    parents_of,
)
from densor.codec.table.dictionary import NUMBERS
from densor.codec.table.fitting import Plan, Sample
from densor.codec.table.functions import MOST_ROWS, Functions
from densor.codec.table.items import INTEGERS
from densor.codec.table.latent_encoder import MOST_DIFFERENT, Under, under_latents
from densor.codec.table.layout import I32, I64, Layout
from densor.codec.table.mixing import Settings, code_column
from densor.codec.table.packing import Packer
from densor.codec.table.params import pack
from densor.codec.table.payload import (
    BYTES,
    CONSTANT,
    FUNCTION,
    HUFFMAN,
    LATENT,
    MIXED,
    NAMED,
    STEPS,
    SYMBOLS,
    TEXT,
)
from densor.codec.table.prefix_code import code_of, lengths_for
from densor.codec.table.record_cells import items_dictionary, records_of
from densor.codec.table.state import MISSING_STEP
from densor.codec.table.wire import Writer
from densor.entropy.deferred import deferred
from densor.errors import FormatError
from densor.runtime.workers import Workers

bits_of, count_steps, count_symbols, find_exceptions, put_codes = deferred(
    "densor.codec.table.symbol_kernels",
    "bits_of",
    "count_steps",
    "count_symbols",
    "find_exceptions",
    "put_codes",
)

MAX_DIFFERENT = 0.35  # share of cells that differ, beyond which they are a text
_MIN_DIFFERENT = 300
_SAMPLE_BYTES = 1 << 20
_MAX_STEPS = 0.6  # different steps from row to row, as a share of different cells
MAX_KNOWN = 48  # columns under latent classes that others may depend on
_MAX_SHARE_OF_WRONG = 0.3  # of guesses, which make coding faster where they are right
_LITTLE = 64  # bytes of a function, beside which nothing else is tried
_LIMIT = 250  # what counters count to
_SAMPLES = {2: 1 << 14, 4: 20000, 12: 1 << 17}  # rows, by how many contexts are mixed


@dataclass(frozen=True, eq=False)
class Column:
    """A column on its way into a chunk.

    `record`: what stands in front of its symbols, or all where it has no `values`, which are what
    it is as a parent. `count`: of different symbols.
    """

    record: bytes
    values: Values | None = None
    count: int = 1


def column_of(dictionary: Dictionary, packer: Packer) -> Column:
    """A column, with its dictionary coded."""
    cells = dictionary.cells
    rows, count = cells.ids.size, cells.places.size
    if count == 1:
        return Column(bytes([CONSTANT]) + cells.text(0), Values(np.zeros(rows, np.int32)))
    steps = _as_steps(dictionary, packer)
    if steps is not None:
        return steps
    if count > MAX_DIFFERENT * rows and count > _MIN_DIFFERENT:
        return Column(bytes([TEXT]) + dictionary.pack_rows(packer))
    values = Values(dictionary.ids, dictionary.numbers)
    return Column(bytes([SYMBOLS]) + dictionary.pack(packer), values, count)


def _as_steps(dictionary: Dictionary, packer: Packer) -> Column | None:
    """A column by what it grows from row to row, where there are few different steps."""
    numbers = dictionary.numbers
    count = dictionary.order.size
    if (
        dictionary.kind not in (NUMBERS, INTEGERS)
        or dictionary.values.size != count
        or count < _MIN_DIFFERENT
    ):
        return None
    assert numbers is not None
    most = int(_MAX_STEPS * count)
    slots = np.full(1 << (2 * most + 1).bit_length(), MISSING_STEP)
    if count_steps(numbers, dictionary.ids, slots, most) > most:
        return None
    values = numbers[dictionary.ids]
    if np.abs(np.diff(values.astype(np.float64), prepend=0)).sum() > 1e18:
        return None
    steps, symbols = np.unique(np.diff(values, prepend=0), return_inverse=True)
    out = Writer()
    out.byte(STEPS)
    out.byte(dictionary.kind)
    out.number(steps.size)
    out.byte(0)
    out.number(0)
    out.raw(dictionary.pack_cells(np.zeros(0, np.int64), packer))
    out.raw(pack_values(steps, packer))
    out.byte(dictionary.style)
    return Column(
        out.bytes(), Values(symbols.reshape(-1).astype(np.int32), by_row=values), steps.size
    )


class Planned(NamedTuple):
    """The order of columns, and the contexts of each, for all chunks of a batch."""

    order: list[int]
    fitted: dict[int, tuple[Context, ...]]


class TableCoder:
    """A `ChunkCoder` of a table; `workers` code the columns of a chunk that are mixed."""

    repeats = False

    def __init__(self, layout: Layout, level: Level, workers: Workers | None = None) -> None:
        self._layout = layout
        self._workers = workers if workers is not None and level.tables else Workers(1)
        self._contexts = level.tables
        self._latents = level.latents and not layout.records and not layout.arrays
        mixing = level.tables > 0
        self._packer = Packer(level.zstd, mixing, level.tables < 4, level)
        self._functions: Functions | None = None
        self._planned: Planned | None = None

    def model(self) -> bytes:
        """The payload of the MODEL frame."""
        return pack(self._layout)

    def settle(self, chunk: Bytes) -> None:
        """Finds out by one of several chunks which columns others depend on."""
        with contextlib.suppress(FormatError):  # then each chunk is looked at by itself
            self._settle(chunk if self._contexts else chunk[:_SAMPLE_BYTES])

    def _settle(self, sample: Bytes) -> None:
        rows = _rows(sample[: _end_of_rows(sample, self._layout)], self._layout)
        if rows is None:
            return
        packer = Packer(1)
        columns = [column_of(dictionary, packer) for dictionary in self._dictionaries(rows)]
        if not self._contexts:
            self._functions = _functions_of(columns, MOST_ROWS)
        elif any(column.count > 1 for column in columns):
            self._planned = self._plan(columns, ())

    def encode(self, chunk: Bytes, index: int) -> Bytes:
        """The payload of a chunk; the chunk itself where it is hardly a table."""
        try:
            rows = _rows(chunk, self._layout) if chunk.size <= self._layout.max_bytes else None
            if rows is None:
                return chunk
            return np.frombuffer(self._coded(rows), np.uint8)
        except FormatError:
            return chunk

    def _coded(self, rows: Rows) -> bytes:
        packer = self._packer
        found = self._dictionaries(rows)
        odd = [rows for rows in (dictionary.odd() for dictionary in found) if rows is not None]
        if odd and not self._layout.arrays:
            rows = rows.without(np.logical_or.reduce(odd))
            found = self._dictionaries(rows)
        submit = self._workers.submit
        tasks = [submit(column_of, dictionary, packer) for dictionary in found]
        columns = [task.result() for task in tasks]
        records = self._records(columns, ())
        payload = _joined(rows, records, packer)
        if not self._latents:
            return payload
        may = {i: records[i] for i, column in enumerate(columns) if _may_be_latent(column)}
        under = under_latents(found, may, self._layout.quote, packer)
        if under is None:
            return payload
        others = _joined(rows, self._records(columns, under.columns), packer, under)
        return min(payload, others, key=len)

    def _records(self, columns: Sequence[Column], under: Sequence[int]) -> dict[int, bytes]:
        """The records of all columns but those under latent classes, in their order."""
        left = {i: column for i, column in enumerate(columns) if i not in under}
        coded = [i for i, column in left.items() if column.count > 1]
        records = {i: column.record for i, column in left.items() if column.count == 1}
        if coded and self._contexts:
            return records | self._mixed(columns, coded, under)
        return records | self._fast(columns, coded) if coded else records

    def _dictionaries(self, rows: Rows) -> list[Dictionary]:
        submit = self._workers.submit
        tasks = [submit(_dictionary, cells, rows.layout, i) for i, cells in enumerate(rows.cells())]
        return [task.result() for task in tasks]

    # By context mixing

    def _mixed(
        self, columns: Sequence[Column], coded: Sequence[int], known: Sequence[int]
    ) -> dict[int, bytes]:
        planned = self._planned
        if planned is None or known or set(coded) != set(planned.fitted):
            planned = self._plan(columns, known)
        submit, fitted = self._workers.submit, planned.fitted
        tasks = {i: submit(self._mix, columns, i, fitted[i]) for i in planned.order}
        return {i: columns[i].record + task.result() for i, task in tasks.items()}

    def _plan(self, columns: Sequence[Column], known: Sequence[int]) -> "Planned":
        """The order of all columns that are coded, and the contexts of each."""
        values = [c.values if c.count > 1 else None for c in columns]
        coded = [i for i, c in enumerate(columns) if c.count > 1 and i not in known]
        sample = Sample(values, [c.count for c in columns], _SAMPLES[self._contexts])
        plan = Plan(sample, coded, known[:MAX_KNOWN])
        order = [number for number in plan.order if number in coded]
        places = {number: place for place, number in enumerate(plan.order)}
        fitted = {i: plan.contexts(i, plan.order[: places[i]], self._contexts) for i in order}
        return Planned(order, fitted)

    def _mix(self, columns: Sequence[Column], number: int, fitted: Sequence[Context]) -> bytes:
        column = columns[number]
        symbols = _values(columns, number).symbols
        contexts = [c for c in fitted if _can_be_had(columns, c)]
        while len(parents_of(contexts)) * symbols.size > MAX_VALUES:
            contexts.pop()
        contexts = contexts or [Context()]
        lengths = lengths_for(np.bincount(symbols, minlength=column.count))
        arrays = arrays_of(contexts, lambda i: _values(columns, i), symbols.size)
        guess = _is_guessed(*arrays, symbols)
        out = Writer()
        out.byte(MIXED)
        out.raw(self._packer.pack(lengths.tobytes()))
        out.number(_LIMIT)
        out.byte(int(guess))
        pack_contexts(contexts, out)
        data = np.empty(symbols.size * 4 + 64, np.uint8)
        code = code_of(lengths, column.count)
        settings = Settings(symbols.size, _LIMIT, guess)
        size = code_column(True, code, *arrays, symbols.copy(), data, settings)
        if size > data.size:
            raise FormatError("symbols of a table do not become smaller")
        return out.bytes() + data[:size].tobytes()

    # The fast way

    def _fast(self, columns: Sequence[Column], coded: Sequence[int]) -> dict[int, bytes]:
        functions = self._functions or _functions_of(columns)
        left = [i for i in coded if i not in functions.order]
        records = {}
        done: set[int] = set()
        for number in [*(i for i in functions.order if i in coded), *left]:
            context = functions.found.get(number, None)
            if context and not {j for p in context.parents for j in p.columns} <= done:
                context = None
            records[number] = columns[number].record + self._by_code(columns, number, context)
            done.add(number)
        return records

    def _by_code(self, columns: Sequence[Column], number: int, context: Context | None) -> bytes:
        symbols, count = _values(columns, number).symbols, columns[number].count
        steps = np.empty_like(symbols)
        counts, different = np.zeros((2, count), np.int64)
        count_symbols(symbols, steps, counts, different)
        differences = bool(bits_of(different) < bits_of(counts))
        coded, counts = (steps, different) if differences else (symbols, counts)
        lengths = lengths_for(counts)
        size = int((counts * lengths).sum() + 7) >> 3
        head = bytes([HUFFMAN, int(differences)]) + self._packer.pack(lengths.tobytes())
        found = None
        if context is not None:
            found = self._by_function(columns, symbols, context, len(head) + size)
        if found and len(found) <= _LITTLE:
            return found
        if size < symbols.size >> 2:  # where codes of a bit are too long
            packed = self._packer.numbers(coded)
            if len(packed) < size + len(head):
                by_bytes = bytes([BYTES, int(differences)]) + packed
                return found if found and len(found) < len(by_bytes) else by_bytes
        if found and len(found) < len(head) + size:
            return found
        data = np.empty(size + 16, np.uint8)
        put_codes(code_of(lengths, count), coded, data)
        return head + data[:size].tobytes()

    def _by_function(
        self, columns: Sequence[Column], symbols: I32, context: Context, most: int
    ) -> bytes | None:
        numbers, parents = arrays_of([context], lambda i: _values(columns, i), symbols.size)
        rows = np.empty(min(symbols.size, most) + 1, np.int64)
        flat = numbers.reshape(-1), parents.reshape(-1)
        count = int(find_exceptions(*flat, symbols, *function_places(), rows))
        if count > rows.size:
            return None
        rows = rows[:count]
        out = Writer()
        out.byte(FUNCTION)
        pack_contexts([context], out)
        out.number(count)
        out.raw(self._packer.numbers(np.diff(rows, prepend=-1) - 1))
        out.raw(self._packer.numbers(symbols[rows]))
        return out.bytes()


def _end_of_rows(data: Bytes, layout: Layout) -> int:
    """Where the last whole row of a text ends."""
    if layout.records:
        return data.size // layout.stride * layout.stride
    return data.tobytes().rfind(b"\n") + 1


def _rows(data: Bytes, layout: Layout) -> Rows | None:
    if layout.arrays:
        return columns_of_arrays(data, layout)
    if layout.records:
        return records_of(data, layout)
    return rows_of(data, layout) if data.size else None


def _dictionary(cells: Cells, layout: Layout, column: int) -> Dictionary:
    if layout.has_items(column):
        return items_dictionary(cells, layout, column)
    return dictionary_of(cells, layout.quote, layout.width(column))


def _functions_of(columns: Sequence[Column], most: int | None = None) -> Functions:
    values = [c.values if c.count > 1 else None for c in columns]
    return Functions(values, [c.count for c in columns], most)


def _values(columns: Sequence[Column], number: int) -> Values:
    values = columns[number].values
    assert values is not None
    return values


def _can_be_had(columns: Sequence[Column], context: Context) -> bool:
    """Whether all parents have symbols, and numbers where these are added."""
    for parent in context.parents:
        values = [columns[i].values for i in parent.columns]
        if any(v is None or (parent.operation and not v.has_numbers) for v in values):
            return False
    return True


def _is_guessed(contexts: I64, parents: I64, symbols: I32) -> bool:
    """Whether most symbols are the last one under the first context."""
    rows = np.empty(int(_MAX_SHARE_OF_WRONG * symbols.size) + 1, np.int64)
    sides = symbols, *function_places(), rows
    wrong = find_exceptions(contexts[0].copy(), parents.reshape(-1), *sides)
    return int(wrong) < rows.size


def _may_be_latent(column: Column) -> bool:
    return column.record[0] == SYMBOLS and 1 < column.count <= MOST_DIFFERENT


def _check(record: bytes) -> bytes:
    return (xxhash.xxh3_64_intdigest(record) & 0xFFFFFFFF).to_bytes(4, "little")


def _joined(
    rows: Rows, records: dict[int, bytes], packer: Packer, under: Under | None = None
) -> bytes:
    """The payload: the head, and the records in the order they are in."""
    out = Writer()
    out.byte((NAMED if rows.named else 0) | (LATENT if under else 0))
    out.number(rows.rows)
    rows.pack_pieces(out, packer)
    if under:
        out.number(len(under.record))
        out.raw(_check(under.record))
        out.number(len(records))
    for number, record in records.items():
        out.number(number)
        out.number(len(record))
        out.raw(_check(record))
    return out.bytes() + (under.record if under else b"") + b"".join(records.values())


def propose(batch: Batch, level: Level) -> ChunkEncoder | None:
    """An encoder for a text that is a table; None where that has no columns."""
    layout = batch.kind.table
    assert layout is not None
    if layout.arrays:
        layout = fitting(batch.data, layout)
        if layout is None:
            return None
    return TableEncoder(TableCoder(layout, level, batch.workers), batch, level.zstd)


class TableEncoder(ChunkEncoder):
    """Codes chunks that end where lines or records do."""

    coder: TableCoder

    @property
    def _layout(self) -> Layout:
        layout = self.batch.kind.table
        assert layout is not None
        return layout

    def encode(self) -> Coding:
        """Starts coding all chunks."""
        submit, chunks = self.batch.workers.submit, self._chunks()
        if len(chunks) > 1:
            self.coder.settle(chunks[len(chunks) // 2])
        return Chunks(self.coder, [submit(self._store, chunk, i) for i, chunk in enumerate(chunks)])

    def _chunks(self) -> list[Bytes]:
        data, step = self.batch.data, self.batch.chunk_bytes or self.batch.data.size
        if self._layout.arrays:
            return [data]
        chunks, at = [], 0
        while at < data.size:
            end = min(at + step, data.size)
            if end < data.size:
                begin = at if self._layout.records else end - step // 2
                length = _end_of_rows(data[begin:end], self._layout)
                end = begin + length if length else end
            chunks.append(data[at:end])
            at = end
        return chunks
