"""Encoding in spans: one compiled call, without the GIL, from a batch of floats to its frames.

For weights as they mostly are: the first plane holds exponents under Huffman codes, the others
nothing that could be saved, one value, or symbols that one Huffman code suits everywhere. What
else there is goes the ordinary way.
"""

import threading
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from densor.codec import registry
from densor.codec.batch import OWN, Chunk
from densor.codec.planes.layout import LAYOUTS
from densor.codec.planes.params import Classes, Parameters, pack
from densor.codec.spans import table as t
from densor.codec.spans.table import CODE_TABLE as TABLE
from densor.codec.spans.table import MOST_CLASSES, PIECE, PIECES, Bytes, Numbers
from densor.codec.spans.table import MOST_CODES as CLASSES
from densor.entropy.deferred import deferred

plan_span = deferred("densor.codec.spans.encode_kernels", "plan_span")
put_chunks, number_frames = deferred(
    "densor.codec.spans.chunk_kernels", "put_chunks", "number_frames"
)

_LAYOUTS = (
    registry.LAYOUT_BYTE,
    registry.LAYOUT_BF16,
    registry.LAYOUT_WORD16,
    registry.LAYOUT_FP32,
)
_LEAST = 1 << 12  # elements of a batch
_HUFFMAN = np.full(CLASSES + t.MOST_PLANES - 1, registry.CLASS_HUFFMAN, np.uint8)
_MANY_AND_FIRST = np.ones((2, 8), np.int64)
_MANY_AND_FIRST[1] = [0, *range(CLASSES, CLASSES + 7)]
_LEAST_RUN = 64
_local = threading.local()


@dataclass(frozen=True, eq=False)
class EncodedSpan:
    """A batch: its parameters, and its chunks as frames.

    `parameters`: payload of the MODEL frame, None if no chunk uses it. `frames`: uint8[], the
    frames one after the other, complete once they were numbered. `made`: int64[chunks, 3], of
    each frame its offset in `frames`, its stored size, and whether it uses the parameters.
    `original`: int64[chunks], the bytes of each.
    """

    parameters: bytes | None
    frames: Bytes
    made: Numbers
    original: Numbers

    @property
    def chunks(self) -> list[Chunk]:
        """The chunks, whose payloads are views of the frames."""
        found = []
        for (at, stored, own), original in zip(
            self.made.tolist(), self.original.tolist(), strict=True
        ):
            payload = self.frames[at + t.FRAME : at + t.FRAME + stored]
            found.append(Chunk(OWN if own else registry.MODEL_RAW, payload, original))
        return found

    def number(self, model: int) -> tuple[Bytes]:
        """The complete frames; `model`: what the batch's parameters are called in the archive."""
        number_frames(self.frames, self.made, model)
        return (self.frames,)


class How(NamedTuple):
    """How planes are coded, as `put_chunks` takes it."""

    layout: int
    run: int  # elements of a row
    find: bool  # whether classes are found as the rows are coded
    ways: Numbers  # int64[3, 8]
    kinds: npt.NDArray[np.uint8]  # uint8[classes]
    lengths: npt.NDArray[np.uint8]  # uint8[classes, 256]


def frame_room(size: int, chunk: int) -> int:
    """Bytes that the frames of a batch of `size` bytes in chunks of `chunk` bytes may take."""
    return size + t.FRAME * -(-size // chunk)


def encode_batch(
    data: Bytes,
    layout: int,
    run: int,
    rows: int,
    classes: int = CLASSES,
    careful: bool = True,
    out: Bytes | None = None,
    noise: float = t.NOISE,
) -> EncodedSpan | None:
    """Encodes a batch of floats; None where it is not for this encoder.

    `data`: uint8[], C-contiguous, whole elements of the layout of that number. A row has `run`
    elements, a chunk `rows` rows. `classes`: codes at most, 1 or more; there will be 1 or 4.
    `careful`: whether Zstandard may be tried elsewhere on what repeats. `out`: uint8[], memory for
    the frames, of `frame_room` bytes at least; the result is a view of it then. `noise`: bits of a
    byte from which planes behind the first are stored as they are.
    """
    if layout not in _LAYOUTS or run < _LEAST_RUN or rows < 1 or classes < 1:
        return None
    size = LAYOUTS[layout].size
    n = data.size // size
    chunk = size * run * rows
    if n < _LEAST or n * size != data.size or run > n or chunk > t.CHUNK_LIMIT:
        return None
    room = frame_room(data.size, chunk)
    if out is None:
        out = np.empty(room, np.uint8)
    elif out.size < room:
        raise ValueError("output buffer too small")
    work = work_space(-(-n // run), min(run * rows, n), size, rows)
    ways = np.zeros((3, 8), np.int64)
    lengths = np.zeros((CLASSES + t.MOST_PLANES - 1, 256), np.uint8)
    most = CLASSES if classes > 1 else 1
    found = plan_span(data, layout, size, run, most, careful, noise, ways[0], lengths, *work.plan)
    if found < 0:
        return None
    ways[1:] = _MANY_AND_FIRST
    ways[1, 0] = found
    how = How(layout, run, found > 1, ways, _HUFFMAN, lengths)
    encoded = put_batch(data, rows, how, work.classes, out)
    if encoded is None or not encoded.made[:, 2].any():
        return encoded
    return replace(encoded, parameters=_parameters(layout, run, lengths, found))


def put_batch(
    data: Bytes, rows: int, how: How, classes: npt.NDArray[np.uint8], out: Bytes
) -> EncodedSpan | None:
    """A batch as its planes are settled; its parameters are the caller's.

    `data`: uint8[], whole elements, in chunks of `rows` rows. `classes`: see `put_chunks`. `out`:
    uint8[], of `frame_room` bytes. None where a plane is not constant that should be.
    """
    size = LAYOUTS[how.layout].size
    chunk = size * how.run * rows
    made = np.empty((-(-data.size // chunk), 3), np.int64)
    work = work_space(0, min(how.run * rows, data.size // size), size, rows).put
    if not put_chunks(
        data, how.layout, size, how.run, rows, how.find, how.ways, how.kinds, how.lengths, classes,
        out, made, *work,
    ):  # fmt: skip
        return None
    original = np.full(len(made), chunk)
    original[-1] = data.size - chunk * (len(made) - 1)
    return EncodedSpan(None, out[: int(made[-1, 0] + made[-1, 1]) + t.FRAME], made, original)


def _parameters(layout: int, run: int, lengths: npt.NDArray[np.uint8], count: int) -> bytes:
    """The parameters of a batch, of whose first plane there are `count` classes."""
    behind = (lengths[c : c + 1] for c in range(CLASSES, CLASSES + LAYOUTS[layout].size - 1))
    rest = (_codes(code) if code.any() else None for code in behind)
    return pack(Parameters(LAYOUTS[layout], run, (_codes(lengths[:count]), *rest)))


def _codes(lengths: npt.NDArray[np.uint8]) -> Classes:
    kinds = np.full(len(lengths), registry.CLASS_HUFFMAN, np.uint8)
    return Classes(kinds, np.zeros_like(kinds), lengths)


class _Work(NamedTuple):
    """Work space of the kernels."""

    classes: Bytes
    plan: tuple[npt.NDArray[Any], ...]
    put: tuple[npt.NDArray[Any], ...]
    count: tuple[npt.NDArray[Any], ...]


def work_space(rows: int, elements: int, size: int, of_chunk: int = 0) -> _Work:
    """Work space of this thread for a batch of so many rows, and elements and rows of a chunk."""
    needs = (rows, elements, size, of_chunk)
    have: tuple[int, int, int, int] = getattr(_local, "needs", (0, 0, 0, 0))
    if any(a < b for a, b in zip(have, needs, strict=True)):
        rows, elements, size, of_chunk = _local.needs = tuple(map(max, have, needs))
        planes = np.empty(size * max(elements, 5 * PIECE * PIECES) + 4096, np.uint8)
        words, numbers = np.empty(4096, np.uint64), np.empty(64 + 1024, np.int64)
        edge, tallies = np.empty(t.EDGE + 8192, np.uint8), np.empty(8 * 1024, np.uint32)
        counts = np.empty((CLASSES + 2 + t.MOST_PLANES, 256), np.int64)
        sums, floats = np.empty(rows, np.uint32), np.empty(4 * CLASSES, np.float64)
        grouped = np.empty(elements + 64, np.uint8)
        coded = np.empty(2 * elements + of_chunk + 4096, np.uint8)
        tables, codes = np.empty((MOST_CLASSES, TABLE), np.uint8), np.empty(512, np.uint32)
        halves = np.empty(1024, np.uint16)
        _local.work = _Work(
            np.empty((1, rows), np.uint8),
            (planes, counts, tallies[: CLASSES * 1024], numbers, words, sums, floats, edge),
            (planes, grouped, coded, tables, numbers, words, codes, edge),
            (planes, tallies, halves, numbers, edge),
        )
    work: _Work = _local.work
    return work
