"""What both sides of the codec know of a chunk's payload: the sections of its planes."""

import struct
from typing import NamedTuple

from densor.codec import registry
from densor.entropy.huffman.code import STREAMS
from densor.errors import FormatError
from densor.runtime.types import Bytes

SECTION = struct.Struct("<BI")  # mode and length of a plane's section, at the head of the payload
LENGTHS_SIZE = 4 * STREAMS  # bytes of the lengths of a section's Huffman streams
MAX_RUNS = 1 << 20  # of a chunk with class maps of Huffman codes


def map_bits(classes: int) -> int:
    """Bits per run of a class map, a divisor of 8, or 0 if there is but one class."""
    return 0 if classes < 2 else 1 if classes == 2 else 2 if classes <= 4 else 4


class Section(NamedTuple):
    """How a plane is stored: its bytes, which begin at `begin` of the payload."""

    mode: int
    begin: int
    content: Bytes


def sections(payload: Bytes, planes: int) -> list[Section]:
    """The sections of so many planes; FormatError unless they fill the payload exactly."""
    at = planes * SECTION.size
    if payload.size < at:
        raise FormatError("chunk of planes is too short")
    found = []
    for mode, size in SECTION.iter_unpack(payload[:at]):
        if size > payload.size - at:
            raise FormatError("plane reaches beyond its chunk")
        found.append(Section(mode, at, payload[at : at + size]))
        at += size
    if at != payload.size:
        raise FormatError("chunk of planes is too long")
    return found


def check_plain(section: Section, n: int) -> None:
    """FormatError unless a plane of `n` bytes may be stored so, without classes."""
    if section.mode == registry.PLANE_RAW:
        if section.content.size != n:
            raise FormatError("raw plane has the wrong length")
    elif section.mode == registry.PLANE_CONSTANT:
        if section.content.size != 1:
            raise FormatError("constant plane has the wrong length")
    elif section.mode != registry.PLANE_ZSTD:
        raise FormatError("plane has an unknown mode")
