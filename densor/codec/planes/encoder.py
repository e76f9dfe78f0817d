"""The codec's coding side for a batch: look, count, decide, encode."""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, Generic

from densor.codec.levels import Level
from densor.codec.planes import analyse, params
from densor.codec.planes.chunk_encoder import PlanesChunkEncoder
from densor.codec.planes.classes import Coding
from densor.codec.planes.layout import Layout
from densor.codec.planes.params import C, Parameters
from densor.codec.planes.stages.huffman import HUFFMAN
from densor.codec.planes.stages.rans import RANS
from densor.codec.planes.stages.stage import Stage
from densor.runtime.types import Bytes

_MOST_IN_SPANS = 4  # classes
STAGES: dict[str, Stage[Any]] = {"huffman": HUFFMAN, "rans": RANS}


class PlanesEncoder(Generic[C]):
    """A `BatchCoder` of byte planes; `data` is the whole batch, of which a sample is looked at.

    `halves`: what is coded are the low halves of the elements in `data`.
    `whole_zstd`: the elements as they are had better be left to Zstandard. `repeats`: Zstandard is
    worth a try on each chunk.
    """

    def __init__(
        self,
        stage: Stage[C],
        data: Bytes,
        layout: Layout,
        run: int,
        level: Level,
        integers: bool,
        halves: bool = False,
    ) -> None:
        self._stage = stage
        self._level = level
        self._plan = analyse.look(data, layout, run, level, integers, stage.precision, halves)
        self._codings: list[Coding[C] | None] = []
        self._first_runs: list[int] = []  # of each chunk, within the batch
        self._encoder: PlanesChunkEncoder[C] | None = None
        self.whole_zstd = self._plan.whole_zstd
        self.repeats = self._plan.repeats

    @property
    def layout(self) -> Layout:
        """How elements are cut into planes."""
        return self._plan.layout

    @property
    def run(self) -> int:
        """Elements of a run."""
        return self._plan.run

    @property
    def most(self) -> int:
        """Classes of a plane, at most."""
        return self._level.classes

    @property
    def in_spans(self) -> bool:
        """Whether all chunks are coded by their planes and few classes alone, by Huffman codes."""
        plain = not (self._plan.repeats or self._plan.delta or any(self._plan.plane_zstd))
        return plain and self._stage is HUFFMAN and self.most <= _MOST_IN_SPANS

    @property
    def codings(self) -> Sequence[Coding[C] | None]:
        """How planes are coded, once that is settled; None: raw."""
        return self._codings

    @property
    def useful(self) -> bool:
        """Whether any plane is coded, as far as is known: else raw bytes are as good."""
        plan = self._plan
        coded = plan.counted if self._encoder is None else [c for c in self._codings if c]
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
        self._first_runs = list(accumulate(runs, initial=0))
        self._codings = analyse.decide(self._plan, tallies, self._stage, self._level.classes)
        self._encoder = PlanesChunkEncoder(self._stage, self._plan, self._codings, self._level)

    def settle(self, counted: Sequence[analyse.Counted], chunks: int) -> Sequence[Coding[C] | None]:
        """As `decide`, of a batch of so many chunks whose histograms were counted elsewhere.

        `counted`: of each plane that is to be. Returns how planes are coded, None: raw.
        """
        self._codings = [None] * self._plan.layout.size
        for p, plane in zip(self._plan.counted, counted, strict=True):
            choose = self._stage.choose
            self._codings[p] = choose(plane.runs, plane.total, self._level.classes, chunks)
        return self._codings

    @property
    def counted(self) -> list[int]:
        """The planes of which runs are to be counted."""
        return self._plan.counted

    def model(self) -> bytes:
        """The payload of the MODEL frame."""
        plan = self._plan
        planes = tuple([coding.classes if coding else None for coding in self._codings])
        return params.pack(Parameters(plan.layout, plan.run, planes, plan.delta, self._stage.codec))

    def quiet(self, chunk: Bytes) -> bool:
        """Whether no elements repeat in a chunk, as far as it matters for Zstandard."""
        return self._plan.quiet_zstd is not None and not analyse.matches(chunk)

    @property
    def quiet_repeats(self) -> bool:
        """Whether Zstandard is worth a try on such chunks, too."""
        return self._plan.quiet_repeats

    def encode(self, chunk: Bytes, index: int, quiet: bool = False) -> Bytes:
        """The payload of chunk number `index`; pooled. `quiet`: of the chunk."""
        assert self._encoder is not None
        return self._encoder.encode(chunk, self._first_runs[index], quiet)
