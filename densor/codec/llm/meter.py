"""What each token of a text takes: the coder, watched as its stream grows."""

import math
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from densor.codec.llm.coder import LlmCoder
from densor.codec.llm.model import SEGMENT, TEXT, TOKENS, Bytes, Mixer, Model, Reader
from densor.codec.llm.session import Session
from densor.codec.llm.step import Window
from densor.codec.text.segment import surprise
from densor.entropy.arithmetic.coder import position
from densor.llm.network import Network
from densor.parallel import Workers

_AHEAD = 16  # tokens that are predicted at once
_ROOM = 1024  # bytes that a stream may be longer than its segments
Ints = npt.NDArray[np.int64]


class Cost(NamedTuple):
    """A token of a text, or a byte that is coded without one.

    `bits`: what the codec spends on it. `alone`: what the language model by itself would spend;
    None where it was not asked.
    """

    text: bytes
    bits: float
    alone: float | None


class Meter(LlmCoder):
    """Codes a batch to the same bytes as `LlmCoder`; `costs` tells of each token, in order."""

    def __init__(self, data: Bytes, session: Session) -> None:
        self.costs: list[Cost] = []
        self._by_place: dict[int, list[Cost]] = {}
        super().__init__(data, session, Workers(1))

    def _coded(self, content: Bytes, parts: list[slice], asked: list[bool]) -> Bytes:
        payload = super()._coded(content, parts, asked)
        for i, part in enumerate(parts):
            mode, _, _ = SEGMENT.unpack_from(payload, i * SEGMENT.size)
            if mode == TOKENS:
                self.costs += self._by_place.pop(part.start)
            else:
                self.costs += self._without(content[part], mode == TEXT)
        return payload

    def _without(self, segment: Bytes, smaller: bool) -> Iterator[Cost]:
        """The bytes of a segment that the network was not asked about."""
        bits = surprise(self._model.text, segment) if smaller else np.full(segment.size, 8.0)
        for byte, spent in zip(segment.tobytes(), bits.tolist(), strict=True):
            yield Cost(bytes([byte]), spent, None)

    def _tokens(self, content: Bytes, waiting: list[slice], known: list[slice]) -> Bytes:
        words = self._weights.vocabulary
        data = np.empty(content.size + _ROOM, np.uint8)
        mixer = Mixer(True, self._model, words, data, content)
        for part in known:
            mixer.know(part, content[part])
        with self._session.network(self._weights, len(waiting), self._model.positions) as network:
            work = []
            for slot, part in enumerate(waiting):
                tokens = words.tokens(content[part].tobytes())
                said = _said(network, self._model, slot, tokens)
                costs = self._by_place.setdefault(part.start, [])
                work.append(_Text(mixer, part, tokens, said, words.pieces, costs))
            while work:
                before = mixer.done
                work = [text for text in work if text.code()]
                self._session.moved(mixer.done - before)
        return data[: mixer.finish()].copy()


class _Text:
    """A segment at work."""

    def __init__(
        self,
        mixer: Mixer,
        part: slice,
        tokens: list[int],
        said: Iterator[Ints],
        pieces: list[bytes],
        costs: list[Cost],
    ) -> None:
        self._coder = mixer.state.coder
        self._reader = Reader(mixer, part)
        self._tokens = iter(tokens)
        self._said = said
        self._pieces = pieces
        self._costs = costs

    def code(self) -> bool:
        """A token, and the bytes before it that are none; whether there is more."""
        counts = next(self._said)
        token = -1
        while token < 0 and not self._reader.done:
            token = next(self._tokens)
            before = position(self._coder)
            self._reader.token(counts, token)
            bits = position(self._coder) - before
            if token < 0:
                self._costs.append(Cost(bytes([-1 - token]), bits, None))
            else:
                share = int(counts[token + 1] - counts[token]) / int(counts[-1])
                self._costs.append(Cost(self._pieces[token], bits, -math.log2(share)))
        return not self._reader.done


def _said(network: Network, model: Model, slot: int, tokens: list[int]) -> Iterator[Ints]:
    """What the network says before each token of a text, and after the last one."""
    start = network.model.start
    window = Window(model, start)
    read, first = [start], 0
    known = deque(token for token in tokens if token >= 0)
    while True:
        wanted = 1
        while known and not window.full and wanted < _AHEAD:
            read = read + window.add(known.popleft())[0]
            wanted += 1
        places = np.arange(first, first + len(read), dtype=np.int64)
        slots = np.full(places.size, slot, np.int64)
        yield from network.advance(np.array(read, np.int64), slots, places, wanted)
        if not known:
            return
        read, first = window.add(known.popleft())
