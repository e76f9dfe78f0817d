"""What all readers here share: the refusal, fields of a payload, Zstandard frames.

Numbers in parentheses are sections of docs/format/container.md.
"""

import struct
from typing import Any, NoReturn

import numpy as np
import zstandard
from numpy.typing import NDArray

Bytes8 = NDArray[np.uint8]
Elements = NDArray[Any]  # unsigned integers as wide as the element

MAX_WINDOW = 1 << 26


class Refused(ValueError):
    """The input is not valid; ``reason`` is an error name of section 10."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason


def fail(detail: str) -> NoReturn:
    """Refuse for the reason "format" (10)."""
    raise Refused("format", detail)


class Cursor:
    """Reads fields from bytes; to go beyond their end is a "format" error."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position = 0

    def take(self, count: int) -> bytes:
        """The next count bytes."""
        taken = self.data[self.position : self.position + count]
        if len(taken) < count:
            fail("a field goes beyond the end of its payload")
        self.position += count
        return taken

    def u8(self) -> int:
        """The next u8."""
        return self.take(1)[0]

    def u16(self) -> int:
        """The next u16."""
        return int.from_bytes(self.take(2), "little")

    def u32(self) -> int:
        """The next u32."""
        return int.from_bytes(self.take(4), "little")

    def fields(self, layout: str) -> tuple[int, ...]:
        """The next fields, as for struct."""
        return struct.unpack(layout, self.take(struct.calcsize(layout)))

    def all(self) -> bytes:
        """What is left."""
        return self.take(len(self.data) - self.position)

    def finish(self) -> None:
        """Nothing may be left."""
        if self.position != len(self.data):
            fail("bytes are left at the end of a payload")


def decode_zstd(payload: bytes, size: int) -> bytes:
    """One Zstandard frame without dictionary and large window that gives just size bytes (6)."""
    if payload[:4] != b"\x28\xb5\x2f\xfd":
        fail("not a Zstandard frame")
    try:
        parameters = zstandard.get_frame_parameters(payload)
        if parameters.dict_id != 0:
            fail("a Zstandard frame that needs a dictionary")
        if parameters.window_size > max(MAX_WINDOW, size):
            raise Refused("limit", "the window of a Zstandard frame is too large")
        if parameters.content_size != size:
            fail("a Zstandard frame of another size")
        data = zstandard.ZstdDecompressor().decompress(
            payload, max_output_size=size, allow_extra_data=False
        )
    except zstandard.ZstdError as error:
        raise Refused("format", f"Zstandard: {error}") from error
    if len(data) != size:
        fail("a Zstandard frame of another size")
    return data
