"""Codes or decodes the segments of a chunk in step: a token of each, then the next of each.

The network reads a token together with those that are guessed to come after it. Where a guess was
wrong, what it read from there on is read anew, at the same places.
"""

from collections import deque
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from densor.codec.language_model.draft import Draft, Histories, Known
from densor.codec.language_model.params import Parameters, SegmentCoder, SharedContexts
from densor.llm.head import Head
from densor.llm.network import ROWS, Network, Rows

Ints = npt.NDArray[np.int64]

_AHEAD = ROWS - 1  # tokens of a segment that are guessed at once, at most


class Window:
    """What the network has read of one segment, and where."""

    def __init__(self, model: Parameters, start: int) -> None:
        self._positions = model.positions
        self._kept = model.kept
        self._start = start
        self._tokens: list[int] = []
        self._used = 1

    @property
    def room(self) -> int:
        """Tokens until the network begins anew."""
        return self._positions - self._used

    def add(self, token: int) -> tuple[list[int], int]:
        """What to read because of a token, and from which place on."""
        self._tokens.append(token)
        if self.room:
            self._used += 1
            return [token], self._used - 1
        del self._tokens[: -self._kept or len(self._tokens)]
        self._used = 1 + len(self._tokens)
        return [self._start, *self._tokens], 0


class _Text:
    """A segment at work; `tokens`: all of it, where it is coded; `draft`: guesses its tokens."""

    def __init__(
        self,
        slot: int,
        model: Parameters,
        start: int,
        coder: SegmentCoder,
        tokens: list[int] | None,
        draft: Draft | Known,
    ) -> None:
        self.slot = slot
        self.coder = coder
        self.predicted: deque[tuple[npt.NDArray[np.int16], int]] = deque()  # rows, shifts
        self._window = Window(model, start)
        self._read, self._first = [start], 0
        self._tokens = None if tokens is None else iter(tokens)
        self._draft = draft
        self._guessed: deque[int] = deque()  # tokens after which there are rows in `predicted`

    def wants(self) -> tuple[list[int], int, int]:
        """What to read, from which place on, and how many of the last tokens to predict after."""
        guesses = self._draft.propose(min(self._window.room, _AHEAD))
        self._guessed.extend(guesses)
        return self._read + guesses, self._first, 1 + len(guesses)

    def code(self, counts: Ints) -> int:
        """Codes a token, which is returned, and the bytes before it that are none."""
        token = -1
        while token < 0 and not self.coder.done:
            token = self.coder.token(counts, -1 if self._tokens is None else next(self._tokens))
        if self.coder.done:
            return token
        self._draft.take(token)
        self._read, self._first = self._window.add(token)
        if self._guessed and self._guessed[0] == token:
            self._guessed.popleft()
        else:
            self._guessed.clear()
            self.predicted.clear()
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

    With `texts`, what is decoded is expected to be these, which takes as long as coding them.
    `moved` is called with the number of bytes done since the last call; `coder` makes what codes a
    segment.
    """
    head = Head(network.model, model.rates, network.team)
    histories = Histories()
    work = [
        _Text(
            slot,
            model,
            network.model.start,
            coder(shared, part),
            texts[slot] if texts is not None and shared.coding else None,
            Draft(histories, len(parts)) if texts is None else Known(texts[slot]),
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
    """Has the network read what each text wants; those that do not begin anew do so together."""
    together: list[tuple[_Text, list[int], int]] = []
    for text in texts:
        read, first, wanted = text.wants()
        if len(read) == wanted:
            together.append((text, read, first))
        else:
            _read(network, [(text, read, first)], wanted)
    if together:
        _read(network, together, sum(len(read) for _, read, _ in together))


def _read(network: Network, texts: list[tuple[_Text, list[int], int]], wanted: int) -> None:
    """Has the network read tokens of texts, from a place of each on, the last `wanted` of which
    are predicted after: all of them, or of one text."""
    tokens = np.array([token for _, read, _ in texts for token in read], np.int64)
    slots = np.repeat([text.slot for text, _, _ in texts], [len(read) for _, read, _ in texts])
    places = np.concatenate([np.arange(at, at + len(read)) for _, read, at in texts])
    rows = network.read(tokens, slots.astype(np.int64), places.astype(np.int64), wanted)
    for number, slot in enumerate(slots[slots.size - wanted :].tolist()):
        text = next(text for text, _, _ in texts if text.slot == slot)
        text.predicted.append((rows.values[number], int(rows.shifts[number])))
