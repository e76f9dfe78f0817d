"""Which tensors of a file go with which of its base."""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from densor.codec.kind import Segment
from densor.formats.io.sources import Bytes, RandomSource
from densor.formats.parsers.groups import kind_of_part
from densor.formats.parsers.plan import plan_file
from densor.formats.tensors import TensorInfo


def tensors_of(base: RandomSource, name: str = "array") -> Sequence[TensorInfo]:
    """The tensors of a base, as those of any file are found; `name`: as for `plan_file`."""
    return plan_file(_Sequential(base), base.size, random=base, name=name).tensors


def listed_of(source: RandomSource) -> Sequence[TensorInfo]:
    """All tensors that an index of this file would list, those that cannot be read included."""
    return plan_file(_Sequential(source), source.size, random=source).listed


def shares_tensors(tensors: Iterable[TensorInfo], others: Iterable[TensorInfo]) -> bool:
    """Whether some of the tensors have the same name, dtype and shape."""
    known = {_identity(tensor) for tensor in others}
    return any(_identity(tensor) in known for tensor in tensors)


def moments_in(tensors: Iterable[TensorInfo]) -> bool:
    """Whether some of the tensors are called as an optimizer's second moments are."""
    return any(tensor.name.endswith(".exp_avg_sq") for tensor in tensors)


def _identity(tensor: TensorInfo) -> tuple[str, str, tuple[int, ...]]:
    return tensor.name, tensor.dtype, tensor.shape


class _Sequential:
    """A source's bytes from the first to the last."""

    def __init__(self, source: RandomSource) -> None:
        self._source = source
        self._at = 0

    def take(self, count: int) -> Bytes:
        count = min(count, self._source.size - self._at)
        self._at += count
        return self._source.read_at(self._at - count, count)


def attach(
    segments: Iterable[Segment],
    tensors: Iterable[TensorInfo],
    base_tensors: Iterable[TensorInfo],
) -> Iterator[Segment]:
    """The segments of a file with the places of the base that they are coded against.

    Tensors go together that have the same name, dtype and shape. A segment of several tensors is
    cut where these do not follow each other in the base too. Of other bytes, those at the same
    place go together.
    """
    places = {_identity(tensor): tensor.offset for tensor in base_tensors if tensor.plain}
    ordered = disjoint(tensors)
    offsets = [tensor.offset for tensor in ordered]
    at = 0
    for segment in segments:
        kind = segment.kind
        if not ordered or segment.size is None or (kind.layout is None and not kind.fields):
            yield segment._replace(base=at)
        else:
            inside = tensors_in(segment, at, ordered, offsets)
            yield from _matched(segment, at, inside, places)
        at += segment.size or 0


def tensors_in(
    segment: Segment, at: int, tensors: list[TensorInfo], offsets: list[int]
) -> list[TensorInfo]:
    """The tensors that make up a segment at `at` exactly, of disjoint ones; none where none do.

    `offsets`: of the tensors, in order.
    """
    size = segment.size or 0
    begin = bisect_left(offsets, at)
    end = bisect_left(offsets, at + size, begin)
    inside = tensors[begin:end]
    return inside if sum(tensor.size for tensor in inside) == size else []


def disjoint(tensors: Iterable[TensorInfo]) -> list[TensorInfo]:
    """Tensors in order, without those that share bytes with others or are views of some."""
    found: list[TensorInfo] = []
    for tensor in sorted((t for t in tensors if t.plain), key=lambda t: (t.offset, -t.size)):
        if tensor.size and (not found or tensor.offset >= found[-1].offset + found[-1].size):
            found.append(tensor)
    return found


def _matched(
    segment: Segment,
    at: int,
    inside: list[TensorInfo],
    places: dict[tuple[str, str, tuple[int, ...]], int],
) -> Iterator[Segment]:
    def shift(tensor: TensorInfo) -> int | None:
        place = places.get(_identity(tensor))
        return None if place is None else place - tensor.offset

    parts = [(found, list(group)) for found, group in groupby(inside, shift)]
    if not inside:
        yield segment
    elif len(parts) == 1:
        found = parts[0][0]
        yield segment if found is None else segment._replace(base=at + found)
    else:
        for found, group in parts:
            first, size = group[0].offset, sum(tensor.size for tensor in group)
            yield Segment(
                kind_of_part(segment.kind, group), size, None if found is None else first + found
            )
