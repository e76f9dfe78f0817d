"""The codec's coding side for a batch."""

from densor.codec.planes import analyse, rans_params
from densor.codec.planes.classes import Coding, Counts, RunCounts
from densor.codec.planes.encoder import PlaneCoder
from densor.codec.planes.params import Model
from densor.codec.planes.rans_chunk_encoder import PlanesEncoder
from densor.codec.planes.rans_classes import choose_classes
from densor.entropy.rans.tables import Freqs


class PlanesCoder(PlaneCoder[Freqs]):
    """Planes under rANS."""

    precision = analyse.FRACTIONS

    def _choose(self, counts: RunCounts, total: Counts, chunks: int) -> Coding[Freqs] | None:
        return choose_classes(counts, total, self._level.classes, chunks)

    def _encoder_of(self, plan: analyse.Plan, codings: list[Coding[Freqs] | None]) -> PlanesEncoder:
        return PlanesEncoder(plan, codings, self._level)

    def _pack(self, found: Model[Freqs]) -> bytes:
        return rans_params.pack(found)
