"""What both sides know of the MODEL frame and the payload of a DEFLATE stream."""

import struct
from dataclasses import dataclass

from densor.codec import registry
from densor.codec.deflate.framing import HEADER
from densor.codec.deflate.settings import FIELDS, Settings
from densor.codec.deflate.stream import MAX_EXPANSION, MAX_RAW, PNG, RAW
from densor.errors import FormatError, LimitError

PARTS = 2  # filter types, and all else
_HEAD = struct.Struct("<BIIIB")
HEAD_SIZE = _HEAD.size + FIELDS.size + HEADER
MODEL_HEAD = bytes([registry.CODEC_DEFLATE])


@dataclass(frozen=True)
class Head:
    """What a payload begins with.

    `size`: bytes of the content; `row`: of a row without its filter type, 0 where there are none;
    `pixel`: bytes to the pixel before; `piece`: of a chunk of PNG; `header`: zlib's.
    """

    form: int
    size: int
    row: int
    pixel: int
    piece: int
    settings: Settings
    header: bytes

    @property
    def rows(self) -> int:
        """How many there are."""
        return self.size // (self.row + 1) if self.row else 0

    def pack(self) -> bytes:
        """As it stands in a payload."""
        head = _HEAD.pack(self.form, self.size, self.row, self.piece, self.pixel)
        return head + self.settings.pack() + self.header.ljust(HEADER, b"\0")


def parse(payload: bytes, size: int) -> Head:
    """The head of a payload that stands for `size` bytes; FormatError or LimitError if bad."""
    if len(payload) < HEAD_SIZE:
        raise FormatError("DEFLATE chunk is too short")
    form, content, row, piece, pixel = _HEAD.unpack_from(payload)
    settings = Settings.unpack(payload[_HEAD.size : _HEAD.size + FIELDS.size])
    header = payload[HEAD_SIZE - HEADER : HEAD_SIZE]
    if form > PNG or (form == RAW and header != bytes(HEADER)) or (form == PNG) != (piece > 0):
        raise FormatError("DEFLATE chunk has an impossible frame")
    if content > min(MAX_RAW, MAX_EXPANSION * size):
        raise LimitError("DEFLATE chunk holds more than it can")
    if row and (not 1 <= pixel <= row or content % (row + 1)):
        raise FormatError("DEFLATE chunk has impossible rows")
    return Head(form, content, row, pixel, piece, settings, b"" if form == RAW else header)
