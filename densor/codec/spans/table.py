"""What a span decoder is given: a table of chunks, and the parameters that they name."""

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from densor.codec import registry
from densor.codec.planes.params import Classes, Parameters
from densor.errors import FormatError

Bytes = npt.NDArray[np.uint8]
Numbers = npt.NDArray[np.int64]

PAYLOAD, STORED, MODEL, PLACE, SIZE, HEAD, PARAMETERS = range(7)  # columns
COLUMNS = 7
RAW, ZSTD, OTHER = -1, -2, -3  # in the place of parameters; other chunks are not decoded here
HEADS = 4 + 8 + 1  # layout, planes, run, differences; first class of each plane, and the end
CHUNK = 3  # kind of frame
FRAME = 28  # bytes of a frame header
MAX_RUNS = 1 << 20  # of a chunk
CHUNK_LIMIT = 1 << 26

MOST_CLASSES = 8 * 16  # of all planes
READY = 48  # place in the kernel's integers: whose look-up tables it holds
NUMBERS = 64 + MOST_CLASSES  # sizes of the kernel's work space
WORDS = 8 + (1 << 13)
CODES = 256 + 16
EDGE = 9 * 64

# Errors of a chunk from 1 to 13 are those of `densor.codec.planes.decoding.ERRORS`.
IMPOSSIBLE = 32
RAW_LENGTH = 33
MANY_RUNS = 34
OUTSIDE = 35
HEADER_DAMAGED = 36
HEADER_OTHER = 37
PAYLOAD_DAMAGED = 38
ZSTD_FORMAT = 39
ZSTD_LIMIT = 40
NOT_MINE = 255  # to be decoded the ordinary way

# Sizes of the encoder.
_FEW = 32  # chunks
MOST_CODES = 4  # of a batch
MOST_PLANES = 4
CODE_TABLE = 2 * 256  # the code of each symbol and its length, see `fill_table`
NOISE = 7.88  # bits of a byte; beyond, little is left to save
PIECE, PIECES = 1024, 16  # elements of each piece of a sample


@dataclass(frozen=True, eq=False)
class SpanParameters:
    """Parsed parameters of planes under Huffman codes, in arrays that a kernel can read."""

    numbers: Numbers  # int64[parameters], in rising order: what frame headers call them
    heads: Numbers  # int64[parameters, HEADS]
    kinds: Bytes  # uint8[classes], and so on as in `Classes`
    symbols: Bytes
    lengths: Bytes
    serial: int = field(default_factory=itertools.count().__next__)

    @property
    def arrays(self) -> tuple[Numbers, Bytes, Bytes, Bytes]:
        """As the kernel takes them."""
        return self.heads, self.kinds, self.symbols, self.lengths

    @property
    def weight(self) -> int:
        """Bytes."""
        return self.heads.nbytes + self.lengths.nbytes

    @classmethod
    def of(cls, models: Mapping[int, Parameters[Classes]]) -> "SpanParameters":
        """`models`: by the number that frame headers name them with."""
        numbers = np.array(sorted(models), np.int64)
        heads = np.zeros((numbers.size, HEADS), np.int64)
        listed = [Classes.empty(0)]
        at = 0
        for head, number in zip(heads, numbers.tolist(), strict=True):
            model = models[number]
            head[:4] = model.layout.number, model.layout.size, model.run, model.delta
            head[4:] = at
            for p, classes in enumerate(model.planes):
                if classes is not None:
                    listed.append(classes)
                    at += len(classes)
                head[5 + p :] = at
        return cls(
            numbers,
            heads,
            np.concatenate([classes.kinds for classes in listed]),
            np.concatenate([classes.symbols for classes in listed]),
            np.concatenate([classes.lengths for classes in listed]),
        )


class Numbered(Protocol):
    """Parameters of any kind."""

    @property
    def numbers(self) -> Numbers:
        """int64[parameters], in rising order: what frame headers call them."""


def chunk_table(
    parameters: Numbered,
    payload: Numbers,
    stored: Numbers,
    model: Numbers,
    place: Numbers,
    size: Numbers,
    checked: bool = False,
) -> Numbers:
    """The table of chunks, int64[chunks, COLUMNS], from columns of equal length.

    `payload`: where the stored bytes of each chunk begin, in bytes of the array that is decoded
    from; its frame header lies before it, unless the frame was `checked` already. `stored`: how
    many there are. `model`: number in the frame header. `place`, `size`: of the original
    bytes in the result. FormatError where two places overlap.
    """
    if payload.size <= _FEW and not checked:
        few = _few_rows(
            parameters,
            zip(*(c.tolist() for c in (payload, stored, model, place, size)), strict=True),
        )
        if few is not None:
            return few
    table = np.empty((payload.size, COLUMNS), np.int64)
    table[:, PAYLOAD], table[:, STORED], table[:, MODEL] = payload, stored, model
    table[:, PLACE], table[:, SIZE] = place, size
    table[:, HEAD] = -1 if checked else payload - FRAME
    table[:, PARAMETERS] = OTHER
    table[table[:, MODEL] == registry.MODEL_RAW, PARAMETERS] = RAW
    table[table[:, MODEL] == registry.MODEL_ZSTD, PARAMETERS] = ZSTD
    if parameters.numbers.size:
        found = np.searchsorted(parameters.numbers, table[:, MODEL])
        found[found == parameters.numbers.size] = 0
        known = parameters.numbers[found] == table[:, MODEL]
        table[known, PARAMETERS] = found[known]
    _check(table, checked)
    return table


def _few_rows(parameters: Numbered, rows: Iterable[tuple[int, ...]]) -> Numbers | None:
    """The same table row by row, which takes less time for few; None where something is wrong."""
    known = {number: i for i, number in enumerate(parameters.numbers.tolist())}
    known[registry.MODEL_RAW], known[registry.MODEL_ZSTD] = RAW, ZSTD
    table = []
    end = 0
    for row in rows:
        payload, _, model, place, size = row
        if min(row) < 0 or payload < FRAME or place < end or size > CHUNK_LIMIT:
            return None
        end = place + size
        table.append((*row, payload - FRAME, known.get(model, OTHER)))
    return np.array(table, np.int64).reshape(-1, COLUMNS)


def _check(table: Numbers, checked: bool) -> None:
    """FormatError unless all numbers are possible and no two places overlap."""
    numbers = table[:, :PARAMETERS] if not checked else table[:, :HEAD]
    if table.size and (numbers.min() < 0 or table[:, SIZE].max() > CHUNK_LIMIT):
        raise FormatError("chunk has an impossible place or size")
    if _overlap(table) and _overlap(table[np.argsort(table[:, PLACE], kind="stable")]):
        raise FormatError("chunks overlap in the result")


def _overlap(table: Numbers) -> bool:
    """Whether a place reaches into the next one, or lies behind it."""
    begins = table[:, PLACE]
    return bool((begins[:-1] > begins[1:] - table[:-1, SIZE]).any())
