"""Parts of a CHUNK, each with a model of its own (docs/format/blocks.md)."""

from collections.abc import Callable
from typing import Protocol

from reference.reading import Cursor, Refused, decode_zstd, fail

PART_RAW, PART_ZSTD, PART_MODEL = range(3)


class Decodes(Protocol):
    """The model of a part."""

    def decode(self, payload: bytes, original: int) -> bytes:
        """Its payload to so many bytes."""


def parse_part(cursor: Cursor, parse: Callable[[bytes], Decodes]) -> Decodes | None:
    """Length and model of a part; length 0 means that there is none."""
    payload = cursor.take(cursor.u32())
    return parse(payload) if payload else None


def decode_parts(cursor: Cursor, wanted: list[tuple[Decodes | None, int]]) -> list[bytes]:
    """The parts that fill the rest of a payload, each with its model and original length."""
    heads = [(cursor.u8(), cursor.u32()) for _ in wanted]
    parts = []
    for (mode, length), (model, original) in zip(heads, wanted, strict=True):
        stored = cursor.take(length)
        if mode > PART_MODEL:
            raise Refused("unsupported", f"part mode {mode}")
        if original == 0 and mode != PART_RAW:
            fail("an empty part that is not raw")
        if mode == PART_ZSTD:
            stored = decode_zstd(stored, original)
        elif mode == PART_MODEL:
            if model is None:
                fail("a part without model")
            stored = model.decode(stored, original)
        if len(stored) != original:
            fail("length of a part")
        parts.append(stored)
    cursor.finish()
    return parts
