"""The DEFLATE codec, after docs/format/deflate.md. Streams are made by zlib itself."""

import zlib
from collections.abc import Callable
from dataclasses import dataclass

from reference.parts import Decodes, decode_parts, parse_part
from reference.reading import Cursor, Refused, fail

CODEC = 15
BARE, ZLIB, PNG = range(3)
CLASSIC = zlib.ZLIB_RUNTIME_VERSION.startswith("1.") and "ng" not in zlib.ZLIB_RUNTIME_VERSION
"""Whether this is the zlib of the specification, and not one that writes other streams."""


@dataclass(frozen=True)
class Model:
    """A MODEL frame."""

    filters: Decodes | None
    content: Decodes | None

    def decode(self, payload: bytes, original: int, base: bytes | None = None) -> bytes:
        """Settings and content -> stream."""
        cursor = Cursor(payload)
        form, size, row, piece, pixel = (
            cursor.u8(), cursor.u32(), cursor.u32(), cursor.u32(), cursor.u8(),
        )  # fmt: skip
        level, strategy, window, memory = (cursor.u8() for _ in range(4))
        header = cursor.take(2)
        if not (1 <= level <= 9 and strategy <= 4 and 9 <= window <= 15 and 1 <= memory <= 9):
            fail("settings")
        if form > PNG or (form == BARE and header != b"\0\0") or (form == PNG) != (piece > 0):
            fail("frame")
        if size > min(1 << 26, 1032 * original):
            raise Refused("limit", "raw data")
        if row and (not 1 <= pixel <= row or size % (row + 1)):
            fail("rows")
        rows = size // (row + 1) if row else 0
        filters, content = decode_parts(cursor, [(self.filters, rows), (self.content, size - rows)])
        if any(kind > 4 for kind in filters):
            fail("filter type")
        raw = _filtered(filters, content, row, pixel) if row else content
        deflater = zlib.compressobj(level, zlib.DEFLATED, -window, memory, strategy)
        stream = deflater.compress(raw) + deflater.flush()
        if form != BARE:
            stream = header + stream + zlib.adler32(raw).to_bytes(4, "big")
        if form == PNG:
            stream = b"".join(_chunk(stream[i : i + piece]) for i in range(0, len(stream), piece))
        if len(stream) != original:
            fail("length of a stream")
        return stream


def _chunk(piece: bytes) -> bytes:
    body = b"IDAT" + piece
    return len(piece).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")


def _filtered(filters: bytes, pixels: bytes, row: int, pixel: int) -> bytes:
    raw = bytearray()
    before = bytes(row)
    for r, kind in enumerate(filters):
        line = pixels[r * row : (r + 1) * row]
        raw.append(kind)
        for i, value in enumerate(line):
            left = line[i - pixel] if i >= pixel else 0
            corner = before[i - pixel] if i >= pixel else 0
            guess = (0, left, before[i], (left + before[i]) // 2, _paeth(left, before[i], corner))
            raw.append((value - guess[kind]) % 256)
        before = line
    return bytes(raw)


def _paeth(left: int, above: int, corner: int) -> int:
    estimate = left + above - corner
    return min((left, above, corner), key=lambda value: abs(estimate - value))


def parse_model(payload: bytes, parse: Callable[[bytes], Decodes]) -> Model:
    """The model of the DEFLATE codec."""
    cursor = Cursor(payload)
    cursor.take(1)
    filters, content = parse_part(cursor, parse), parse_part(cursor, parse)
    cursor.finish()
    return Model(filters, content)
