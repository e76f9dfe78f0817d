"""The decoding side: a stream back to symbols, given their contexts."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from densor.entropy.deferred import Kernels
from densor.entropy.rans.constants import BITS, FIRST, LOOK, STATES
from densor.entropy.rans.tables import Freqs
from densor.errors import FormatError
from densor.runtime.types import Bytes

kernels = Kernels("densor.entropy.rans.kernels")

Table = npt.NDArray[np.uint32]
STATE_BYTES = 4 * STATES
TAIL_BYTES = 3 * LOOK


def decode_table(freqs: Freqs) -> Table:
    """The look-up table of all contexts, uint32[contexts * 4096]."""
    table = np.empty(freqs.shape[0] << BITS, np.uint32)
    kernels.build_table(freqs, table)
    return table


class StreamDecoder:
    """Decodes the runs of one stream in order."""

    def __init__(self, table: Table, stream: Bytes) -> None:
        if stream.size < STATE_BYTES:
            raise FormatError("rANS stream is too short")
        self.table = table
        self.words = stream
        self.states = stream[:STATE_BYTES].copy().view(np.uint32)
        self.tail = np.empty(TAIL_BYTES, np.uint8)
        self._at = STATE_BYTES
        if (self.states < FIRST).any():
            raise FormatError("rANS stream begins with an impossible state")

    @property
    def position(self) -> int:
        """Bytes of the stream that were used so far."""
        return self._at

    def run(self, decode: Callable[..., int], *args: object) -> int:
        """Decodes a run with `decode(words, at, tail, states, table, *args)`, a kernel.

        The kernel returns the position after the run, -1 where the stream is too short, or another
        negative number, which is then returned; otherwise 0.
        """
        self._at = decode(self.words, self._at, self.tail, self.states, self.table, *args)
        if self._at == -1:
            raise FormatError("rANS stream ends before its last symbol")
        return min(self._at, 0)

    def take(self, contexts: Bytes, symbols: Bytes) -> None:
        """Decodes a run into `symbols`, uint8[n]; `contexts`: uint8[n], all in the table."""
        if contexts.size != symbols.size:
            raise ValueError("every symbol needs a context")
        if contexts.size and int(contexts.max()) >= self.table.size >> BITS:
            raise ValueError("context without a table")
        self.run(kernels.decode, contexts, symbols)

    def finish(self) -> None:
        """Raises FormatError unless the stream is used up and all states are what they began as."""
        if self._at != self.words.size or (self.states != FIRST).any():
            raise FormatError("rANS stream does not end with its last symbol")


def decode(table: Table, stream: Bytes, contexts: Bytes, symbols: Bytes) -> None:
    """Decodes a stream of one run; FormatError unless it fits exactly."""
    decoder = StreamDecoder(table, stream)
    decoder.take(contexts, symbols)
    decoder.finish()
