"""Weights in FP32 that follow from a step of Adam's moments: where they are, and how they are made.

Which tensor a parameter's moments are for is not said in files of optimizers: it has their shape,
and follows. Options are those of the `param_groups` of either file, as a schedule may have changed
them between the step and the saving.
"""

from bisect import bisect
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import NamedTuple

import numpy as np

from densor.codec.adam import weights
from densor.codec.adam.replay import Words
from densor.codec.adam.weights import Update
from densor.formats.io.sources import RandomSource
from densor.formats.parsers.torch_optimizer import Options, Told
from densor.formats.tensors import TensorInfo

_TRIED = 8  # tensors that are tried for a parameter
_FOLLOW = 0.5  # share of a sample that must follow
_SURE = 0.999  # share beyond which nothing else is tried

Sampled = Callable[[RandomSource, int], Words]  # of a parameter: of what begins there in a file


class Candidate(NamedTuple):
    """A tensor in both files, by its first byte."""

    name: str
    new: int
    old: int


class Match(NamedTuple):
    """Weights that follow in `share` of a sample; that: before, as a step makes it, after it."""

    place: Candidate
    update: Update
    share: float
    before: Words
    made: Words
    after: Words


class Finder:
    """Finds weights of parameters, each of which is taken once.

    `tensors`, `base_tensors`: those of file and base; `taken`: stretches of the base that are
    moments, in order; `told`: options of the base, then of the file.
    """

    def __init__(
        self,
        file: RandomSource,
        base: RandomSource,
        tensors: Iterable[TensorInfo],
        base_tensors: Iterable[TensorInfo],
        taken: Iterable[tuple[int, int]],
        told: tuple[Told, ...],
    ) -> None:
        self._file, self._base, self._told = file, base, told
        # By shape and name; the first of a dict is found only past all that were taken
        self._free: dict[tuple[int, ...], OrderedDict[str, Candidate]] = {}
        old = {t.name: t for t in base_tensors if t.plain}
        used = list(taken)
        for tensor in tensors:
            other = old.get(tensor.name)
            if other is None or not tensor.size or not _is_like(tensor, other):
                continue
            stretch = other.offset, other.offset + other.size
            at = bisect(used, stretch)
            if any(
                one[0] < stretch[1] and stretch[0] < one[1] for one in used[max(at - 1, 0) : at + 1]
            ):
                continue  # a moment, or what another name has too
            used.insert(at, stretch)
            place = Candidate(tensor.name, tensor.offset, other.offset)
            self._free.setdefault(tensor.shape, OrderedDict())[tensor.name] = place

    def found(
        self,
        stem: str,
        shape: tuple[int, ...],
        number: float | None,
        moments: tuple[Words, Words],
        sampled: Sampled,
    ) -> Match | None:
        """The weights of a parameter, if they follow; `take` them if that is of use.

        `stem`: of the names of its moments; `number`: of the step; `moments`: a sample of m and v
        after it.
        """
        updates = list(self._updates(stem, number))
        free = self._free.get(shape, OrderedDict())
        named = (free[stem],) if stem in free else ()
        best: Match | None = None
        for place in (*named, *islice(free.values(), _TRIED)) if updates else ():
            before, after = sampled(self._base, place.old), sampled(self._file, place.new)
            for update in updates:
                one, share = weights.with_form(before, after, *moments, update)
                if share > max(_FOLLOW, best.share if best else 0):
                    made = weights.moved(before, *moments, one)
                    best = Match(place, one, share, before, made, after)
                if share >= _SURE:
                    return best
        return best

    def take(self, match: Match, shape: tuple[int, ...]) -> None:
        """Takes weights that were found, so that they are not found again."""
        del self._free[shape][match.place.name]

    def _updates(self, stem: str, number: float | None) -> Iterator[Update]:
        """Those that options of the files say, each once."""
        if number is None or not number >= 1:
            return
        seen = set()
        for told in self._told:
            options = told.get(stem)
            for update in () if options is None else _of(options, number):
                bits = np.array(update[:4], np.float32).tobytes()
                if bits not in seen:
                    seen.add(bits)
                    yield update


def _of(options: Options, number: float) -> list[Update]:
    """With decay that is decoupled, and without any."""
    betas, rate, decay, epsilon = options
    if rate is None or epsilon is None:
        return []
    decays = (decay or 0.0, 0.0)
    with np.errstate(all="ignore"):
        return [weights.update_of(betas, rate, one, epsilon, number) for one in decays]


def _is_like(tensor: TensorInfo, other: TensorInfo) -> bool:
    shape = tensor.shape
    return tensor.plain and tensor.dtype == other.dtype == "F32" and shape == other.shape
