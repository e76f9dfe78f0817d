"""The planar codec's coding side for a batch: look, count, decide, encode."""

import itertools
from collections.abc import Sequence

from densor.codec.coder import Bytes
from densor.codec.levels import Level
from densor.codec.planar import analyse, model
from densor.codec.planar.encode import PlanarEncoder
from densor.codec.planar.layout import Layout


class PlanarCoder:
    """A `BatchCoder`; `data` is the whole batch, of which a sample is looked at.

    `whole_zstd`: the elements as they are had better be left to Zstandard. `repeats`: Zstandard is
    worth a try on each chunk.
    """

    def __init__(self, data: Bytes, layout: Layout, run: int, level: Level, integers: bool) -> None:
        self._level = level
        self._plan = analyse.look(data, layout, run, level, integers)
        self._first_runs: list[int] = []  # of each chunk, within the batch
        self._encoder: PlanarEncoder | None = None
        self.whole_zstd = self._plan.whole_zstd
        self.repeats = self._plan.repeats

    @property
    def useful(self) -> bool:
        """Whether any plane is coded, as far as is known: else raw bytes are as good."""
        plan = self._plan
        coded = plan.counted if self._encoder is None else [c for c in plan.codings if c]
        return bool(coded) or any(plan.plane_zstd)

    def element_bits(self, planes: int) -> float:
        """Bits that the first so many planes of an element are estimated to take."""
        if self.whole_zstd and planes == len(self._plan.plane_bits):
            return self._plan.whole_bits
        return sum(self._plan.plane_bits[:planes])

    def count(self, chunk: Bytes) -> list[analyse.Tally]:
        """Histograms of the runs of a chunk."""
        return analyse.count(self._plan, chunk)

    def decide(self, tallies: Sequence[list[analyse.Tally]]) -> None:
        """Chooses the classes of each plane."""
        runs = [len(chunk[0].runs) if chunk else 0 for chunk in tallies]
        self._first_runs = list(itertools.accumulate(runs, initial=0))
        analyse.decide(self._plan, list(tallies), self._level)
        self._encoder = PlanarEncoder(self._plan, self._level)

    def model(self) -> bytes:
        """The payload of the MODEL frame."""
        return model.pack(self._plan.model())

    def encode(self, chunk: Bytes, index: int) -> Bytes:
        """The payload of chunk number `index`; pooled."""
        assert self._encoder is not None
        return self._encoder.encode(chunk, self._first_runs[index])
