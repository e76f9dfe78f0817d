"""What each token of a text takes: the growth of the coder's stream, token by token."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from densor.codec.byte_cm.segment import surprise
from densor.codec.language_model.encoder import LanguageModelEncoder
from densor.codec.language_model.lines import HEADER, Prepared, separated
from densor.codec.language_model.params import SEGMENT, TEXT, TOKENS, SegmentCoder, SharedContexts
from densor.codec.language_model.session import Session
from densor.entropy.arithmetic.coder import position
from densor.runtime.types import Bytes
from densor.runtime.workers import Workers


class Cost(NamedTuple):
    """A token of a text, or a byte that is coded without one.

    `bits`: what the codec spends on it. `alone`: what the language model, as far as it has
    learned, would spend by itself; None where it was not asked.
    """

    text: bytes
    bits: float
    alone: float | None


class Meter(LanguageModelEncoder):
    """Codes a batch to the same bytes as its base class; `costs` has each token, in order."""

    def __init__(self, data: Bytes, session: Session) -> None:
        self.costs: list[Cost] = []
        self._by_place: dict[int, list[Cost]] = {}
        super().__init__(data, session, Workers(1))
        self.coded = self.encode().result()

    def _coded(self, content: Bytes, parts: list[slice], asked: list[bool]) -> Bytes:
        payload = super()._coded(content, parts, asked)
        for i, part in enumerate(parts):
            mode, _, _ = SEGMENT.unpack_from(payload, i * SEGMENT.size)
            if mode == TOKENS:
                self.costs += self._by_place.pop(part.start)
            else:
                self.costs += self._without(content[part], mode == TEXT)
        return payload

    def _payload(self, prepared: Prepared, parts: list[slice], asked: list[bool]) -> Bytes:
        first = len(self.costs)
        payload = super()._payload(prepared, parts, asked)
        if prepared.marks.size:
            self.costs[first:] = _with_ends_of_lines(self.costs[first:], prepared)
        return payload

    def _without(self, segment: Bytes, smaller: bool) -> Iterator[Cost]:
        """The bytes of a segment that the network was not asked about."""
        bits = surprise(self._model.text, segment) if smaller else np.full(segment.size, 8.0)
        for byte, spent in zip(segment.tobytes(), bits.tolist(), strict=True):
            yield Cost(bytes([byte]), spent, None)

    def _segment_coder(self, shared: SharedContexts, part: slice) -> SegmentCoder:
        costs = self._by_place.setdefault(part.start, [])
        return _Watched(shared, part, self._weights.vocabulary.pieces, costs)


def _with_ends_of_lines(costs: list[Cost], prepared: Prepared) -> Iterator[Cost]:
    """Costs of a text as it was, whose ends of lines share what coding their places took."""
    marks = prepared.marks
    share = 8 * (len(prepared.header) - HEADER.size) / max(int(marks.sum()), 1)
    at = 0
    for cost in costs:
        part = slice(at, at + len(cost.text))
        text = separated(prepared.text[part], marks[part], prepared.header[0])
        bits = cost.bits + share * int(np.count_nonzero(marks[part]))
        yield cost._replace(text=text.tobytes(), bits=bits)
        at = part.stop


class _Watched(SegmentCoder):
    """Measures by how many bits the stream grows with each token."""

    def __init__(
        self, shared: SharedContexts, part: slice, pieces: list[bytes], costs: list[Cost]
    ) -> None:
        super().__init__(shared, part)
        self._coder = shared.state.coder
        self._pieces = pieces
        self._costs = costs

    def token(self, counts: npt.NDArray[np.int64], token: int) -> int:
        before = position(self._coder)
        coded = super().token(counts, token)
        bits = position(self._coder) - before
        if coded < 0:
            self._costs.append(Cost(bytes([-1 - coded]), bits, None))
        else:
            share = int(counts[coded + 1] - counts[coded]) / int(counts[-1])
            self._costs.append(Cost(self._pieces[coded], bits, -math.log2(share)))
        return coded
