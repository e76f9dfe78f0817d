"""Codes or decodes the segments of a chunk in step: a token of each, then the next of each."""

from collections import deque
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from densor.codec.language_model.params import Parameters, SegmentCoder, SharedContexts
from densor.llm.head import Head
from densor.llm.network import Network, Rows

Ints = npt.NDArray[np.int64]

_AHEAD = 16  # tokens of a segment that a coder has the network read at once


class Window:
    """What the network has read of one segment, and where."""

    def __init__(self, model: Parameters, start: int) -> None:
        self._positions = model.positions
        self._kept = model.kept
        self._start = start
        self._tokens: list[int] = []
        self._used = 1

    @property
    def full(self) -> bool:
        """Whether the network begins anew with the next token."""
        return self._used == self._positions

    def add(self, token: int) -> tuple[list[int], int]:
        """What to read because of a token, and from which place on."""
        self._tokens.append(token)
        if not self.full:
            self._used += 1
            return [token], self._used - 1
        del self._tokens[: -self._kept or len(self._tokens)]
        self._used = 1 + len(self._tokens)
        return [self._start, *self._tokens], 0


class _Text:
    """A segment at work; `tokens`: all of it, where it is coded."""

    def __init__(
        self,
        slot: int,
        model: Parameters,
        start: int,
        coder: SegmentCoder,
        tokens: list[int] | None,
    ) -> None:
        self.slot = slot
        self.coder = coder
        self.predicted: deque[tuple[npt.NDArray[np.int16], int]] = deque()  # rows, shifts
        self._window = Window(model, start)
        self._read, self._first = [start], 0
        self._tokens = None if tokens is None else iter(tokens)
        self._known = deque(token for token in tokens or () if token >= 0)

    def wants(self) -> tuple[list[int], int, int]:
        """What to read, from which place on, and how many of the last tokens to predict after."""
        read, wanted = self._read, 1
        while self._known and not self._window.full and wanted < _AHEAD:
            read = read + self._window.add(self._known.popleft())[0]
            wanted += 1
        return read, self._first, wanted

    def code(self, counts: Ints) -> int:
        """Codes a token, which is returned, and the bytes before it that are none."""
        token = -1
        while token < 0 and not self.coder.done:
            token = self.coder.token(counts, -1 if self._tokens is None else next(self._tokens))
        if not self.coder.done and not self.predicted:
            following = token if self._tokens is None else self._known.popleft()
            self._read, self._first = self._window.add(following)
        return token


def code_tokens(
    shared: SharedContexts,
    model: Parameters,
    network: Network,
    parts: list[slice],
    texts: list[list[int]] | None,
    moved: Callable[[int], object],
    coder: Callable[[SharedContexts, slice], SegmentCoder] = SegmentCoder,
) -> None:
    """Codes the `texts`, tokens of each segment, or decodes the `parts` of a chunk.

    `moved` is called with the number of bytes done since the last call; `coder` makes what codes a
    segment.
    """
    head = Head(network.model, model.rates)
    work = [
        _Text(
            slot,
            model,
            network.model.start,
            coder(shared, part),
            None if texts is None else texts[slot],
        )
        for slot, part in enumerate(parts)
    ]
    while work:
        _predict(network, [text for text in work if not text.predicted])
        before = shared.done
        values, shifts = zip(*(text.predicted.popleft() for text in work), strict=True)
        rows = Rows(np.stack(values), np.array(shifts, np.int64))
        counts = head.counts(rows)
        coded = [text.code(row) for text, row in zip(work, counts, strict=True)]
        for number, token in enumerate(coded):
            if token >= 0:
                head.learn(rows, number, counts[number], token)
        moved(shared.done - before)
        work = [text for text in work if not text.coder.done]


def _predict(network: Network, texts: list[_Text]) -> None:
    """Has the network read what each text wants; those that read one token do so together."""
    single: list[tuple[_Text, int, int]] = []
    for text in texts:
        read, first, wanted = text.wants()
        if len(read) == 1:
            single.append((text, read[0], first))
        else:
            tokens = np.array(read, np.int64)
            places = np.arange(first, first + tokens.size, dtype=np.int64)
            slots = np.full(tokens.size, text.slot, np.int64)
            rows = network.read(tokens, slots, places, wanted)
            text.predicted.extend(zip(rows.values, rows.shifts.tolist(), strict=True))
    if single:
        tokens, slots, places = (
            np.array(numbers, np.int64)
            for numbers in zip(*((read, text.slot, at) for text, read, at in single), strict=True)
        )
        rows = network.read(tokens, slots, places, tokens.size)
        for (text, _, _), row, shift in zip(single, rows.values, rows.shifts.tolist(), strict=True):
            text.predicted.append((row, shift))
