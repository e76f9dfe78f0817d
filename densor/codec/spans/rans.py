"""The binding of the span kernel for rANS: its work space, and what it is called with."""

import threading
from typing import Any

import numpy as np
import numpy.typing as npt

from densor.codec.spans import rans_table as r
from densor.codec.spans import table as t
from densor.codec.spans.rans_table import RansParameters
from densor.codec.spans.table import Bytes, Numbers
from densor.entropy.deferred import deferred
from densor.entropy.rans.constants import BITS, STATES
from densor.entropy.rans.decode import TAIL_BYTES

decode_rans_span = deferred("densor.codec.spans.rans_kernels", "decode_rans_span")
_local = threading.local()


class _Work:
    """Work space of a thread. `owner`: serial number of the parameters that used it last."""

    def __init__(self) -> None:
        self.owner = -1
        self.scratch = np.empty((2, 0), np.uint8)
        self.contexts = np.empty((2, 0), np.uint8)
        self.block = np.empty((2, r.BLOCK + STATES), np.uint8)
        self.tables = np.empty(0, np.uint32)
        self.states = np.empty(2 * STATES, np.uint32)
        self.state = np.zeros((2, r.STATE), np.int64)
        self.tail = np.empty(TAIL_BYTES, np.uint8)
        self.edge = np.empty(t.EDGE, np.uint8)

    def arrays(
        self, owner: int, scratch: int, elements: int, contexts: int
    ) -> tuple[npt.NDArray[Any], ...]:
        """Work space for chunks of such sizes."""
        if self.tables.size < contexts << BITS:
            self.tables = np.empty(contexts << BITS, np.uint32)
            self.owner = -1
        if self.owner != owner:
            self.owner = owner
            self.state[0, r.READY] = -1
        if self.scratch.shape[1] < scratch:
            self.scratch = np.empty((2, scratch), np.uint8)
        if self.contexts.shape[1] < elements:
            self.contexts = np.empty((2, elements), np.uint8)
        fixed = self.block, self.tables, self.states, self.state, self.tail, self.edge
        return self.scratch, self.contexts, *fixed


class RansSpans:
    """What the span decoder calls for chunks with such parameters."""

    def __init__(self, parameters: RansParameters, table: Numbers) -> None:
        self._parameters = parameters
        known = (table[:, t.PARAMETERS] >= 0) & (table[:, t.PARAMETERS] < len(parameters.heads))
        mine = table[known & (table[:, t.SIZE] > 0)]
        self._scratch = self._elements = 0
        if len(mine):
            heads = parameters.heads[mine[:, t.PARAMETERS]]
            sizes = np.minimum(mine[:, t.SIZE], t.CHUNK_LIMIT)  # larger ones are refused
            elements = sizes // np.maximum(heads[:, r.SIZE] * (1 + heads[:, r.HALF]), 1)
            self._scratch = int((elements * heads[:, r.ROOM]).max())
            self._elements = int(elements.max()) + STATES

    def decode(
        self, data: Bytes, table: Numbers, begin: int, end: int, out: Bytes, status: Bytes
    ) -> int:
        """Decodes chunks; see `decode_rans_span`."""
        parameters = self._parameters
        work: _Work | None = getattr(_local, "work", None)
        if work is None:
            work = _local.work = _Work()
        arrays = work.arrays(parameters.serial, self._scratch, self._elements, parameters.contexts)
        return int(
            decode_rans_span(
                data, table, begin, end, parameters.heads, parameters.freqs, out, status, *arrays
            )
        )
