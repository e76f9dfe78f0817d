"""The coding side: planes under row classes to rANS streams."""

from densor.codec import registry
from densor.codec.planes.chunk_encoder import BUFFERS, PlaneEncoder
from densor.codec.planes.classes import RunClasses
from densor.codec.planes.layout import Bytes
from densor.codec.planes.rans_kernels import spread
from densor.entropy.rans.encode import capacity, encode
from densor.entropy.rans.tables import Freqs


class PlanesEncoder(PlaneEncoder[Freqs]):
    """Encodes planes by rANS; the context of a symbol is the class of its run."""

    mode = registry.PLANE_RANS

    def _capacity(self, n: int) -> int:
        return capacity(n)

    def _classes(
        self, p: int, classes: Freqs, plane: Bytes, runs: RunClasses | None, out: Bytes, at: int
    ) -> int:
        contexts = BUFFERS.take("contexts", plane.size)
        if runs is None:
            contexts[:] = 0
        else:
            spread(runs, self._plan.run, contexts)
        stream = encode(plane, contexts, classes)
        out[at : at + stream.size] = stream
        return at + stream.size
