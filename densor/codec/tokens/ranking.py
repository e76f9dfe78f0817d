"""State and constant tables of the ranking kernel, and a chunk's tokens through it."""

import struct
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from densor.codec.batch import Bytes
from densor.codec.tokens import ranking_fields as of
from densor.codec.tokens.params import (
    BLOCK,
    CODERS,
    MAX_RANKS,
    NEAR,
    ORDER1_BITS,
    PLACES,
    SAID,
    SEGMENT,
    TOTAL,
    Ranked,
    RankedMore,
)
from densor.codec.tokens.state import Tokens
from densor.entropy.deferred import deferred
from densor.errors import FormatError
from densor.runtime.memory import MEMORY

code_ranks = deferred("densor.codec.tokens.ranking_kernels", "code_ranks")
code_backwards = deferred("densor.codec.tokens.ranking_kernels", "code_backwards")

Words = npt.NDArray[np.uint32]
Coders = npt.NDArray[np.uint64]
_HEAD = struct.Struct(f"<I{CODERS}Q")  # words of a segment, and where its decoder begins
_START = 1 << 31  # state of an encoder at first, and so of a decoder at the end
_NODE = 16

# How much the second and the third node count beside 32 of the first, by bits of what these have
# counted, or 60: of a rank, of the first digit, the second, the third and those after it.
_COUNTS = (0, 1, 2, 4, 8, 16, 32, 60)
_OWN = (
    (0, 9, 10, 14, 20, 26, 36, 73),
    (0, 8, 8, 12, 23, 31, 42, 79),
    (0, 10, 13, 18, 27, 40, 57, 162),
    (0, 26, 32, 43, 60, 84, 113, 292),
    (0, 88, 119, 154, 218, 329, 594, 802),
)
_BESIDE = (
    (0, 12, 15, 16, 17, 20, 24, 25),
    (0, 2, 3, 3, 8, 9, 19, 30),
    (0, 6, 7, 8, 15, 19, 31, 38),
    (14,) * 8,
    (21,) * 8,
)


# Masses under more contexts at first, beside 64 of the first node: of four further nodes each.
_MASSES = (
    (
        (0, 24, 31, 38, 60, 87, 110, 126),
        (0, 40, 62, 50, 72, 77, 73, 61),
        (0, 45, 51, 55, 73, 81, 100, 130),
        (0, 18, 32, 53, 93, 142, 191, 262),
    ),
    (
        (0, 18, 20, 28, 47, 70, 85, 214),
        (0, 7, 8, 8, 13, 18, 28, 43),
        (0, 6, 7, 8, 9, 15, 24, 35),
        (10, 10, 10, 10, 10, 10, 10, 10),
    ),
    (
        (0, 27, 33, 49, 69, 107, 150, 620),
        (0, 10, 13, 17, 25, 37, 52, 64),
        (0, 10, 11, 14, 20, 26, 43, 63),
        (10, 10, 10, 10, 10, 10, 10, 10),
    ),
    (
        (0, 132, 154, 197, 252, 333, 362, 788),
        (0, 33, 34, 36, 54, 68, 96, 173),
        (0, 21, 21, 25, 33, 48, 68, 133),
        (86, 86, 86, 86, 86, 86, 86, 86),
    ),
    (
        (0, 337, 437, 531, 775, 1126, 1495, 2593),
        (0, 59, 59, 77, 103, 161, 243, 532),
        (0, 37, 37, 46, 65, 97, 147, 413),
        (96, 96, 96, 96, 96, 96, 96, 96),
    ),
)


@cache
def _constants() -> tuple[npt.NDArray[np.generic], ...]:
    """What nodes move to, rates of it, weights, levels of counts, places of masks by number."""
    k = np.arange(_NODE)
    targets = np.where(k > 0, k + (TOTAL - _NODE) * (k > k[:, None]), 0).astype(np.uint16)
    rates = np.array([5 * TOTAL // (5 * n + 8) for n in range(256)], np.int64)
    classes = [sum(n >= least for least in _COUNTS[1:]) for n in range(64)]
    own = [[TOTAL * a // (32 + a) for a in row] for row in _OWN]
    beside = [
        [[TOTAL * b // (32 + a + b) for b in others] for a in row]
        for row, others in zip(_OWN, _BESIDE, strict=True)
    ]
    weights = np.zeros(128 + 8 * 8 * len(_OWN), np.uint16)
    weights[:64] = classes
    weights[64 : 64 + 8 * len(_OWN)] = np.ravel(own)
    weights[128:] = np.ravel(beside)
    levels = [c if c < 3 else 3 if c < 5 else 4 if c < 9 else 5 for c in range(64)]
    places = [[lane for lane in range(8) if mask >> lane & 1] for mask in range(256)]
    nth = np.array([[*row, *[0] * (MAX_RANKS - len(row))] for row in places], np.uint8)
    return targets.reshape(-1), rates, weights, np.array(levels, np.uint8), nth.reshape(-1)


def _nodes(count: int) -> npt.NDArray[np.uint16]:
    """So many nodes of 16 equally likely symbols."""
    return np.tile(np.arange(_NODE, dtype=np.uint16) * np.uint16(TOTAL // _NODE), count)


@dataclass
class _Model:
    """The state of a chunk's model."""

    parameters: Ranked
    tables: tuple[npt.NDArray[np.generic], ...]
    states: npt.NDArray[np.int64]

    @classmethod
    def of(cls, parameters: Ranked) -> "_Model":
        p = parameters
        slots = (2 * PLACES << p.bits) + (PLACES << min(p.bits, ORDER1_BITS))
        edges = np.zeros(_NODE + 1, np.uint16)
        edges[_NODE] = TOTAL
        tables = (
            np.zeros(slots, np.uint32),
            np.zeros(1 << p.bits, np.uint64),
            _nodes(_plain_nodes(p)),
            _nodes(NEAR * SAID * 16 * 4),
            np.zeros(_NODE << p.node_bits, np.uint16),
            edges,
            np.ravel(_MASSES).astype(np.int64) << 18,
            np.zeros(16 * p.streams, np.uint32),
            np.zeros(p.streams, np.int64),
        )
        states = np.zeros((p.streams, of.FIELDS), np.int64)
        states[:, of.SLOT2] = PLACES << p.bits
        states[:, of.SLOT1] = 2 * PLACES << p.bits
        return cls(p, tables, states.reshape(-1))

    def run(self, encoding: bool, dealt: Tokens, turns: range, coder: Coders, words: Words) -> int:
        """Codes some turns of a chunk; what `code_ranks` returns."""
        p = self.parameters
        of_streams = dealt, turns.start, turns.stop, p.digits, self.states
        more = isinstance(p, RankedMore)
        done = code_ranks(encoding, more, *of_streams, coder, words, *self.tables, *_constants())
        return int(done)


def _plain_nodes(parameters: Ranked) -> int:
    """Nodes of digits by those before alone, and as many that move fast."""
    return 2 * int((16**parameters.digits - 1) // 15)


def _memory(parameters: Ranked, count: int) -> int:
    """Bytes that a chunk of so many tokens takes, about."""
    p = parameters
    symbols = 8 * (p.digits + 1) * min(count, SEGMENT)
    tables = (8 * PLACES + 8 << p.bits) + (2 * _NODE << p.node_bits) + (4 * PLACES << ORDER1_BITS)
    return tables + 2 * _NODE * (_plain_nodes(p) + NEAR * SAID * 64) + symbols + 4 * count


def _segments(parameters: Ranked, turns: int) -> list[range]:
    """Turns that are coded together."""
    step = SEGMENT // parameters.streams
    return [range(begin, min(begin + step, turns)) for begin in range(0, turns, step)]


def _turns(count: int, streams: int) -> tuple[int, int]:
    """Rounds in which each stream is dealt a block, and turns of that and the rest."""
    rounds, rest = divmod(count, streams * BLOCK)
    return rounds, rounds * BLOCK - (-rest // streams)


def _dealt(tokens: Tokens, streams: int) -> Tokens:
    """The tokens of each stream, one stream after the other, 0 where they do not come out even."""
    rounds, turns = _turns(tokens.size, streams)
    whole = rounds * streams * BLOCK
    dealt = np.zeros((streams, turns), np.uint32)
    blocks = tokens[:whole].reshape(rounds, streams, BLOCK).transpose(1, 0, 2)
    dealt[:, : rounds * BLOCK] = blocks.reshape(streams, -1)
    rest = np.zeros(streams * (turns - rounds * BLOCK), np.uint32)
    rest[: tokens.size - whole] = tokens[whole:]
    dealt[:, rounds * BLOCK :] = rest.reshape(streams, -1)
    return dealt.reshape(-1)


def _collect(dealt: Tokens, streams: int, tokens: Tokens) -> None:
    """Fills `tokens` from those of streams; FormatError where there are others than 0 beyond."""
    rounds, turns = _turns(tokens.size, streams)
    whole = rounds * streams * BLOCK
    dealt = dealt.reshape(streams, turns)
    blocks = dealt[:, : rounds * BLOCK].reshape(streams, rounds, BLOCK)
    tokens[:whole].reshape(rounds, streams, BLOCK)[:] = blocks.transpose(1, 0, 2)
    rest = dealt[:, rounds * BLOCK :].reshape(-1)
    tokens[whole:] = rest[: tokens.size - whole]
    if rest[tokens.size - whole :].any():
        raise FormatError("chunk of tokens goes on behind its end")


def coded(parameters: Ranked, tokens: Tokens, most: int) -> Bytes | None:
    """The payload of a chunk's tokens; None where it takes `most` bytes or more."""
    p = parameters
    pieces, size = [np.empty(0, np.uint8)], 0
    with MEMORY.borrowed(_memory(p, tokens.size)):
        dealt, model = _dealt(tokens, p.streams), _Model.of(p)
        segments = _segments(p, dealt.size // p.streams)
        longest = max(map(len, segments), default=0) * p.streams * (p.digits + 1)
        symbols, words = np.empty(longest, np.uint32), np.empty(longest, np.uint32)
        for turns in segments:
            coder = np.full(CODERS, _START, np.uint64)
            count = model.run(True, dealt, turns, coder, symbols)
            piece = words[code_backwards(symbols, count, coder, words) :].astype("<u4")
            head = _HEAD.pack(piece.size, *coder.tolist())
            pieces += [np.frombuffer(head, np.uint8), piece.view(np.uint8)]
            size += _HEAD.size + piece.nbytes
            if size >= most:
                return None
    return np.concatenate(pieces) if size < most else None


def decoded(parameters: Ranked, payload: Bytes, tokens: Tokens) -> None:
    """Fills `tokens` from the payload of a chunk; FormatError if it does not fit."""
    p, at = parameters, 0
    with MEMORY.borrowed(_memory(p, tokens.size)):
        dealt = np.zeros(p.streams * _turns(tokens.size, p.streams)[1], np.uint32)
        model = _Model.of(p)
        for turns in _segments(p, dealt.size // p.streams):
            coder, words = _segment(payload, at)
            at += _HEAD.size + 4 * (words.size - 1)
            read = model.run(False, dealt, turns, coder, words)
            if read != words.size - 1 or (coder != _START).any():
                raise FormatError("chunk of tokens does not decode to its end")
    if at != payload.size:
        raise FormatError("chunk of tokens has bytes behind its end")
    _collect(dealt, p.streams, tokens)


def _segment(payload: Bytes, at: int) -> tuple[Coders, Words]:
    """States and words of a segment, and a 0 for those that are missing; FormatError without it."""
    head = payload[at : at + _HEAD.size].tobytes()
    if len(head) < _HEAD.size:
        raise FormatError("chunk of tokens ends in the head of a segment")
    count, *states = _HEAD.unpack(head)
    found = payload[at + _HEAD.size : at + _HEAD.size + 4 * count]
    if found.size < 4 * count:
        raise FormatError("chunk of tokens ends in a segment")
    words = np.zeros(count + 1, np.uint32)
    words[:count] = np.frombuffer(found.tobytes(), "<u4")
    return np.array(states, np.uint64), words
