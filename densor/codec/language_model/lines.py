"""Text as a language model knows it: lines of a paragraph joined, ends of lines one byte each.

Where a text is wrapped, the end of a line is a space to whoever reads it; a language model that is
shown it pays for each, and for each space where a line could have ended. Which of the spaces ended
lines is coded beside the text, by what fits on a line. See docs/format/language_model.md.
"""

import struct
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import xxhash

from densor.codec.byte_cm import params as text_params
from densor.codec.byte_cm.kernels import end_coder, start_coder
from densor.codec.language_model import line_kernels as kernels
from densor.entropy.arithmetic.state import AT, STATE
from densor.errors import ChecksumError, FormatError
from densor.runtime.types import Bytes

JOINED, RETURNS = 1, 2  # of a form: lines are joined; ends of lines are CR and LF
FORM = struct.Struct("<B")
HEADER = struct.Struct("<BIIQ")  # form, bytes of text, bytes of marks, XXH3-64 of the original
_CR, _LF, _SPACE = 13, 10, 32
_BLANK = np.zeros(256, bool)
_BLANK[[9, _LF, _CR, _SPACE]] = True
_FEWEST = 64  # ends of lines of a chunk that is worth a look
_MOST_BITS = 4.0  # of an end of a line that is joined; a language model takes about as much
_MIDDLES = 0.5, 0.8  # of the pieces of a chunk that are tried; of one that is not large, the first
_LARGE = 25600
_SHARE = 8  # of a chunk that a piece is
_LEAST_PIECE, _PIECE = 600, 1600  # bytes
_ROOM = 64

Cost = Callable[[Bytes], float]


class Prepared(NamedTuple):
    """A chunk as it is coded: what stands before its segments, and its text."""

    header: bytes  # FORM alone where the text is what it was
    text: Bytes
    marks: npt.NDArray[np.uint8]  # of each byte of the text: 1 where it ended a line


def prepare(content: Bytes, bits: Cost) -> Prepared:
    """The form that a chunk is coded in: as it is, unless another takes less.

    `bits`: what a text takes by itself, under the language model. Pieces of the chunk are coded,
    with lines joined and without.
    """
    plain = Prepared(FORM.pack(0), content, np.zeros(0, np.uint8))
    if np.count_nonzero(content == _LF) < _FEWEST:
        return plain
    form = RETURNS if _has_returns(content) else 0
    text, marks = joined(content, form | JOINED)
    stream = _coded(text, marks) if np.count_nonzero(marks) >= _FEWEST // 4 else b""
    if stream and _pays(content, form, 8 * len(stream) / np.count_nonzero(marks), bits):
        form |= JOINED
    else:
        text, marks = joined(content, form)
        stream = b""
    if not form:
        return plain
    hashed = xxhash.xxh3_64_intdigest(content)
    header = HEADER.pack(form, text.size, len(stream), hashed) + stream
    return Prepared(header, text, marks)


def _pays(content: Bytes, form: int, each: float, bits: Cost) -> bool:
    """Whether joined lines, with marks of `each` bits, are expected to take less."""
    if each > _MOST_BITS:
        return False
    size = min(max(content.size // _SHARE, _LEAST_PIECE), _PIECE)
    before = after = 0.0
    for middle in _MIDDLES if content.size > _LARGE else _MIDDLES[:1]:
        at = max(int(middle * content.size) - size // 2, 0)
        piece = content[at : at + size]
        text, _ = joined(piece, form)
        changed, marks = joined(piece, form | JOINED)
        before += bits(text)
        after += bits(changed) + each * np.count_nonzero(marks)
    return after < before


def _has_returns(content: Bytes) -> bool:
    """Whether each LF comes after a CR, and each CR before an LF."""
    returns, ends = np.flatnonzero(content == _CR), np.flatnonzero(content == _LF)
    return bool(np.array_equal(returns + 1, ends))


def joined(content: Bytes, form: int) -> tuple[Bytes, npt.NDArray[np.uint8]]:
    """A chunk in a form, and its marks."""
    text = content[content != _CR] if form & RETURNS else content.copy()
    marks = np.zeros(text.size, np.uint8)
    if form & JOINED and text.size > 2:
        inner = (text[1:-1] == _LF) & ~_BLANK[text[:-2]] & ~_BLANK[text[2:]]
        marks[1:-1] = inner
        text[marks != 0] = _SPACE
    return text, marks


def separated(text: Bytes, marks: npt.NDArray[np.uint8], form: int) -> Bytes:
    """The chunk that `joined` made this of."""
    lines = np.where(marks != 0, np.uint8(_LF), text) if form & JOINED else text
    if not form & RETURNS:
        return lines
    ends = lines == _LF
    out = np.repeat(lines, 1 + ends)
    out[np.flatnonzero(ends) + np.arange(np.count_nonzero(ends))] = _CR
    return out


def _code(coding: bool, data: Bytes, text: Bytes, marks: npt.NDArray[np.uint8]) -> int:
    """Codes or decodes `marks`; where the stream ends, maybe beyond `data`."""
    tables = text_params.tables()
    coder = np.zeros(STATE, np.int64)
    start_coder(coding, coder, data)
    kernels.code_marks(
        coding, coder, data, text, marks, tables.squash, tables.stretch,
        np.full(kernels.CELLS, kernels.FIRST, np.int64), np.zeros(kernels.CELLS, np.int64),
        np.full(kernels.SETS, kernels.FIRST_WEIGHT, np.int64), np.zeros(kernels.SETS, np.int64),
        np.zeros(kernels.SETS, np.int64),
    )  # fmt: skip
    if coding:
        end_coder(coder, data)
    return int(coder[AT])


def _coded(text: Bytes, marks: npt.NDArray[np.uint8]) -> bytes:
    data = np.zeros(text.size + _ROOM, np.uint8)
    return data[: _code(True, data, text, marks.copy())].tobytes()


class Form(NamedTuple):
    """What stands before the segments of a chunk."""

    form: int
    size: int  # of the text
    marks: Bytes  # stream
    digest: int  # of the original
    end: int  # where the segments begin

    def restored(self, text: Bytes, size: int) -> Bytes:
        """The original of `size` bytes; FormatError or ChecksumError if it is not this text's."""
        marks = np.zeros(text.size, np.uint8)
        if self.form & JOINED and _code(False, self.marks, text, marks) != self.marks.size:
            raise FormatError("ends of lines do not decode to their end")
        content = separated(text, marks, self.form)
        if content.size != size or xxhash.xxh3_64_intdigest(content) != self.digest:
            raise ChecksumError("text does not come back with the ends of its lines")
        return content


def parse(payload: Bytes, size: int) -> Form:
    """What a chunk of `size` original bytes begins with; FormatError for what cannot be."""
    if payload.size < FORM.size or payload[0] > (JOINED | RETURNS):
        raise FormatError("chunk of text has no known form")
    if not payload[0]:
        return Form(0, size, payload[:0], 0, FORM.size)
    if payload.size < HEADER.size:
        raise FormatError("chunk of text ends within its header")
    form, length, marks, digest = HEADER.unpack_from(payload)
    end = HEADER.size + marks
    possible = (size + 1) // 2 <= length <= size if form & RETURNS else length == size
    if not possible or end > payload.size or bool(marks) != bool(form & JOINED):
        raise FormatError("chunk of text has impossible ends of lines")
    return Form(form, length, np.array(payload[HEADER.size : end]), digest, end)
