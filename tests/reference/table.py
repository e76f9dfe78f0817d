"""A slow decoder of tables, after docs/format/table.md and nothing else."""

import datetime
import struct
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import xxhash

from reference.arithmetic import RATE, SQUASH, STRETCH, Arithmetic, clip
from reference.reading import Cursor, Refused, decode_zstd, fail

CODEC = 13
MASK = 2**64 - 1
MISSING = -(2**40)
THRESHOLDS = (1, 2, 3, 4, 5, 6, 8, 11, 16, 24, 40, 80, 160, 320, 640)
CELLS = [SQUASH[(4096 * i + 15) // 31] for i in range(31)] + [SQUASH[4095]]
EPOCH = datetime.datetime(1970, 1, 1)

Parse = Callable[[bytes], Any]


class Fields(Cursor):
    """Numbers and packed bytes."""

    def __init__(self, data: bytes, parse: Parse) -> None:
        super().__init__(data)
        self.parse = parse

    @property
    def left(self) -> int:
        return len(self.data) - self.position

    def number(self, most: int) -> int:
        value = 0
        for i in range(10):
            byte = self.u8()
            value |= (byte & 127) << (7 * i)
            if value > most:
                fail("a number that is too large")
            if byte < 128:
                return value
        fail("a number that is too long")

    def packed(self, most: int) -> bytes:
        way, size = self.u8(), self.number(most)
        if way == 0:
            return self.take(size)
        stored = self.take(self.number(self.left))
        if not size or way > 2:
            fail("a way to pack bytes")
        if way == 1:
            return decode_zstd(stored, size)
        if size > 2**24:
            raise Refused("limit", "packed bytes")
        inner = Fields(stored, self.parse)
        model = self.parse(inner.take(inner.number(inner.left)))
        unpacked: bytes = model.decode(inner.all(), size)
        return unpacked

    def numbers(self, count: int) -> list[int]:
        width = self.u8()
        if not 1 <= width <= 8:
            fail("a width")
        planes = self.packed(width * count)
        if len(planes) != width * count:
            fail("planes")
        values = []
        for i in range(count):
            data = bytes(planes[k * count + i] for k in range(width))
            values.append(int.from_bytes(data.ljust(8, b"\0"), "little", signed=True))
        return values


@dataclass
class Column:
    """Different cells, what they stand for, and the symbols of rows."""

    cells: list[bytes]
    symbols: list[int]
    numbers: list[int] | None  # of rows
    is_text: bool = False
    by_row: bool = False  # there is a cell for each row


@dataclass(frozen=True)
class Model:
    """A MODEL frame."""

    returns: bool
    between: list[bytes]
    widths: list[int]
    records: bool
    arrays: list[int]  # forms of columns
    quote: int
    columns: int
    names: bytes
    parse: Parse = field(repr=False)

    def decode(self, payload: bytes, original: int, base: bytes | None = None) -> bytes:
        """CHUNK."""
        if original > (2**26 if self.arrays else 2**25):
            raise Refused("limit", "a CHUNK is too long")
        return Chunk(self, Fields(payload, self.parse), original).text()


def parse_model(payload: bytes, parse: Parse) -> Model:
    """MODEL (1)."""
    at = Fields(payload, parse)
    at.u8()
    form, separator, quote, columns = at.u8(), at.u8(), at.u8(), at.number(4096)
    names = at.take(at.number(at.left))
    if (form > 6 and form != 8) or not columns or len(names) > 2**15:
        fail("parameters of a table")
    between = [b"", *[bytes([separator])] * (columns - 1), b""]
    if form & 6 == 2:
        between = [at.take(at.number(at.left)) for _ in range(columns + 1)]
        if sum(map(len, between)) > 2**15:
            fail("literals")
    widths = [at.number(2**25) for _ in range(columns)] if form & 4 else [0] * columns
    if form & 4:
        between = [b""] * (columns + 1)
    records = form == 6
    if records and (not all(widths) or sum(widths) > 2**25):
        fail("widths of records")
    arrays: list[int] = []
    if form == 8:
        if names or quote:
            fail("names or quotes of arrays")
        for column in range(columns):
            arrays.append(at.u8())
            widths[column] = 1 if arrays[-1] == 1 else at.number(2**25) if not arrays[-1] else 0
            if arrays[-1] not in (0, 1, 4, 8) or (not arrays[-1] and not widths[column]):
                fail("arrays")
    at.finish()
    return Model(bool(form & 1), between, widths, records, arrays, quote, columns, names, parse)


class Chunk:
    """The payload of a chunk (2)."""

    def __init__(self, model: Model, at: Fields, original: int) -> None:
        self.model, self.original = model, original
        arrays = bool(model.arrays)
        flags, self.rows = at.u8(), at.number(8 * original if arrays else original)
        pieces = 0 if arrays else at.number(original)
        if flags > (0 if arrays else 3):
            fail("flags")
        if self.rows * model.columns > (2**23 if arrays else min(2**23, original)):
            raise Refused("limit", "cells")
        if model.records and (flags & 2 or self.rows * sum(model.widths) > original):
            fail("records")
        self.names = model.names if flags & 1 else b""
        self.gaps: list[int] = []
        self.lengths: list[int] = []
        self.pieces = b""
        if pieces:
            self.gaps, self.lengths = at.numbers(pieces), at.numbers(pieces)
            self.pieces = at.packed(original)
            if min(self.gaps + self.lengths) < 0 or sum(self.gaps) > self.rows:
                fail("gaps")
            if sum(self.lengths) != len(self.pieces):
                fail("lengths")
        if arrays:
            self.buffers(at)
        latent = (at.number(2**26), at.u32()) if flags & 2 else None
        count = at.number(model.columns - 1) if latent else model.columns
        listed = [(at.number(model.columns - 1), at.number(2**26), at.u32()) for _ in range(count)]
        numbers = {number for number, _, _ in listed}
        if len(numbers) < count:
            fail("a column twice")
        self.left = original + 2 * model.columns * arrays  # bytes of different cells
        self.columns: dict[int, Column] = {}
        if latent:
            under = sorted(set(range(model.columns)) - numbers)
            self.width, self.items = 0, False
            self.latents(Fields(self.checked(at, *latent), at.parse), under)
        for number, size, check in listed:
            self.width = model.widths[number]
            self.items = model.records or (arrays and self.width > 0)
            self.columns[number] = self.column(Fields(self.checked(at, size, check), at.parse))
        at.finish()

    def buffers(self, at: Fields) -> None:
        """Where the buffers of arrays lie (8)."""
        forms = self.model.arrays
        texts = sum(form > 1 for form in forms)
        count = at.number(2**16 // (len(forms) + texts))
        self.batches = at.numbers(count)
        self.gaps = at.numbers(count * (len(forms) + texts) + 1)
        self.lengths = at.numbers(count * texts)
        self.pieces = at.packed(self.original)
        if min(self.batches + self.gaps + self.lengths) < 0 or not count:
            fail("buffers")
        if sum(self.batches) != self.rows or sum(self.gaps) != len(self.pieces):
            fail("batches")
        size = sum(self.lengths) + sum(self.gaps)
        for form, width in zip(forms, self.model.widths, strict=True):
            for rows in self.batches:
                size += [rows * width, (rows + 7) // 8][form] if form < 2 else (rows + 1) * form
        if size != self.original:
            fail("another size")

    def arrays(self) -> bytes:
        """The buffers, and what is between them (8)."""
        parts, row, at = list[bytes](), 0, 0
        gaps, lengths = iter(self.gaps), iter(self.lengths)
        for rows in self.batches:
            for number, form in enumerate(self.model.arrays):
                cells = [self.cell(number, r) for r in range(row, row + rows)]
                found = [b"".join(cells)]
                if form == 1:
                    if any(cell > b"\1" for cell in cells):
                        fail("bits")
                    whole = sum(cell[0] << i for i, cell in enumerate(cells))
                    found = [whole.to_bytes((rows + 7) // 8, "little")]
                elif form:
                    if len(found[0]) != next(lengths):
                        fail("texts")
                    ends = [0]
                    for cell in cells:
                        ends.append(ends[-1] + len(cell))
                    found.insert(0, b"".join(end.to_bytes(form, "little") for end in ends))
                for data in found:
                    gap = next(gaps)
                    parts += [self.pieces[at : at + gap], data]
                    at += gap
            row += rows
        return b"".join([*parts, self.pieces[at:]])

    def checked(self, at: Fields, size: int, check: int) -> bytes:
        record = at.take(size)
        if xxhash.xxh3_64_intdigest(record) & 0xFFFFFFFF != check:
            raise Refused("checksum", "a column")
        return record

    def latents(self, at: Fields, under: list[int]) -> None:
        """Record of columns under latents (7)."""
        classes: list[tuple[list[bytes], list[int] | None]] = []
        for _ in range(at.number(255)):
            count = at.number(255)
            cells, numbers = self.dictionary(at, self.rows * len(under))
            self.left -= sum(map(len, cells))
            classes += [(cells, numbers)] * count
        above = at.number(255)
        sizes = [len(cells) for cells, _ in classes]
        if not above or not 0 < len(sizes) < 256 or not min(sizes):
            fail("classes")
        if self.left < 0:
            fail("cells")
        if above * sum(sizes) > 2**21:
            raise Refused("limit", "classes")
        stream = Arithmetic(at.all())
        of_rows = take_symbols(stream, above, self.rows)
        of_columns = take_symbols(stream, len(classes), len(under))
        counts: dict[tuple[int, int], dict[int, list[int]]] = {}
        found: list[list[int]] = [[] for _ in under]
        for u in of_rows:
            for symbols, v in zip(found, of_columns, strict=True):
                symbols.append(take_symbol(stream, sizes[v], counts.setdefault((u, v), {})))
        if stream.at != len(stream.data):
            fail("a stream that ends elsewhere")
        for number, symbols, v in zip(under, found, of_columns, strict=True):
            cells, values = classes[v]
            self.columns[number] = Column(cells, symbols, values and [values[s] for s in symbols])

    def column(self, at: Fields) -> Column:
        """Record of a column (3)."""
        kind = at.u8()
        if kind == 0:
            column = Column([at.all()], [0] * self.rows, None)
            if self.items and len(column.cells[0]) != self.width:
                fail("a cell of another width")
        elif kind == 3:
            column = Column(self.texts(at, self.rows), list(range(self.rows)), None, True, True)
        elif kind < 3:
            cells, numbers = self.dictionary(at, self.rows)
            if not cells and self.rows:
                fail("no cells")
            style = at.u8() if kind == 2 else 0
            symbols = self.symbols(at, len(cells))
            found = None if numbers is None else [numbers[s] for s in symbols]
            column = Column(cells, symbols, found)
            if kind == 2:
                column = self.steps(column, style)
        else:
            fail("a kind of column")
        self.left -= sum(map(len, column.cells))
        if self.left < 0:
            fail("cells")
        at.finish()
        return column

    def steps(self, column: Column, style: int) -> Column:
        if column.numbers is None or sum(map(abs, column.numbers)) > 2**62:
            fail("steps")
        values, last = [], 0
        for step in column.numbers:
            last += step
            values.append(last)
        write = self.binary(6, style) if self.items else self.number_text
        cells = [write(value, style) for value in values]
        return Column(cells, column.symbols, values, by_row=True)

    def texts(self, at: Fields, count: int) -> list[bytes]:
        if self.items:
            items, width = at.packed(count * self.width), self.width
            if len(items) != count * width:
                fail("texts")
            return [items[i : i + width] for i in range(0, len(items), width)]
        terminator = at.u8()
        cells = at.packed(self.left + self.rows).split(bytes([terminator]))
        if len(cells) != count + 1 or cells[-1]:
            fail("texts")
        return cells[:-1]

    def dictionary(self, at: Fields, most: int) -> tuple[list[bytes], list[int] | None]:
        """Dictionary (4)."""
        kind, count = at.u8(), at.number(most)
        if kind not in ((0, 6, 7) if self.items else range(6)):
            fail("a kind of dictionary")
        if kind == 0:
            return self.texts(at, count), None
        style, others = at.u8(), at.number(count)
        cells, values = self.texts(at, others), list[int]()
        if count > others:
            negative, first = at.u8(), at.number(10**18)
            gaps = at.numbers(count - others - 1)
            if negative > 1 or any(not 0 <= gap <= 2 * 10**18 for gap in gaps):
                fail("values")
            if sum(gaps) > 3 * 10**18:
                fail("values")
            values.append(-first if negative else first)
            for gap in gaps:
                values.append(values[-1] + gap)
        if kind == 1:
            if style & 31 > 18 or (style > 127 and not self.width):
                fail("a style")
            if style > 127 and len(values) * self.width > 2**25:
                fail("cells that are too wide")
            cells += [self.number_text(value, style) for value in values]
        elif kind > 5:
            write = self.binary(kind, style)
            cells += [write(value, style) for value in values]
        else:
            if style not in (0, 64):
                fail("a style")
            cells += [self.time_text(value, kind, style) for value in values]
        return cells, [MISSING] * others + values

    def quoted(self, text: str, style: int) -> bytes:
        quote = bytes([self.model.quote]) if style & 64 else b""
        return quote + text.encode() + quote

    def number_text(self, value: int, style: int) -> bytes:
        decimals = style & 31
        if abs(value) >= 10**18 or decimals > 18 or (style > 127 and not self.width):
            fail("a value")
        whole, part = divmod(abs(value), 10**decimals)
        behind = f"{part:0{decimals}}" if decimals else ""
        behind = behind.rstrip("0") if style & 32 else behind
        text = self.quoted("-" * (value < 0) + f"{whole}" + "." * bool(behind) + behind, style)
        if style > 127 and len(text) > self.width:
            fail("a cell that is too wide")
        return text.rjust(self.width) if style > 127 else text

    def binary(self, kind: int, style: int) -> Callable[[int, int], bytes]:
        """What writes integers or floats of records in this style."""
        most, widths = (0, range(1, 9)) if kind == 6 else (18, (4, 8))
        if style & ~32 > most or self.width not in widths:
            fail("a style")
        return self.integer if kind == 6 else self.float

    def integer(self, value: int, style: int) -> bytes:
        data = (value & MASK).to_bytes(8, "little")[: self.width]
        return data[::-1] if style else data

    def float(self, value: int, style: int) -> bytes:
        data = struct.pack("<d" if self.width == 8 else "<f", float(value) / 10.0 ** (style & ~32))
        return data[::-1] if style & 32 else data

    def time_text(self, value: int, kind: int, style: int) -> bytes:
        try:
            time = EPOCH + datetime.timedelta(days=value if kind == 2 else 0)
            time += datetime.timedelta(seconds=0 if kind == 2 else value)
        except OverflowError:
            fail("a time")
        text = time.isoformat(" " if kind == 4 else "T")
        return self.quoted(text[:10] if kind == 2 else text + "Z" * (kind == 5), style)

    # Symbols (5)

    def symbols(self, at: Fields, count: int) -> list[int]:
        if count < 2 or not self.rows:
            return [0] * self.rows
        way = at.u8()
        if way == 0:
            return self.mixed(at, count)
        if way == 3:
            return self.function(at, count)
        if way > 3:
            fail("symbols")
        differences = at.u8()
        found = self.codes(at, count) if way == 1 else at.numbers(self.rows)
        if differences > 1 or any(not 0 <= symbol < count for symbol in found):
            fail("symbols")
        for i in range(1, self.rows if differences else 0):
            found[i] = (found[i] + found[i - 1]) % count
        return found

    def code(self, at: Fields, count: int) -> dict[tuple[int, int], int]:
        """Symbols by length and bits of their codes."""
        lengths = at.packed(count)
        if len(lengths) != count or not all(1 <= length <= 30 for length in lengths):
            fail("lengths of codes")
        if sum(2 ** (30 - length) for length in lengths) != 2**30:
            fail("a code that is not complete")
        code, found, last = 0, {}, 0
        for length, symbol in sorted((length, s) for s, length in enumerate(lengths)):
            code <<= length - last
            found[length, code] = symbol
            code, last = code + 1, length
        return found

    def codes(self, at: Fields, count: int) -> list[int]:
        code, data = self.code(at, count), at.all()
        bits, place, found = int.from_bytes(data, "big"), 8 * len(data), []
        for _ in range(self.rows):
            word = length = 0
            while (length, word) not in code:
                place -= 1
                if place < 0:
                    fail("codes that end too early")
                word, length = 2 * word + (bits >> place & 1), length + 1
            found.append(code[length, word])
        if place >= 8:
            fail("codes that end too late")
        return found

    def contexts(self, at: Fields, most: int) -> list[tuple[list[list[int]], int]]:
        """Values of the parents in each row, and flags."""
        parents = []
        for _ in range(at.number(48)):
            operation = at.u8()
            if operation > 4:
                fail("an operation")
            names = [at.number(self.model.columns - 1) for _ in range(1 + (operation > 0))]
            parents.append((operation, *names))
        found = []
        for _ in range(at.number(most)):
            size = at.u8()
            if size > 3 or (size and not parents):
                fail("parents")
            chosen = [parents[at.number(len(parents) - 1)] for _ in range(size)]
            flags = at.u8()
            if flags > 3:
                fail("flags")
            found.append((chosen, flags))
        if not found:
            fail("no contexts")
        used = {parent for chosen, _ in found for parent in chosen}
        if len(used) * self.rows > 2**25:
            raise Refused("limit", "parents")
        return [([self.values(*parent) for parent in chosen], flags) for chosen, flags in found]

    def values(self, operation: int, *names: int) -> list[int]:
        columns = [self.columns.get(name) for name in names]
        if any(column is None or column.is_text for column in columns):
            fail("a parent")
        if operation == 0:
            return columns[0].symbols  # type: ignore[union-attr]
        if any(column.numbers is None for column in columns):  # type: ignore[union-attr]
            fail("a parent without numbers")
        a, b = (column.numbers for column in columns)  # type: ignore[union-attr]
        assert a is not None and b is not None
        if operation > 2:
            a, b = ([60 * (x // 100) + x % 100 for x in side] for side in (a, b))
        sign = 1 if operation % 2 else -1
        sums = [x + sign * y for x, y in zip(a, b, strict=True)]
        return [x % 1440 for x in sums] if operation > 2 else sums

    def function(self, at: Fields, count: int) -> list[int]:
        ((parents, flags),) = self.contexts(at, 1)
        exceptions = at.number(self.rows)
        gaps, symbols = at.numbers(exceptions), at.numbers(exceptions)
        if any(not 0 <= s < count for s in symbols) or any(gap < 0 for gap in gaps):
            fail("exceptions")
        where, row = {}, -1
        for gap, symbol in zip(gaps, symbols, strict=True):
            row += 1 + gap
            where[row] = symbol
        if row >= self.rows:
            fail("exceptions")
        places: dict[int, int] = {}
        found: list[int] = []
        for row in range(self.rows):
            place = context_hash(flags, parents, flags, row, found) % 2**18
            if row in where:
                places[place] = where[row]
            if place not in places:
                fail("too few exceptions")
            found.append(places[place])
        return found

    def mixed(self, at: Fields, count: int) -> list[int]:
        """Mixed symbols (6)."""
        code = self.code(at, count)
        limit, guessing = at.number(1023), at.u8()
        if not limit or guessing > 1:
            fail("settings")
        contexts = self.contexts(at, 16)
        return Mixer(contexts, code, self.rows, limit, bool(guessing)).decode(at.all())

    def text(self) -> bytes:
        """The text (2)."""
        if self.model.arrays:
            return self.arrays()
        end = b"" if self.model.records else b"\r\n" if self.model.returns else b"\n"
        *before, behind = self.model.between
        rows = [
            b"".join(literal + self.cell(c, row) for c, literal in enumerate(before)) + behind + end
            for row in range(self.rows)
        ]
        parts, at, row = [self.names], 0, 0
        for gap, length in zip(self.gaps, self.lengths, strict=True):
            parts += [*rows[row : row + gap], self.pieces[at : at + length]]
            at, row = at + length, row + gap
        found = b"".join([*parts, *rows[row:]])
        if len(found) != self.original:
            fail("another size")
        return found

    def cell(self, number: int, row: int) -> bytes:
        column = self.columns[number]
        return column.cells[row if column.by_row else column.symbols[row]]


def take_symbols(stream: Arithmetic, size: int, count: int) -> list[int]:
    counts: dict[int, list[int]] = {}
    return [take_symbol(stream, size, counts) for _ in range(count)]


def take_symbol(stream: Arithmetic, size: int, counts: dict[int, list[int]]) -> int:
    low, high = 0, size
    while high - low > 1:
        middle = (low + high) // 2
        seen = counts.setdefault(middle, [0, 0])
        bit = stream.bit(clip((2 * seen[1] + 1) * 2**15 // (sum(seen) + 1), 16, 65520))
        seen[bit] += 1
        low, high = (middle, high) if bit else (low, middle)
    return low


def mix(h: int, v: int) -> int:
    h = (h ^ (v & MASK)) * 0x1E3779B97F4A7C15 & MASK
    h ^= h >> 29
    h = h * 0x2C1B3C6D9E3779B1 & MASK
    return h ^ h >> 32


def context_hash(h: int, parents: list[list[int]], flags: int, row: int, found: list[int]) -> int:
    for i, values in enumerate(parents):
        h = mix(h, values[row] + i)
    if flags & 1:
        h = mix(h, found[-1] if row else -1)
    if flags & 2:
        h = mix(h, found[-2] if row > 1 else -1)
    return h


class Weights(dict[tuple[int, int], int]):
    """Those of a set, by context and place of a count."""

    def __missing__(self, key: tuple[int, int]) -> int:
        _, place = key
        return place and 16384 + 1638 * place


Line = defaultdict[int | None, tuple[int, int]]  # probabilities and counts, by slot


class Mixer:
    """The state of section 6."""

    def __init__(
        self,
        contexts: list[tuple[list[list[int]], int]],
        code: dict[tuple[int, int], int],
        rows: int,
        limit: int,
        guessing: bool,
    ) -> None:
        self.contexts, self.code, self.rows = contexts, code, rows
        self.limit, self.guessing = limit, guessing
        k = len(contexts)
        self.bits = clip(rows.bit_length() + 1, 8, 21 - (k - 1).bit_length())
        self.lines: dict[tuple[int, int], tuple[int, Line]] = {}
        self.weights = defaultdict[int | None, Weights](Weights)
        self.cells = defaultdict[int, list[int]](lambda: list(CELLS))

    def find(self, hashes: list[int], node: int) -> list[Line]:
        found = []
        for k, context in enumerate(hashes):
            h = mix(context, node)
            place = k, h % 2**self.bits
            check, line = self.lines.get(place) or (0, Line(lambda: (0, 0)))
            if check != h >> 32:
                line = Line(lambda: (2**21, 0))
            self.lines[place] = h >> 32, line
            found.append(line)
        return found

    def decide(self, lines: list[Line], slot: int | None, chosen: int | None, node: int) -> int:
        step = 130 + (1400 * 2**11) // (2**11 + self.row)
        pairs = [line[slot] for line in lines]
        inputs = [STRETCH[p22 >> 10] for p22, _ in pairs]
        places = [(k, sum(t <= count for t in THRESHOLDS)) for k, (_, count) in enumerate(pairs)]
        weights = self.weights[chosen]
        total = sum(s * weights[place] for s, place in zip(inputs, places, strict=True))
        z = clip(total >> 16, -2047, 2047)
        p = SQUASH[z + 2048]
        cells, x = self.cells[node % 1024], (z + 2048) * 31
        at, part = x >> 12, x & 4095
        q = (cells[at] * (4096 - part) + cells[at + 1] * part) >> 12
        y = self.stream.bit(clip((5 * p + 3 * q + 4) >> 3, 16, 65520))
        for i in (at, at + 1):
            cells[i] += (65535 * y - cells[i]) >> 5
        for s, place, line, (p22, c) in zip(inputs, places, lines, pairs, strict=True):
            change = (s * ((y << 16) - p) * step + 2**23) >> 24
            weights[place] = clip(weights[place] + change, -(2**20), 2**20)
            p22 += (((2**22 - 1) * y - p22) * RATE[c]) >> 16
            line[slot] = p22, min(c + 1, self.limit)
        return y

    def decode(self, data: bytes) -> list[int]:
        self.stream = Arithmetic(data)
        guesses: dict[int, int] = {}
        found: list[int] = []
        for row in range(self.rows):
            self.row = row
            hashes = []
            for k, (parents, flags) in enumerate(self.contexts):
                hashes.append(context_hash(mix(k + 1, flags), parents, flags, row, found))
            place = (hashes[0] >> 20) % 2**18
            known = self.guessing and place in guesses
            if known and self.decide(self.find(hashes, 0), None, None, 0):
                found.append(guesses[place])
                continue
            node = slot = 1
            length = word = 0
            while (length, word) not in self.code:
                if length % 4 == 0:
                    lines, slot = self.find(hashes, node), 1
                y = self.decide(lines, slot, min(3, length), node)
                node, slot, word, length = 2 * node + y, 2 * slot + y, 2 * word + y, length + 1
            found.append(self.code[length, word])
            guesses[place] = found[-1]
        if self.stream.at != len(data):
            fail("a stream of another length")
        return found
