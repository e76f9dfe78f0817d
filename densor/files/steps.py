"""Adam's moments in a file as what a step has made of those in its base.

m and v after a step are functions of those before and of the gradient: where that is BF16, maybe
times one factor, it is derived from m and kept in their place (`container/step.py`). A parameter's
gradient is kept where a sample takes less so; what does not follow is coded as changes of what the
step gives, so that nothing depends on its being right.
"""

import itertools
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from typing import BinaryIO, NamedTuple

import numpy as np

from densor.codec.adam import replay
from densor.codec.adam.replay import Moments, Step
from densor.codec.adam.scaled import Halves
from densor.codec.kind import BYTES, Segment, kind_of
from densor.errors import TruncatedError
from densor.formats.container import step as steps
from densor.formats.container.base import GivenBase
from densor.formats.container.entry import STEP, EntryMeta
from densor.formats.container.step import Stepped, SteppedBase
from densor.formats.container.tensor_blob import Tensor, encode
from densor.formats.container.writer import ArchiveWriter
from densor.formats.io.outputs import write_all
from densor.formats.io.sources import (
    Bytes,
    ChainSource,
    FileRandomSource,
    FileSource,
    MemoryRandomSource,
    RandomSource,
)
from densor.formats.parsers.torch_zip import betas_in
from densor.formats.tensors import MAX_NAME, TensorInfo
from densor.options import WriteOptions

LEAST_LEVEL = 3  # below, time matters more
_M, _V = ".exp_avg", ".exp_avg_sq"
_BETAS = (0.9, 0.999), (0.9, 0.95)  # that are tried where a file says none
_LEAST = 1 << 16  # bytes of moments for which a step is looked for
_SMALL = 1 << 15  # elements of parameters whose gradients are coded together
_SAMPLES, _STRETCH = 16, 1 << 12  # stretches of a sample, and their elements
_MEASURED = 1 << 12  # elements of a sample that is coded to see what it takes
_FOLLOW = 0.5  # share of a sample in which m must follow
_BLOCK = 1 << 18  # elements that are worked on at a time
_MOST_TRIED = 6  # level by which samples are coded
_LEAST_GAIN = 1 << 11  # bytes that must be saved besides the table


class _Place(NamedTuple):
    """The moments of a parameter: in the file, and in the base."""

    stem: str
    shape: tuple[int, ...]
    elements: int
    m: int
    v: int
    old_m: int
    old_v: int


class _Found(NamedTuple):
    """A step that moments were made by; `misses`: share of a sample that does not follow; `gain`:
    bytes saved."""

    step: Step
    misses: float
    gain: float


def add_step(
    writer: ArchiveWriter,
    name: str,
    file: RandomSource,
    tensors: Iterable[TensorInfo],
    base: RandomSource,
    base_tensors: Iterable[TensorInfo],
    stack: ExitStack,
) -> tuple[int, SteppedBase] | None:
    """Adds an entry with the gradients of a step from a base to a file, where that pays.

    `tensors`, `base_tensors`: those in them. Returns the number of the entry, and the base after
    the step, which can be read until `stack` is closed.
    """
    if writer.options.level is not None and writer.options.level < LEAST_LEVEL:
        return None
    places = list(_places(tensors, base_tensors, file, base))
    if sum(8 * place.elements for place in places) < _LEAST:
        return None
    gradients: BinaryIO = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
    search = _Search(file, base, writer.options, gradients)
    kept = [(place, found) for place in places if (found := search.added(place)) is not None]
    head = steps.head([Stepped(p.old_m, p.old_v, p.elements, found.step) for p, found in kept])
    if sum(found.gain for _, found in kept) < len(head) + _LEAST_GAIN:
        return None
    if len(head) > steps.MAX_TABLE:  # of very many parameters
        return None
    gradients.flush()
    gradients.seek(0)
    stored = FileRandomSource(gradients)
    size = len(head) + stored.size
    begin = np.frombuffer(head, np.uint8)
    segments = [Segment(BYTES, len(head)), *_segments([place for place, _ in kept])]
    number = writer.entries
    meta = EntryMeta(_name(writer, name), STEP, size)
    writer.add(meta, ChainSource(begin, FileSource(gradients)), segments)

    def read(low: int, high: int) -> Bytes:
        if high <= len(head):
            return begin[low:high]
        return stored.read_at(low - len(head), high - low)

    return number, SteppedBase(base, steps.parse(size, read), read)


def _name(writer: ArchiveWriter, name: str) -> str:
    """What the step of an entry of this name is called: something that no other entry is."""
    wanted = f"densor.step:{name}"
    if len(wanted.encode()) > MAX_NAME:
        wanted = "densor.step"
    free = wanted
    for number in itertools.count(2):
        if not writer.has(free):
            break
        free = f"{wanted[: MAX_NAME // 5]} ({number})"
    return free


def _places(
    tensors: Iterable[TensorInfo],
    base_tensors: Iterable[TensorInfo],
    file: RandomSource,
    base: RandomSource,
) -> Iterator[_Place]:
    """Parameters whose moments are in both, one step apart as far as is known; small ones last."""
    new, old = ({t.name: t for t in some if t.plain} for some in (tensors, base_tensors))
    found = []
    for name, m in new.items():
        stem = name.removesuffix(_M)
        four = [
            m,
            *(some.get(f"{stem}{which}") for some, which in ((new, _V), (old, _M), (old, _V))),
        ]
        if not name.endswith(_M) or not all(t and _is_like(t, m) for t in four) or not m.size:
            continue
        if not _is_next(base, old.get(f"{stem}.step"), file, new.get(f"{stem}.step")):
            continue
        offsets = [t.offset for t in four if t is not None]
        found.append(_Place(stem, m.shape, m.size // 4, *offsets))
    found.sort(key=lambda place: (place.elements < _SMALL, place.old_m))
    taken = sorted((at, at + 4 * p.elements) for p in found for at in (p.old_m, p.old_v))
    if all(one[1] <= other[0] for one, other in itertools.pairwise(taken)):
        yield from found  # none share bytes


def _is_like(tensor: TensorInfo, m: TensorInfo) -> bool:
    return tensor.dtype == "F32" and tensor.shape == m.shape


def _is_next(
    base: RandomSource, before: TensorInfo | None, file: RandomSource, after: TensorInfo | None
) -> bool:
    """Whether a number of steps follows another, or either is not known."""
    if before is None or after is None:
        return True
    numbers = []
    for source, tensor in ((base, before), (file, after)):
        if (tensor.dtype, tensor.size) != ("F32", 4):
            return True
        numbers.append(float(source.read_at(tensor.offset, 4).view("<f4")[0]))
    return numbers[0] + 1 == numbers[1]


def _segments(places: list[_Place]) -> Iterator[Segment]:
    """How gradients are coded: large ones by their shape, small ones together."""
    small = sum(place.elements for place in places if place.elements < _SMALL)
    for place in places:
        if place.elements >= _SMALL:
            yield Segment(kind_of("BF16", place.shape), 2 * place.elements)
    if small:
        yield Segment(kind_of("BF16", (small,)), 2 * small)


class _Search:
    """Finds by which step moments were made; writes gradients to a file, one after the other."""

    def __init__(
        self, file: RandomSource, base: RandomSource, options: WriteOptions, out: BinaryIO
    ) -> None:
        self._file, self._base, self._out = file, base, out
        level = _MOST_TRIED if options.level is None else min(options.level, _MOST_TRIED)
        self._options = WriteOptions(level=level, threads=1)
        self._betas = betas_in(file)
        self._last: Step | None = None

    def added(self, place: _Place) -> _Found | None:
        """How a parameter's moments follow, if they do; its gradient is in the file then."""
        found = self._found(place)
        if found is None:
            return None
        begin, misses = self._out.tell(), 0
        for at in range(0, place.elements, _BLOCK):
            part = self._moments(place, at, min(place.elements, at + _BLOCK))
            gradient, missed = replay.derived_block(part, found.step)
            write_all(self._out, gradient.astype("<u2", copy=False).view(np.uint8))
            misses += missed
        if misses > (2 * found.misses + 0.01) * place.elements:  # the sample was none
            self._out.seek(begin)
            self._out.truncate()
            return None
        self._last = found.step
        return found

    def _found(self, place: _Place) -> _Found | None:
        """By a sample."""
        few = self._sample(place)
        if np.array_equal(few.m, few.next_m) and np.array_equal(few.v, few.next_v):
            return None
        told = self._betas.get(place.stem)
        for betas in _BETAS if told is None else (told,):
            step = replay.likely_step(few, replay.step_of(*betas), self._last)
            gradient, misses = replay.derived_block(few, step)
            if replay.follows(few, gradient, step, _FOLLOW):
                break
        else:
            return None
        if few.m.size < _MEASURED:
            return None if misses else _Found(step, 0, 2 * place.elements)
        saved = self._saved(few, gradient, step)
        if saved <= 0:
            return None
        return _Found(step, misses / few.m.size, saved * place.elements / few.m.size)

    def _saved(self, few: Moments, gradient: Halves, step: Step) -> int:
        """Bytes that a sample takes less as gradient and what differs from a step."""
        made = replay.predicted(few.m, few.v, gradient, step)
        new = few.next_m, few.next_v
        taken = self._coded(gradient, "BF16", None)
        for right, base in zip(new, made, strict=True):
            taken += 0 if np.array_equal(right, base) else self._coded(right, "F32", base)
        plain = sum(self._coded(a, "F32", b) for a, b in zip(new, few[:2], strict=True))
        return plain - taken

    def _coded(self, words: np.ndarray, dtype: str, base: np.ndarray | None) -> int:
        """Bytes of an archive of these; most of a few hundred more or less cancel out."""
        given = None if base is None else GivenBase(MemoryRandomSource(base))
        data = np.ascontiguousarray(words).view(np.uint8)
        tensor = Tensor("sample", dtype, words.shape, data.size, None)
        return len(encode(tensor, data, self._options, given))

    def _sample(self, place: _Place) -> Moments:
        """Elements from all over a parameter, or all of it."""
        if place.elements <= _SAMPLES * _STRETCH:
            return self._moments(place, 0, place.elements)
        begins = np.linspace(0, place.elements - _STRETCH, _SAMPLES).astype(np.int64).tolist()
        parts = [self._moments(place, at, at + _STRETCH) for at in begins]
        return Moments(*(np.concatenate(some) for some in zip(*parts, strict=True)))

    def _moments(self, place: _Place, first: int, last: int) -> Moments:
        found = []
        for source, begin in (
            (self._base, place.old_m), (self._base, place.old_v),
            (self._file, place.m), (self._file, place.v),
        ):  # fmt: skip
            data = source.read_at(begin + 4 * first, 4 * (last - first))
            if data.size != 4 * (last - first):
                raise TruncatedError("file was cut while it was read")
            found.append(data.view("<u4").astype(np.uint32))
        return Moments(*found)
