"""The codec's coding side for a batch."""

from densor.codec.planar import analyse
from densor.codec.planar.classes import Coding, Counts, RunCounts
from densor.codec.planar.coder import PlaneCoder
from densor.codec.planar.model import Model
from densor.codec.planes import model
from densor.codec.planes.classes import choose_classes
from densor.codec.planes.encode import PlanesEncoder
from densor.entropy.rans.tables import Freqs


class PlanesCoder(PlaneCoder[Freqs]):
    """Planes under rANS."""

    precision = analyse.FRACTIONS

    def _choose(self, counts: RunCounts, total: Counts, chunks: int) -> Coding[Freqs] | None:
        return choose_classes(counts, total, self._level.classes, chunks)

    def _encoder_of(self, plan: analyse.Plan, codings: list[Coding[Freqs] | None]) -> PlanesEncoder:
        return PlanesEncoder(plan, codings, self._level)

    def _pack(self, found: Model[Freqs]) -> bytes:
        return model.pack(found)
