"""Guesses the next tokens of a text, so that the network can read several at once.

What is guessed decides how fast a text is decoded, and nothing else: the network's distributions
after tokens that came are the same, whether they were guessed or not (Leviathan et al., "Fast
Inference from Transformers via Speculative Decoding", with a draft that is looked up).
"""

from collections.abc import Sequence

_ORDERS = (6, 4, 3, 2, 1)  # tokens that a guess follows from
_LONGEST = _ORDERS[0]
_HITS = 6  # of a guess, that are counted apart
# How likely a run of tokens must be to be read ahead: of one segment, or beside others, for which
# the weights are read anyway.
_LEAST, _LEAST_BESIDE = 0.3, 0.5
_MEMORY = 400  # guesses that a rate of success remembers
_MOST = 8  # tokens of a run


class Known:
    """The tokens of a text that is there: each is guessed right."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self._tokens = [token for token in tokens if token >= 0]
        self._at = 0

    def propose(self, limit: int) -> list[int]:
        """The next tokens, at most `limit`."""
        return self._tokens[self._at : self._at + limit]

    def take(self, token: int) -> None:
        """Takes in the token that came."""
        self._at += 1


class Histories:
    """What followed which tokens, in all segments of a chunk, and how often guesses were right."""

    def __init__(self) -> None:
        self._next: list[dict[tuple[int, ...], list[int]]] = [{} for _ in _ORDERS]
        self._right = [[0.25] * (_HITS + 1) for _ in _ORDERS]
        self._seen = [[1.0] * (_HITS + 1) for _ in _ORDERS]

    def guess(self, history: list[int]) -> tuple[int, float]:
        """The likeliest token after the last ones, and how likely it is; 0 for none."""
        best, likely = -1, 0.0
        for i, order in enumerate(_ORDERS):
            entry = self._next[i].get(tuple(history[-order:])) if len(history) >= order else None
            if entry is not None:
                share = self._right[i][entry[1]] / self._seen[i][entry[1]]
                if share > likely:
                    best, likely = entry[0], share
        return best, likely

    def learn(self, history: list[int], token: int) -> None:
        """Takes in that `token` followed."""
        for i, order in enumerate(_ORDERS):
            if len(history) < order:
                continue
            entry = self._next[i].setdefault(tuple(history[-order:]), [token, -1])
            if entry[1] < 0:
                entry[1] = 0
                continue
            self._count(i, entry[1], entry[0] == token)
            if entry[0] == token:
                entry[1] = min(entry[1] + 1, _HITS)
            elif entry[1]:
                entry[1] >>= 1
            else:
                entry[0] = token

    def _count(self, i: int, hits: int, right: bool) -> None:
        self._right[i][hits] += right
        self._seen[i][hits] += 1
        if self._seen[i][hits] > _MEMORY:
            self._right[i][hits] /= 2
            self._seen[i][hits] /= 2


class Draft:
    """One of so many segments: its guesses from the histories of all."""

    def __init__(self, histories: Histories, segments: int) -> None:
        self._histories = histories
        self._least = _LEAST if segments == 1 else _LEAST_BESIDE
        self._last: list[int] = []

    def propose(self, limit: int) -> list[int]:
        """A run of tokens that is likely enough to be read, at most `limit`."""
        history, likely = list(self._last), 1.0
        run: list[int] = []
        while len(run) < min(limit, _MOST):
            token, share = self._histories.guess(history)
            likely *= share
            if likely < self._least:
                break
            run.append(token)
            history = [*history[-_LONGEST + 1 :], token]
        return run

    def take(self, token: int) -> None:
        """Takes in the token that came."""
        self._histories.learn(self._last, token)
        self._last = [*self._last[-_LONGEST + 1 :], token]
