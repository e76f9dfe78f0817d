"""A segment that is coded or decoded piece by piece, with the model adapting on the way."""

import numpy as np
import numpy.typing as npt

from densor.codec.batch import Bytes
from densor.codec.byte_cm import kernels
from densor.codec.byte_cm.params import Parameters, new_state, tables
from densor.entropy.arithmetic.coder import position
from densor.entropy.arithmetic.state import AT
from densor.runtime.memory import MEMORY

_PIECE = 1 << 16  # bytes after which an interrupt is noticed


class Segment:
    """The model's state in `content`, all of which is to be coded to `data` or decoded from it.

    Both are uint8 and may be written to. `content` may be longer than what `data` codes: after
    one stream, `start` goes on in the same content with another.
    """

    def __init__(self, model: Parameters, content: Bytes) -> None:
        self._chosen = model.chosen
        self._state = new_state(model, content.size)
        self.content = content
        self.at = 0  # bytes coded so far
        self._coding = False
        self._data = np.empty(0, np.uint8)

    def start(self, coding: bool, data: Bytes) -> None:
        """Starts a stream of its own at the current position: coding to `data`, or decoding it."""
        self._coding = coding
        self._data = data
        kernels.start_coder(coding, self._state.coder, data)

    def code(self, end: int) -> None:
        """Codes or decodes what is before `end`."""
        while self.at < end:
            stop = min(end, self.at + _PIECE)
            kernels.code_bytes(
                self._coding,
                self._state,
                tables(),
                self._data,
                self.content,
                self._chosen,
                self.at,
                stop,
            )
            self.at = stop

    def finish(self) -> int:
        """Where the stream ends; that may be beyond the bytes of `data`."""
        if self._coding:
            kernels.end_coder(self._state.coder, self._data)
        return int(self._state.coder[AT])

    def position(self) -> float:
        """How many bits were coded so far, to fractions."""
        return position(self._state.coder)


def code_whole(coding: bool, model: Parameters, data: Bytes, content: Bytes) -> int:
    """Codes `content` to `data` or back; returns where the stream ends, maybe beyond `data`."""
    with MEMORY.borrowed(1 << model.table_bits(content.size)):
        segment = Segment(model, content)
        segment.start(coding, data)
        segment.code(content.size)
        return segment.finish()


def coded(model: Parameters, content: Bytes) -> Bytes:
    """The stream of `content`, cut where it would be longer than that."""
    data = np.empty(content.size, np.uint8)
    return data[: code_whole(True, model, data, np.array(content))]


def surprise(model: Parameters, content: Bytes) -> npt.NDArray[np.float64]:
    """Bits that each byte of `content` takes, float64[n]."""
    positions = np.empty(content.size + 1)
    with MEMORY.borrowed(1 << model.table_bits(content.size)):
        segment = Segment(model, np.array(content))
        segment.start(True, np.empty(0, np.uint8))
        positions[0] = segment.position()
        for i in range(content.size):
            segment.code(i + 1)
            positions[i + 1] = segment.position()
    return np.diff(positions)
