"""A slow decoder of pages, after docs/format/pages.md and nothing else."""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from reference import table
from reference.lz4 import lz4
from reference.reading import Refused, fail
from reference.table import Fields, Parse

CODEC = 17
TEXTS, BITS = 0, -1
DICTIONARY, INDICES, PLAIN, SPLIT, DELTAS, LENGTHS, SHARED, RUNS = range(8)
MOST_BITS, MOST_BEHIND, MOST_PAGES, MOST_ROWS = 24, 255, 2**16, 2**24
MOST_CONTENT, MOST_CELLS = 2**27, 2**23


def head(number: int) -> bytes:
    out = bytearray()
    while number >= 128:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def packed_run(values: list[int], bits: int) -> bytes:
    """A run of values that are packed, the last group filled with zeros."""
    groups = (len(values) + 7) // 8
    word = sum(value << (bits * i) for i, value in enumerate(values))
    return head(2 * groups + 1) + word.to_bytes(groups * bits, "little")


def equal_run(value: int, count: int, bits: int) -> bytes:
    return head(2 * count) + value.to_bytes((bits + 7) // 8, "little")


def runs(values: list[int], bits: int) -> bytes:
    """Runs that are cut by rule (3)."""
    out, at, waiting = b"", 0, 0
    while at < len(values):
        same = 1
        while at + same < len(values) and values[at + same] == values[at]:
            same += 1
        if same >= 8 or (at + same == len(values) and not waiting):
            if waiting:
                out += packed_run(values[at - waiting : at], bits)
            out += equal_run(values[at], same, bits)
            at, waiting = at + same, 0
            continue
        count = min(8, len(values) - at)
        at, waiting = at + count, waiting + count
        if waiting == 63 * 8:
            out += packed_run(values[at - waiting : at], bits)
            waiting = 0
    return out + (packed_run(values[at - waiting : at], bits) if waiting else b"")


def listed_runs(values: list[int], bits: int, cut: list[int]) -> bytes:
    """Runs of such heads (3)."""
    if not cut or not 0 <= cut[0] <= min(MOST_BEHIND, len(cut) - 1):
        fail("how runs are cut")
    values = values + cut[1 : 1 + cut[0]]
    if any(value >> bits for value in cut[1 : 1 + cut[0]]):
        fail("values behind the last")
    out, at = b"", 0
    for number in cut[1 + cut[0] :]:
        left, count = len(values) - at, number >> 1
        if number < 2 or not left or count > (((left + 7) // 8) if number & 1 else left):
            fail("runs")
        count = min(8 * count, left) if number & 1 else count
        out += (
            packed_run(values[at : at + count], bits)
            if number & 1
            else equal_run(values[at], count, bits)
        )
        at += count
    if at != len(values):
        fail("runs that end too early")
    return out


def folded(number: int) -> bytes:
    return head(2 * number if number >= 0 else -2 * number - 1)


def deltas(numbers: list[int], size: int, parts: int, bits: int) -> bytes:
    """Numbers in blocks of differences (3)."""

    def signed(number: int) -> int:
        half = 1 << (bits - 1)
        return (number + half) % (2 * half) - half

    out = head(size) + head(parts) + head(len(numbers)) + folded(numbers[0] if numbers else 0)
    steps = [signed(b - a) for a, b in pairwise(numbers)]
    for at in range(0, len(steps), size):
        block = steps[at : at + size]
        least = min(block)
        widths, packed = [], b""
        for begin in range(0, size, size // parts):
            part = [step - least for step in block[begin : begin + size // parts]]
            width = max(part, default=0).bit_length()
            word = sum(step << (i * width) for i, step in enumerate(part))
            widths.append(width)
            packed += word.to_bytes(size // parts * width // 8, "little")
        out += folded(least) + bytes(widths) + packed
    return out


def by_lengths(values: list[bytes], shared: bool, size: int, parts: int, bits: int) -> bytes:
    """Texts behind their lengths, or behind what they share with the one before (3)."""
    out = b""
    if shared:
        same = []
        for before, value in pairwise([b"", *values]):
            most = min(len(before), len(value))
            same.append(next((i for i in range(most) if before[i] != value[i]), most))
        out = deltas(same, size, parts, bits)
        values = [value[count:] for value, count in zip(values, same, strict=True)]
    return out + deltas([len(value) for value in values], size, parts, bits) + b"".join(values)


def literal(data: bytes) -> bytes:
    count = len(data) - 1
    if count < 60:
        return bytes([4 * count]) + data
    size = 1 if count < 256 else 2
    return bytes([4 * (59 + size)]) + count.to_bytes(size, "little") + data


def copy(offset: int, length: int) -> bytes:
    out = b""
    while length >= 68:
        out += bytes([2 | 63 << 2]) + offset.to_bytes(2, "little")
        length -= 64
    if length > 64:
        out += bytes([2 | 59 << 2]) + offset.to_bytes(2, "little")
        length -= 60
    if length < 12 and offset < 2048:
        return out + bytes([1 | (length - 4) << 2 | offset >> 8 << 5, offset & 255])
    return out + bytes([2 | (length - 1) << 2]) + offset.to_bytes(2, "little")


def snappy(data: bytes, way: int) -> bytes:
    """A block of Snappy (4)."""
    blocks = [data[at : at + 65536] for at in range(0, len(data), 65536)]
    return head(len(data)) + b"".join(_block(block, way) for block in blocks)


def _block(data: bytes, way: int) -> bytes:
    most = way & 31
    bits = 8
    while bits < most and 2**bits < len(data):
        bits += 1
    places: dict[int, int] = {}

    def slot(at: int) -> int:
        word = int.from_bytes(data[at : at + 4], "little") * 0x1E35A7BD % 2**32
        return word >> (32 - bits) if way & 32 else (word >> (32 - most)) % 2**bits

    out, done, at, limit = b"", 0, 1, len(data) - 15
    while True:
        skip = 32
        while True:
            step = skip >> 5
            skip += step
            if at + step > limit:
                return out + literal(data[done:])
            where = slot(at)
            found, places[where] = places.get(where, 0), at
            if data[found : found + 4] == data[at : at + 4]:
                break
            at += step
        out += literal(data[done:at])
        while True:
            length = 4
            while at + length < len(data) and data[found + length] == data[at + length]:
                length += 1
            out += copy(at - found, length)
            at = done = at + length
            if at >= limit:
                return out + (literal(data[done:]) if done < len(data) else b"")
            places[slot(at - 1)] = at - 1
            where = slot(at)
            found, places[where] = places.get(where, 0), at
            if data[found : found + 4] != data[at : at + 4]:
                at += 1
                break


def gzip(data: bytes, way: bytes) -> bytes:
    """A member of gzip (5)."""
    level, strategy, window, memory = way[:4]
    if len(data) > 2**26:
        fail("the length of a page")
    deflater = zlib.compressobj(level, zlib.DEFLATED, -window, memory, strategy)
    stream = deflater.compress(data) + deflater.flush()
    tail = struct.pack("<II", zlib.crc32(data), len(data))
    return bytes([31, 139, 8, 0, 0, 0, 0, 0]) + way[4:] + stream + tail


def compressed(data: bytes, way: bytes) -> bytes:
    """What stands in a page (2)."""
    if way[0] == 128:
        return gzip(data, way[1:])
    if way[0] == 64:
        return lz4(data)
    return snappy(data, way[0]) if way[0] else data


def way_of(at: Fields, newer: bool) -> bytes:
    """How a page is compressed (2)."""
    way = bytes([at.u8()])
    if newer and way[0] == 128:
        way += at.take(6)
        _, level, strategy, window, memory, *_ = way
        if not (1 <= level <= 9 and strategy <= 4 and 9 <= window <= 15 and 1 <= memory <= 9):
            fail("settings of gzip")
    elif not (newer and way[0] == 64) and way[0] and not 8 <= way[0] & ~32 <= 15:
        fail("how a page is compressed")
    return way


@dataclass
class Page:
    """How a page is made (2)."""

    header: int
    kind: int
    values: int
    bits: int
    outside: bool
    way: bytes
    levels: list[int] | None
    indices: list[int] | None
    blocks: tuple[int, int]


@dataclass
class Column:
    """How the pages of a column are made (2), and its values; None for those that are missing."""

    before: int
    width: int
    optional: bool
    missing: bool
    order: list[int] | None
    pages: list[Page]
    values: list[bytes | None] = field(default_factory=list)

    def bodies(self) -> Iterator[tuple[int, bytes]]:
        """Of each page the bytes of its header, and what stands behind that (3)."""
        at = 0
        rows = []
        for page in self.pages:
            rows.append(self.values[at : at + page.values])
            at += page.values
        there = [[value for value in part if value is not None] for part in rows]
        known: dict[bytes, int] = {}
        for known_values, page in zip(there, self.pages, strict=True):
            for value in known_values if page.kind == INDICES else []:
                known.setdefault(value, len(known))
        different = list(known)
        order = list(range(len(different))) if self.order is None else self.order
        if sorted(order) != list(range(len(different))):
            fail("the order of a dictionary")
        place = {different[number]: i for i, number in enumerate(order)}
        for page, part, known_values in zip(self.pages, rows, there, strict=True):
            levels = b""
            if page.kind == DICTIONARY:
                body = self._plain([different[number] for number in order])
            else:
                levels = self._levels(page, part)
                if page.kind == PLAIN:
                    body = self._plain(known_values)
                elif page.kind == SPLIT:
                    body = split(self.width, known_values)
                elif page.kind == RUNS:
                    truths = [value[0] for value in known_values]
                    cut = page.indices
                    body = runs(truths, 1) if cut is None else listed_runs(truths, 1, cut)
                    body = len(body).to_bytes(4, "little") + body
                elif page.kind == DELTAS:
                    numbers = [int.from_bytes(v, "little", signed=True) for v in known_values]
                    body = deltas(numbers, *page.blocks, page.bits)
                elif page.kind in (LENGTHS, SHARED):
                    shared = page.kind == SHARED
                    body = by_lengths(known_values, shared, *page.blocks, page.bits)
                else:
                    numbers = [place[value] for value in known_values]
                    if any(number >> page.bits for number in numbers):
                        fail("an index")
                    cut = page.indices
                    coded = (
                        runs(numbers, page.bits)
                        if cut is None
                        else listed_runs(numbers, page.bits, cut)
                    )
                    body = bytes([page.bits]) + coded
            outside = levels if page.outside else b""
            inside = (b"" if page.outside else levels) + body
            yield page.header, outside + compressed(inside, page.way)

    def _levels(self, page: Page, part: list[bytes | None]) -> bytes:
        if not self.optional:
            return b""
        there = [int(value is not None) for value in part]
        coded = runs(there, 1) if page.levels is None else listed_runs(there, 1, page.levels)
        return coded if page.outside else len(coded).to_bytes(4, "little") + coded

    def _plain(self, values: list[bytes]) -> bytes:
        if self.width == TEXTS:
            return b"".join(len(value).to_bytes(4, "little") + value for value in values)
        if self.width == BITS:
            return bits_of(values)
        return b"".join(values)


def split(width: int, values: list[bytes]) -> bytes:
    """The first bytes of all values, their second, and so on (3)."""
    return bytes(value[i] for i in range(width) for value in values)


def bits_of(values: list[bytes]) -> bytes:
    word = sum(value[0] << i for i, value in enumerate(values))
    return word.to_bytes((len(values) + 7) // 8, "little")


@dataclass(frozen=True)
class Model:
    """A MODEL frame."""

    parse: Parse
    form: int

    def decode(self, payload: bytes, original: int, base: bytes | None = None) -> bytes:
        """CHUNK (1)."""
        at = Fields(payload, self.parse)
        rows = at.number(MOST_ROWS)
        if not rows:
            fail("no rows")
        columns = recipes(at, original, rows, self)
        rest = at.packed(original)
        parts = [self._table(at) for _ in range(at.number(64))]
        at.finish()
        if sum(part[0] for part in parts) != rows:
            fail("rows of tables")
        cells = sum(1 + column.missing for column in columns)
        too_many = any(count * cells > MOST_CELLS for count, _, _ in parts)
        if sum(size for _, size, _ in parts) > MOST_CONTENT or too_many:
            raise Refused("limit", "tables of pages")
        if sum(c.before + sum(p.header for p in c.pages) for c in columns) > len(rest):
            fail("headers")
        for count, size, content in parts:
            values_of(columns, count, content() if callable(content) else content, size)
        out, done = b"", 0
        for column in columns:
            out += rest[done : done + column.before]
            done += column.before
            for header, body in column.bodies():
                out += rest[done : done + header] + body
                done += header
        out += rest[done:]
        if len(out) != original:
            fail("the length of pages")
        return out

    def _table(self, at: Fields) -> tuple[int, int, Any]:
        way, rows, size = at.u8(), at.number(MOST_ROWS), at.number(2**26)
        if way > 1:
            fail("a way to code values")
        if not way:
            return rows, size, at.packed(size)
        model, stored = at.take(at.number(at.left)), at.take(at.number(at.left))
        return rows, size, lambda: table.parse_model(model, self.parse).decode(stored, size)


def recipes(at: Fields, original: int, rows: int, model: Model) -> list[Column]:
    """Recipes of columns (2)."""
    inner = Fields(at.packed(2**22), model.parse)
    numbers = at.numbers(at.number(2**22))

    def listed() -> list[int]:
        count = inner.number(len(numbers))
        found = numbers[:count]
        del numbers[:count]
        return found

    columns, pages = [], 0
    for _ in range(inner.number(4096)):
        before, width, flags = inner.number(original), inner.number(65536) - 1, inner.u8()
        if flags > 7 or flags & 3 == 2:
            fail("levels")
        order = listed() if flags & 4 else None
        made = []
        count = inner.number(MOST_PAGES)
        pages += count
        if pages > MOST_PAGES:
            raise Refused("limit", "pages")
        for _ in range(count):
            form, header, values = inner.u8(), inner.number(original), inner.number(rows)
            bits = inner.u8()
            kind = form & 3 | form >> 3 & 4
            if form > 63 or kind > (2, 3, 7)[model.form] or (not kind and (form or values)):
                fail("a kind of page")
            if kind in (DELTAS, LENGTHS, SHARED) and form & 16:
                fail("runs of differences")
            blocks = (0, 0)
            if kind in (DELTAS, LENGTHS, SHARED):
                size, parts = blocks = inner.number(2**16), inner.number(2**16)
                if not size or not parts or size % (8 * parts) or bits not in (32, 64):
                    fail("blocks of differences")
            elif bits > MOST_BITS:
                fail("bits of an index")
            way = way_of(inner, model.form > 0)
            levels = listed() if form & 8 else None
            indices = listed() if form & 16 else None
            outside = bool(form & 4)
            made.append(Page(header, kind, values, bits, outside, way, levels, indices, blocks))
        if sum(page.values for page in made) != rows:
            fail("rows of pages")
        if model.form and sum(page.kind == DICTIONARY for page in made) > 1:
            fail("a second dictionary")
        for page in made:
            possible = {SPLIT: width > 0, DELTAS: width in (4, 8) and page.bits >= 8 * width,
                        LENGTHS: width == TEXTS, SHARED: width != BITS,
                        RUNS: width == BITS}  # fmt: skip
            if not possible.get(page.kind, True):
                fail("values of another kind")
        columns.append(Column(before, width, bool(flags & 1), bool(flags & 2), order, made))
    if inner.left or numbers:
        fail("recipes")
    return columns


def values_of(columns: list[Column], rows: int, content: bytes, size: int) -> None:
    """Values of some rows (1)."""
    if len(content) != size:
        fail("the size of values")
    at = 0

    def taken(count: int) -> bytes:
        nonlocal at
        if count > len(content) - at:
            fail("values")
        at += count
        return content[at - count : at]

    for column in columns:
        there = [True] * rows
        if column.missing:
            bits = taken((rows + 7) // 8)
            there = [bool(bits[i >> 3] >> (i & 7) & 1) for i in range(rows)]
        if column.width == BITS:
            bits = taken((rows + 7) // 8)
            found = [bytes([bits[i >> 3] >> (i & 7) & 1]) for i in range(rows)]
        elif column.width == TEXTS:
            data = taken(4 * rows + 4)
            ends = list(struct.unpack(f"<{rows + 1}i", data))
            if ends[0] or ends != sorted(ends):
                fail("ends of texts")
            texts = taken(ends[-1])
            found = [texts[a:b] for a, b in pairwise(ends)]
        else:
            data = taken(rows * column.width)
            found = [data[i * column.width : (i + 1) * column.width] for i in range(rows)]
        column.values += [v if known else None for v, known in zip(found, there, strict=True)]
    if at != size:
        fail("values that are left")


def parse_model(payload: bytes, parse: Parse) -> Model:
    """MODEL (1)."""
    if len(payload) != 2:
        fail("a MODEL of pages")
    if payload[1] > 2:
        raise Refused("unsupported", "a way to make pages")
    return Model(parse, payload[1])
