"""Adam's moments in a file as what a step has made of those in its base.

m and v after a step are functions of those before and of the gradient: where that is BF16, maybe
times one factor, it is derived from m and kept in their place (`container/step.py`). Weights in
FP32 follow from moments. A parameter's gradient is kept where a sample takes less so; what does not
follow is coded as changes of what the step gives, so that nothing depends on its being right.
"""

import itertools
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import BinaryIO, NamedTuple

import numpy as np

from densor.codec.adam import replay
from densor.codec.adam.replay import Moments, Step, Words
from densor.codec.adam.scaled import Halves
from densor.codec.kind import BYTES, Segment, kind_of
from densor.errors import TruncatedError
from densor.files.step_weights import Finder, Match
from densor.formats.container import step as steps
from densor.formats.container.base import GivenBase
from densor.formats.container.entry import EntryMeta
from densor.formats.container.step import Moved, Stepped, SteppedBase
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
from densor.formats.parsers.torch_optimizer import Told
from densor.formats.parsers.torch_zip import options_in
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
    """The moments of a parameter: in the file, and in the base; `number`: of the step, if known."""

    stem: str
    shape: tuple[int, ...]
    elements: int
    number: float | None
    m: int
    v: int
    old_m: int
    old_v: int


class _Found(NamedTuple):
    """A step that moments were made by; `misses`: share of a sample that does not follow; `gain`:
    bytes saved; `weights`: those that follow."""

    step: Step
    misses: float
    gain: float
    weights: Match | None

    def stepped(self, place: _Place) -> Stepped:
        """As the entry says it."""
        match = self.weights
        moved = None if match is None else Moved(match.place.old, match.update)
        return Stepped(place.old_m, place.old_v, place.elements, self.step, moved)


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
    tensors, base_tensors = list(tensors), list(base_tensors)
    places = list(_places(tensors, base_tensors, file, base))
    if sum(8 * place.elements for place in places) < _LEAST:
        return None
    gradients: BinaryIO = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
    told = [options_in(one) for one in (base, file)]
    taken = _stretches(places)
    finder = Finder(file, base, tensors, base_tensors, taken, (told[0], told[1]))
    search = _Search(file, base, writer.options, gradients, told[1], finder)
    kept = [(place, found) for place in places if (found := search.added(place)) is not None]
    kind, head = steps.head([found.stepped(place) for place, found in kept])
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
    meta = EntryMeta(_name(writer, name), kind, size)
    writer.add(meta, ChainSource(begin, FileSource(gradients)), segments)

    def read(low: int, high: int) -> Bytes:
        if high <= len(head):
            return begin[low:high]
        return stored.read_at(low - len(head), high - low)

    return number, SteppedBase(base, steps.parse(kind, size, read), read)


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
        before = _number_in(base, old.get(f"{stem}.step"))
        number = _number_in(file, new.get(f"{stem}.step"))
        if before is not None and number is not None and before + 1 != number:
            continue
        offsets = [t.offset for t in four if t is not None]
        found.append(_Place(stem, m.shape, m.size // 4, number, *offsets))
    found.sort(key=lambda place: (place.elements < _SMALL, place.old_m))
    if all(one[1] <= other[0] for one, other in itertools.pairwise(_stretches(found))):
        yield from found  # none share bytes


def _stretches(places: Iterable[_Place]) -> list[tuple[int, int]]:
    """Where moments are in the base, in order."""
    return sorted((at, at + 4 * p.elements) for p in places for at in (p.old_m, p.old_v))


def _is_like(tensor: TensorInfo, m: TensorInfo) -> bool:
    return tensor.dtype == "F32" and tensor.shape == m.shape


def _number_in(source: RandomSource, tensor: TensorInfo | None) -> float | None:
    """The number of steps that a tensor tells."""
    if tensor is None or (tensor.dtype, tensor.size) != ("F32", 4):
        return None
    return float(source.read_at(tensor.offset, 4).view("<f4")[0])


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
        self,
        file: RandomSource,
        base: RandomSource,
        options: WriteOptions,
        out: BinaryIO,
        told: Told,
        finder: Finder,
    ) -> None:
        self._file, self._base, self._out = file, base, out
        level = _MOST_TRIED if options.level is None else min(options.level, _MOST_TRIED)
        self._options = WriteOptions(level=level, threads=1)
        self._told, self._finder = told, finder
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
        if found.weights is not None:
            self._finder.take(found.weights, place.shape)
        return found

    def _found(self, place: _Place) -> _Found | None:
        """By a sample."""
        few = self._sample(place)
        if np.array_equal(few.m, few.next_m) and np.array_equal(few.v, few.next_v):
            return None
        told = self._told.get(place.stem)
        for betas in _BETAS if told is None else (told.betas,):
            step = replay.likely_step(few, replay.step_of(*betas), self._last)
            gradient, misses = replay.derived_block(few, step)
            if replay.follows(few, gradient, step, _FOLLOW):
                break
        else:
            return None
        made = replay.predicted(few.m, few.v, gradient, step)
        weights = self._finder.found(
            place.stem, place.shape, place.number, made, partial(self._sampled, place)
        )
        if few.m.size < _MEASURED:
            if weights is not None and weights.share < 1:
                weights = None
            gain = (2 if weights is None else 5) * place.elements
            return None if misses else _Found(step, 0, gain, weights)
        saved = self._saved(few, gradient, made)
        if weights is not None:
            more = self._saved_weights(weights)
            weights, saved = (weights, saved + more) if more > 0 else (None, saved)
        if saved <= 0:
            return None
        return _Found(step, misses / few.m.size, saved * place.elements / few.m.size, weights)

    def _saved(self, few: Moments, gradient: Halves, made: tuple[Words, Words]) -> int:
        """Bytes that a sample takes less as gradient and what differs from a step."""
        new = few.next_m, few.next_v
        taken = self._coded(gradient, "BF16", None)
        taken += sum(self._differing(right, base) for right, base in zip(new, made, strict=True))
        plain = sum(self._coded(a, "F32", b) for a, b in zip(new, few[:2], strict=True))
        return plain - taken

    def _saved_weights(self, match: Match) -> int:
        """Likewise of weights."""
        plain = self._coded(match.after, "F32", match.before)
        return plain - self._differing(match.after, match.made)

    def _differing(self, right: Words, base: Words) -> int:
        return 0 if np.array_equal(right, base) else self._coded(right, "F32", base)

    def _coded(self, words: np.ndarray, dtype: str, base: np.ndarray | None) -> int:
        """Bytes of an archive of these; most of a few hundred more or less cancel out."""
        given = None if base is None else GivenBase(MemoryRandomSource(base))
        data = np.ascontiguousarray(words).view(np.uint8)
        tensor = Tensor("sample", dtype, words.shape, data.size, None)
        return len(encode(tensor, data, self._options, given))

    def _sample(self, place: _Place) -> Moments:
        """Elements from all over a parameter, or all of it."""
        return Moments(*(self._sampled(place, *part) for part in self._four(place)))

    def _four(self, place: _Place) -> tuple[tuple[RandomSource, int], ...]:
        """Where moments are: before, and after."""
        base, file = self._base, self._file
        return (base, place.old_m), (base, place.old_v), (file, place.m), (file, place.v)

    def _sampled(self, place: _Place, source: RandomSource, begin: int) -> Words:
        """Those elements of what begins there."""
        if place.elements <= _SAMPLES * _STRETCH:
            return self._words(source, begin, 0, place.elements)
        firsts = np.linspace(0, place.elements - _STRETCH, _SAMPLES).astype(np.int64).tolist()
        parts = [self._words(source, begin, first, first + _STRETCH) for first in firsts]
        return np.concatenate(parts)

    def _moments(self, place: _Place, first: int, last: int) -> Moments:
        return Moments(*(self._words(*part, first, last) for part in self._four(place)))

    def _words(self, source: RandomSource, begin: int, first: int, last: int) -> Words:
        data = source.read_at(begin + 4 * first, 4 * (last - first))
        if data.size != 4 * (last - first):
            raise TruncatedError("file was cut while it was read")
        return data.view("<u4").astype(np.uint32)
