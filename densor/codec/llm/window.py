"""Which tokens the network reads for each that is coded: the same for both sides."""

from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

from densor.codec.llm.model import Model
from densor.llm.network import ROWS, Network

Ints = npt.NDArray[np.int64]


class Window:
    """The places of the tokens of one segment."""

    def __init__(self, model: Model, start: int) -> None:
        self._positions = model.positions
        self._kept = model.kept
        self._start = start
        self._tokens: list[int] = []
        self._used = 0

    def begin(self) -> tuple[list[int], int]:
        """What to read before the first token, and from which place on."""
        self._used = 1
        return [self._start], 0

    def add(self, token: int) -> tuple[list[int], int]:
        """What to read after a token, and from which place on."""
        self._tokens.append(token)
        if self._used < self._positions:
            self._used += 1
            return [token], self._used - 1
        del self._tokens[: -self._kept or len(self._tokens)]
        self._used = 1 + len(self._tokens)
        return [self._start, *self._tokens], 0


def predictions(network: Network, model: Model, tokens: Iterable[int]) -> Iterator[Ints]:
    """What the network says before the first token, and after each."""
    window = Window(model, network.model.start)
    read, first = window.begin()
    places = [first]
    wanted = 1
    for token in tokens:
        more, first = window.add(token)
        if first == 0 or len(read) >= ROWS:
            yield from _rows(network, read, places, wanted)
            read, places, wanted = [], [], 0
        read += more
        places += range(first, first + len(more))
        wanted += 1
    yield from _rows(network, read, places, wanted)


def _rows(network: Network, read: list[int], places: list[int], wanted: int) -> Iterator[Ints]:
    tokens = np.array(read, np.int64)
    slots = np.zeros(tokens.size, np.int64)
    yield from network.advance(tokens, slots, np.array(places, np.int64), wanted)
