"""How tensors are coded in messages: pieces of one or several tensors of one dtype."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from densor.dtypes import SIZES
from densor.errors import ArgumentError, DensorError, FormatError, UnsupportedError
from densor.formats.container import tensor_blob
from densor.formats.container.base import GivenBase
from densor.formats.io.sources import Bytes, MemoryRandomSource
from densor.options import WriteOptions
from densor.runtime.workers import Workers
from densor.sync import few
from densor.sync.message import Piece
from densor.sync.weights import Described

BLOB = 0  # codings: an archive of all tensors of the piece, end to end, against what they were
FEW = 1  # parameters, then each tensor by itself: which elements have changed, and how
_RUN = 1 << 23  # bytes of tensors that share a piece; a larger one has a piece of its own
_BOTH = 1 << 14  # bytes of changed tensors, below which parameters may be worth more than they save
_GAP = 256  # unchanged tensors in turn, whose lengths take as much as parameters of their own
_NAME = "w"  # of the tensor in a blob; the table has those of the model


class Coder(NamedTuple):
    """How a publisher codes."""

    level: int = 3
    threads: int = 1

    def options(self) -> WriteOptions:
        """For archives."""
        return WriteOptions(level=self.level, threads=self.threads)


def encode(
    tensors: Sequence[Described],
    new: Sequence[Bytes],
    old: Sequence[Bytes] | None,
    changed: Sequence[int],
    coder: Coder,
) -> Iterator[Piece]:
    """Pieces of the tensors with the numbers `changed`; of all bytes where there is no `old`."""
    by_few: dict[int, Piece] = {}
    coded: set[int] = set()  # of these tensors
    if old is not None:
        workers = Workers(coder.threads)
        for first, count in _of_one_dtype(tensors):
            of_dtype = [i for i in changed if first <= i < first + count]
            for chosen in _near(of_dtype):
                payload = few.encode(tensors, new, old, chosen, workers)
                if payload is not None and sum(tensors[i].size for i in chosen) < _BOTH:
                    parts = [slice(at, at + n) for at, n in _runs(tensors, chosen)]
                    blobs = sum(len(_blob(tensors, new, old, part, coder)) for part in parts)
                    payload = payload if len(payload) <= blobs else None
                if payload is not None:
                    piece = Piece(chosen[0], chosen[-1] + 1 - chosen[0], FEW, payload)
                    by_few[piece.first] = piece
                    coded.update(chosen)
    runs = dict(_runs(tensors, [i for i in changed if i not in coded]))
    for first in sorted(by_few.keys() | runs.keys()):
        if first in by_few:
            yield by_few[first]
            continue
        payload = _blob(tensors, new, old, slice(first, first + runs[first]), coder)
        yield Piece(first, runs[first], BLOB, payload)


def _of_one_dtype(tensors: Sequence[Described]) -> Iterator[tuple[int, int]]:
    """Stretches of neighbours of one dtype, (first, count)."""
    first = 0
    for i in range(1, len(tensors) + 1):
        if i == len(tensors) or tensors[i].dtype != tensors[first].dtype:
            yield first, i - first
            first = i


def _near(changed: Sequence[int]) -> Iterator[Sequence[int]]:
    """Cuts numbers in order where many are left out."""
    begin = 0
    for i in range(1, len(changed) + 1):
        if i == len(changed) or changed[i] - changed[i - 1] > _GAP:
            yield changed[begin:i]
            begin = i


def _runs(tensors: Sequence[Described], changed: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Stretches of neighbours of one dtype, (first, count), that are coded together."""
    first, count, size = 0, 0, 0
    for i in changed:
        fits = count and i == first + count and size + tensors[i].size <= _RUN
        if fits and tensors[i].dtype == tensors[first].dtype:
            count += 1
            size += tensors[i].size
            continue
        if count:
            yield first, count
        first, count, size = i, 1, tensors[i].size
    if count:
        yield first, count


def _described(tensors: Sequence[Described], part: slice) -> tensor_blob.Tensor:
    """What a blob of these says of itself: one dimension unless there is only one tensor."""
    chosen = tensors[part]
    size = sum(tensor.size for tensor in chosen)
    one = chosen[0]
    shape = one.shape if len(chosen) == 1 else (size // SIZES[one.dtype],)
    return tensor_blob.Tensor(_NAME, one.dtype, shape, size, None)


def _joined(data: Sequence[Bytes]) -> Bytes:
    return data[0] if len(data) == 1 else np.concatenate(data)


def _blob(
    tensors: Sequence[Described],
    new: Sequence[Bytes],
    old: Sequence[Bytes] | None,
    part: slice,
    coder: Coder,
) -> bytes:
    base = None if old is None else GivenBase(MemoryRandomSource(_joined(old[part])))
    tensor = _described(tensors, part)
    return tensor_blob.encode(tensor, _joined(new[part]), coder.options(), base)


def check(pieces: Sequence[Piece], tensors: Sequence[Described]) -> None:
    """FormatError or UnsupportedError for pieces that cannot be decoded, as far as can be seen
    without decoding them."""
    for piece in pieces:
        if piece.coding not in (BLOB, FEW):
            raise UnsupportedError(f"unknown coding {piece.coding}; a newer densor may read it")
        chosen = tensors[piece.first : piece.first + piece.count]
        if len({tensor.dtype for tensor in chosen}) > 1:
            raise FormatError("piece of a message has tensors of several dtypes")
        if piece.coding == FEW:
            few.check(piece.payload, chosen)
            continue
        found = tensor_blob.describe(np.frombuffer(piece.payload, np.uint8))
        wanted = _described(tensors, slice(piece.first, piece.first + piece.count))
        if found[:4] != wanted[:4]:
            raise FormatError("piece of a message is of other tensors")


def apply(
    piece: Piece,
    tensors: Sequence[Described],
    data: Sequence[Bytes],
    threads: int,
    with_base: bool,
    done: Callable[[int], None],
) -> None:
    """Puts a piece that was checked into the memory of its tensors, one after the other.

    `data`: their bytes, which are changed in place. `done`: called with the number of a tensor once
    it is whole.
    """
    part = slice(piece.first, piece.first + piece.count)
    if piece.coding == FEW:
        if not with_base:
            raise FormatError("full message has changes")
        few.apply(piece.payload, piece.first, tensors[part], data[part], Workers(threads), done)
        return
    blob = np.frombuffer(piece.payload, np.uint8)
    described = tensor_blob.describe(blob)
    if (described.base is not None) != with_base:
        raise FormatError("piece of a message has a base where it may not, or lacks one")
    before = GivenBase(MemoryRandomSource(_joined(data[part]))) if with_base else None
    try:
        found = tensor_blob.decode(
            blob, described, threads, None if before is None else lambda _: before
        )
    except DensorError as error:  # of the message, not of what the caller gave
        kind = FormatError if isinstance(error, ArgumentError) else type(error)
        raise kind(f"{tensors[piece.first].name!r:.200}: {error}") from error
    at = 0
    for number in range(piece.first, piece.first + piece.count):
        target = data[number]
        target[:] = found[at : at + target.size]
        at += target.size
        done(number)
