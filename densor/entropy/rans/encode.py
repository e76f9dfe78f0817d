"""The coding side: symbols under contexts to one stream."""

import numpy as np
import numpy.typing as npt

from densor.entropy.deferred import Kernels
from densor.entropy.rans.constants import FIRST, STATES
from densor.entropy.rans.tables import Freqs
from densor.runtime.types import Bytes

kernels = Kernels("densor.entropy.rans.kernels")

Table = npt.NDArray[np.uint32]
STATE_BYTES = 4 * STATES


def encode_table(freqs: Freqs) -> Table:
    """What the encoder looks up of all contexts, uint32[contexts * 256]."""
    table = np.empty(freqs.shape[0] << 8, np.uint32)
    kernels.build_starts(freqs, table)
    return table


def capacity(symbols: int) -> int:
    """Bytes of buffer that coding this many symbols needs, in all runs of a stream."""
    return 2 * symbols + STATE_BYTES + 64


class StreamEncoder:
    """Codes runs of symbols into one stream, last run first, from the end of a buffer.

    `size`: symbols in all runs together.
    """

    def __init__(self, freqs: Freqs, size: int) -> None:
        self._freqs = freqs
        self._starts = encode_table(freqs)
        self._buffer = np.empty(capacity(size), np.uint8)
        self._states = np.full(STATES, FIRST, np.uint32)
        self._at = self._buffer.size
        self._left = size

    def put(self, symbols: Bytes, contexts: Bytes) -> None:
        """Codes a run that comes before those coded so far.

        uint8[n] both; ValueError for a symbol without a frequency under its context.
        """
        if symbols.size != contexts.size or symbols.size > self._left:
            raise ValueError("runs of symbols do not fit the stream")
        if contexts.size and int(contexts.max()) >= self._starts.size >> 8:
            raise ValueError("symbol without a frequency: there is no such context")
        self._left -= symbols.size
        self._at = int(
            kernels.encode(symbols, contexts, self._starts, self._states, self._buffer, self._at)
        )
        if self._at < 0:
            raise ValueError("symbol without a frequency")

    def finish(self) -> Bytes:
        """The stream: 32 states, then the words."""
        self._at -= STATE_BYTES
        self._buffer[self._at : self._at + STATE_BYTES] = self._states.view(np.uint8)
        return self._buffer[self._at :]


def encode(symbols: Bytes, contexts: Bytes, freqs: Freqs) -> Bytes:
    """One run of symbols as a stream of its own; see `StreamEncoder`."""
    encoder = StreamEncoder(freqs, symbols.size)
    encoder.put(symbols, contexts)
    return encoder.finish()
