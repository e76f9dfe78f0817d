"""Equal tensors among those that share chunks, which are cut out so that they are coded once."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, groupby

import xxhash

from densor.codec.kind import Segment
from densor.codec.zstd import zstd_compress
from densor.formats.parsers.base_matching import disjoint, tensors_in
from densor.formats.parsers.groups import kind_of_part
from densor.formats.tensor_table import TensorTable
from densor.formats.tensors import TensorInfo
from densor.runtime.buffers import POOL
from densor.runtime.types import Bytes

Tensors = list[TensorInfo]
Read = Callable[[int, int], Bytes]  # bytes of the file: where they begin, and how many
_LEAST = 4096  # bytes of a tensor that may be worth it
_HEAD = 64  # bytes that are looked at first, in which most tensors differ
_MIN_GAIN = 2048  # bytes that Zstandard leaves of one: cutting takes frames and models


def equal_apart(
    segments: list[Segment], tensors: Sequence[TensorInfo], read: Read
) -> list[Segment]:
    """The segments of a file, those of several tensors cut around each that is equal to another.

    Whole segments that are equal are found when they are coded. Where little is left of a tensor
    it is not worth a frame of its own.
    """
    if isinstance(tensors, TensorTable) and tensors.sizes.max(initial=0) < _LEAST:
        return segments
    ordered = disjoint(tensors)
    offsets = [tensor.offset for tensor in ordered]
    begins = accumulate((segment.size or 0 for segment in segments), initial=0)
    pairs = zip(segments, begins, strict=False)
    found = [(segment, tensors_in(segment, at, ordered, offsets)) for segment, at in pairs]
    shared = [tensor for _, inside in found if len(inside) > 1 for tensor in inside]
    sizes = {tensor.size for tensor in shared if tensor.size >= _LEAST}
    alike = (tensor for _, inside in found for tensor in inside if tensor.size in sizes)
    alone = set(_equal(list(alike), read)) if sizes else set()
    if not alone:
        return segments
    return [part for segment, inside in found for part in _cut(segment, inside, alone)]


def _equal(tensors: Tensors, read: Read) -> Iterator[int]:
    """Where those begin that are equal to others and not small once they are coded."""
    counts = Counter(tensor.size for tensor in tensors)
    by_head: dict[tuple[int, bytes], Tensors] = defaultdict(list)
    for tensor in tensors:
        if counts[tensor.size] > 1:
            head = read(tensor.offset, _HEAD)
            by_head[tensor.size, head.tobytes()].append(tensor)
            POOL.give(head)
    for some in by_head.values():
        yield from _equal_in(some, read) if len(some) > 1 else ()


def _equal_in(tensors: Tensors, read: Read) -> Iterator[int]:
    """Of tensors of one size."""
    by_digest: dict[bytes, list[int]] = defaultdict(list)
    for tensor in tensors:
        data = read(tensor.offset, tensor.size)
        places = by_digest[xxhash.xxh3_128_digest(data)]
        if len(places) != 1 or len(zstd_compress(data, 1)) >= _MIN_GAIN:
            places.append(tensor.offset)
        POOL.give(data)
    for places in by_digest.values():
        yield from places if len(places) > 1 else ()


def _cut(segment: Segment, inside: Tensors, alone: set[int]) -> Iterator[Segment]:
    if len(inside) < 2 or not any(tensor.offset in alone for tensor in inside):
        yield segment
        return
    numbered = enumerate(inside)
    apart = lambda item: item[0] if item[1].offset in alone else -1  # noqa: E731
    for _, items in groupby(numbered, apart):
        group = [tensor for _, tensor in items]
        yield Segment(kind_of_part(segment.kind, group), sum(tensor.size for tensor in group))
