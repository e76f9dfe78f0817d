"""What the tokens of a model stand for, in the order of their bytes."""

import codecs
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from densor.errors import UnsupportedError

MAX_TOKEN_BYTES = 255  # of a token
_CONTROLS = bytes({*range(32), 127} - {9, 10, 12, 13})
Encode = Callable[[str], Sequence[int]]


class Vocabulary:
    """Tokens sorted by their bytes, so that those with a common prefix are a range.

    `pieces`: the bytes of each token by its number in the model, None for those that stand for
    nothing in a text, which come last. Of several with the same bytes, the last is used. `encode`:
    how the model's own tokeniser cuts a text; without one, the longest tokens are taken.
    """

    def __init__(self, pieces: Sequence[bytes | None], encode: Encode | None = None) -> None:
        by_bytes = {piece: i for i, piece in enumerate(pieces) if piece}
        self.pieces = sorted(piece for piece in by_bytes if len(piece) <= MAX_TOKEN_BYTES)
        if not self.pieces:
            raise UnsupportedError("model has no vocabulary")
        self.count = len(self.pieces)
        spoken = [by_bytes[piece] for piece in self.pieces]
        rest = sorted(set(range(len(pieces))) - set(spoken))
        self.numbers: npt.NDArray[np.int64] = np.array(spoken + rest, np.int64)
        self.ends = np.cumsum([0] + [len(piece) for piece in self.pieces], dtype=np.int64)
        self.bytes = np.frombuffer(b"".join(self.pieces), np.uint8)
        self._of_number = {number: rank for rank, number in enumerate(spoken)}
        self._encode = encode
        import hashlib  # which loads OpenSSL

        lengths = np.diff(self.ends).astype("<u4")
        self.digest = hashlib.sha256(lengths.tobytes() + self.bytes.tobytes()).digest()

    def tokens(self, data: bytes) -> list[int]:
        """Ranks of tokens whose bytes make up `data`; -1 - b for a byte b that no token has."""
        numbers: list[int] = []
        for part, valid in _valid(data):
            ranks = self._by_encoder(part) if valid and self._encode is not None else None
            numbers += self._longest(part) if ranks is None else ranks
        return numbers

    def _by_encoder(self, part: bytes) -> list[int] | None:
        """As the model's tokeniser has it; None where that would change a byte."""
        assert self._encode is not None
        ranks = [self._of_number.get(number, -1) for number in self._encode(part.decode())]
        if -1 in ranks or b"".join([self.pieces[rank] for rank in ranks]) != part:
            return None
        return ranks

    def _longest(self, data: bytes) -> list[int]:
        """At each place the longest token that fits."""
        ranks = []
        at = 0
        while at < len(data):
            rank = self._longest_at(data, at)
            ranks.append(rank)
            at += len(self.pieces[rank]) if rank >= 0 else 1
        return ranks

    def _longest_at(self, data: bytes, at: int) -> int:
        best = -1 - data[at]
        low, high = 0, self.count
        for length in range(1, min(MAX_TOKEN_BYTES, len(data) - at) + 1):
            prefix = data[at : at + length]
            low = bisect_left(self.pieces, prefix, low, high)
            if low == high or not self.pieces[low].startswith(prefix):
                break
            if len(self.pieces[low]) == length:
                best = low
            high = bisect_right(self.pieces, prefix, low, high, key=lambda piece: piece[:length])
        return best


def _valid(data: bytes) -> Iterator[tuple[bytes, bool]]:
    """Stretches that are UTF-8 and stretches that are not, in order."""
    view = memoryview(data)
    at = 0
    while at < len(data):
        try:
            codecs.utf_8_decode(view[at:], "strict", True)
            yield data[at:], True
            return
        except UnicodeDecodeError as error:
            if error.start:
                yield data[at : at + error.start], True
            yield data[at + error.start : at + error.end], False
            at += error.end


def readable(data: bytes) -> float:
    """Share of the bytes that belong to characters of a text."""
    printable = 0
    for part, valid in _valid(data):
        if valid:
            printable += len(part.translate(None, _CONTROLS))
    return printable / len(data) if data else 0.0
