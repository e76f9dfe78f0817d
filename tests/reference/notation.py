"""A slow decoder of elements in other forms, after docs/format/notation.md and nothing else."""

import base64
from collections.abc import Callable
from dataclasses import dataclass

from reference.parts import Decodes, decode_parts, parse_part
from reference.reading import Cursor, Refused, fail

CODEC = 19
VARINTS, LATIN, BASE64, HEX = range(1, 5)
_UNITS = {VARINTS: (1, 2, 4, 8), LATIN: (1,), BASE64: (3,), HEX: (1,)}


@dataclass(frozen=True)
class Model:
    """A MODEL frame."""

    form: int
    unit: int
    option: int
    elements: Decodes | None

    def decode(self, payload: bytes, original: int, base: bytes | None = None) -> bytes:
        """Elements, runs and literal bytes -> the chunk."""
        cursor = Cursor(payload)
        skipped, runs = cursor.u8(), cursor.u32()
        literals, size = cursor.u32(), cursor.u32()
        most = min(self.unit * (original + 2), 1 << 25)
        if runs > original // 16 + 2 or literals > original or size > most:
            raise Refused("limit", "parts of a chunk in another notation")
        if skipped >= self.unit:
            fail("bytes that are passed over")
        wanted = [(None, 8 * runs), (None, literals), (self.elements, size)]
        listed, literal, plain = decode_parts(cursor, wanted)
        fields = Cursor(listed)
        pairs = [(fields.u32(), fields.u32()) for _ in range(runs)]
        if any(not items for _, items in pairs) or any(not before for before, _ in pairs[1:]):
            fail("an empty run")
        left = size - skipped - self.unit * sum(items for _, items in pairs)
        if sum(before for before, _ in pairs) > literals or not 0 <= left < self.unit:
            fail("runs of more or less than there is")
        chunk = bytearray()
        rest, source = Cursor(literal), Cursor(plain[skipped:])
        for before, items in pairs:
            chunk += rest.take(before)
            chunk += b"".join(self._item(source.take(self.unit)) for _ in range(items))
        chunk += rest.all()
        if len(chunk) != original:
            fail("length of a chunk in another notation")
        return bytes(chunk)

    def _item(self, item: bytes) -> bytes:
        if self.form == VARINTS:
            return _varint(int.from_bytes(item, "little", signed=self.option > 0))
        if self.form == LATIN:
            return item.decode("latin-1").encode()
        if self.form == HEX:
            return (item.hex().upper() if self.option else item.hex()).encode()
        return base64.b64encode(item, b"-_" if self.option else b"+/")


def _varint(value: int) -> bytes:
    value %= 1 << 64
    groups = bytearray()
    while value >= 128:
        groups.append(value % 128 + 128)
        value //= 128
    groups.append(value)
    return bytes(groups)


def parse_model(payload: bytes, parse: Callable[[bytes], Decodes]) -> Model:
    """The model of elements in another notation."""
    cursor = Cursor(payload)
    cursor.take(1)
    form, unit, option = cursor.u8(), cursor.u8(), cursor.u8()
    if form not in _UNITS:
        raise Refused("unsupported", f"notation {form}")
    if unit not in _UNITS[form] or option > 1 or (form == LATIN and option):
        fail("an impossible notation")
    elements = parse_part(cursor, parse)
    cursor.finish()
    return Model(form, unit, option, elements)
