"""The codec of blocks of fields, after docs/format/blocks.md and nothing else."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from reference import joined
from reference.joined import Joined
from reference.parts import Decodes, decode_parts, parse_part
from reference.reading import Bytes8, Cursor, Refused, fail

CODEC = 5
MAX_FIELDS = 8
ORDER_BLOCKS, ORDER_COLUMNS, ORDER_FIELD, ORDER_RATIO, _, ORDER_JOINED, ORDER_ELSEWHERE = range(7)
MAX_SORTED = 1048576


@dataclass(frozen=True)
class Field:
    """A field of the fields codec: bytes per block, order of the items, model."""

    size: int
    order: int
    width: int
    columns: int
    model: Decodes | None
    joined: Joined | None = None


@dataclass(frozen=True)
class Model:
    """A MODEL frame."""

    fields: tuple[Field, ...]

    def decode(self, payload: bytes, original: int, base: bytes | None = None) -> bytes:
        """Parts -> blocks."""
        block = sum(field.size for field in self.fields)
        if original % block:
            fail("a CHUNK that holds no whole number of blocks")
        blocks = original // block
        sizes = [field.size for field in self.fields]
        wanted = []
        for i, field in enumerate(self.fields):
            size = 0 if field.order == ORDER_ELSEWHERE else field.size
            if field.joined is not None:
                size = field.joined.symbols(i, sizes)
            wanted.append((field.model, blocks * size))
        fields: list[Bytes8] = []
        parts = [np.frombuffer(part, np.uint8) for part in decode_parts(Cursor(payload), wanted)]
        for one, part in zip(self.fields, parts, strict=True):
            if one.order < ORDER_JOINED:
                part = in_order_of_blocks(one, part, fields).reshape(blocks, one.size)
            fields.append(part)
        for i, one in enumerate(self.fields):
            if one.joined is not None:
                joined.put_back(one.joined, i, sizes, fields, blocks)
        return np.concatenate(fields, axis=1).tobytes()


def parse_model(payload: bytes, parse: Callable[[bytes], Decodes]) -> Model:
    """The model of the fields codec (docs/format/blocks.md)."""
    cursor = Cursor(payload)
    cursor.take(1)
    count = cursor.u8()
    if not 1 <= count <= MAX_FIELDS:
        fail("number of fields")
    fields: list[Field] = []
    for _ in range(count):
        size, order, width, columns = cursor.u16(), cursor.u8(), cursor.u8(), cursor.u32()
        before = [field.size if field.order < ORDER_JOINED else 0 for field in fields]
        verify_order(order, size, width, columns, before)
        packed = joined.parse(cursor) if order == ORDER_JOINED else None
        fields.append(Field(size, order, width, columns, parse_part(cursor, parse), packed))
    cursor.finish()
    verify_joined(fields)
    return Model(tuple(fields))


def verify_joined(fields: list[Field]) -> None:
    """Refuse fields of orders 5 and 6 that do not fit together."""
    sizes = [field.size for field in fields]
    elsewhere = [i for i, field in enumerate(fields) if field.order == ORDER_ELSEWHERE]
    plain = [i for i, field in enumerate(fields) if field.order < ORDER_JOINED]
    used = []
    for i, field in enumerate(fields):
        if field.joined is not None:
            field.joined.verify(i, sizes, plain, elsewhere)
            used += [field.joined.high] if field.joined.high_bits else []
    if sorted(used) != elsewhere:
        fail("a field of order 6 that is not that of one of order 5")


def verify_order(order: int, size: int, width: int, columns: int, before: list[int]) -> None:
    """Refuse an order that the field and those before it do not allow."""
    if size == 0:
        fail("an empty field")
    if order > ORDER_ELSEWHERE or order == 4:
        raise Refused("unsupported", f"order {order}")
    if order == ORDER_COLUMNS:
        if width not in (1, 2, 4, 8) or size % width != 0 or columns == 0:
            fail("width or columns of a field")
    elif width != 0 or columns != 0:
        fail("width or columns of a field that has none")
    if order == ORDER_FIELD and before[-1:] != [2]:
        fail("an order by a field that is not there")
    if order == ORDER_RATIO and before[-2:] != [2, 2]:
        fail("an order by fields that are not there")


def in_order_of_blocks(model: Field, part: Bytes8, before: list[Bytes8]) -> Bytes8:
    """The bytes of a part, block after block."""
    if model.order == ORDER_BLOCKS:
        return part
    if model.order == ORDER_COLUMNS:
        if part.size % (model.width * model.columns):
            fail("a CHUNK that holds no whole number of rows")
        rows = part.reshape(model.columns, -1, model.width).swapaxes(0, 1)
        return np.ascontiguousarray(rows)
    if part.size > MAX_SORTED * model.size:
        raise Refused("limit", "more blocks to sort than a chunk may have")
    u = [low + 256 * high for low, high in before[-1].tolist()]
    if model.order == ORDER_FIELD:
        keys = [number // 256 for number in u]
    else:
        t = [low + 256 * high for low, high in before[-2].tolist()]
        logs = [b % 2**15 - a % 2**15 for a, b in zip(t, u, strict=True)]
        keys = [min(max(difference // 64 + 128, 0), 255) for difference in logs]
    found = np.empty((len(keys), model.size), np.uint8)
    order = sorted(range(len(keys)), key=lambda block: (keys[block], block))
    found[order] = part.reshape(-1, model.size)
    return found
