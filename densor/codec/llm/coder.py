"""The coding side: a batch cut into chunks of segments, each coded in the cheapest way."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import xxhash

from densor.codec.llm.decode import LlmDecoder
from densor.codec.llm.model import (
    HASH,
    RAW,
    SEGMENT,
    TEXT,
    TOKENS,
    Bytes,
    Coder,
    Model,
    pack,
    segments,
)
from densor.codec.llm.session import Session
from densor.codec.llm.window import predictions
from densor.codec.text.coder import TextCoder
from densor.codec.text.model import parse as parse_text
from densor.errors import DensorError
from densor.llm.vocabulary import readable
from densor.parallel import Task, Workers

_SEGMENT = 1 << 14  # bytes of a segment, about
_SLOTS = 8  # segments that are decoded in step
_POSITIONS = 2048
_TEXT_SHARE = 0.9  # of the bytes of a segment that the network is asked about
_ROOM = 1024  # bytes that a stream may be longer than its segment


class Coded(NamedTuple):
    """A segment as it will be stored."""

    mode: int
    data: Bytes


@dataclass
class _Chunk:
    content: Bytes
    parts: list[Task[Coded]]


class LlmCoder:
    """Codes a batch of plain bytes."""

    def __init__(self, data: Bytes, session: Session, workers: Workers) -> None:
        self._session = session
        self._workers = workers
        self._weights = session.weights()
        positions = max(32, min(_POSITIONS, self._weights.positions) // 32 * 32)
        slots = min(_SLOTS, max(1, round(data.size / _SEGMENT)))
        self._text = TextCoder(data)
        self._model = Model(
            slots,
            positions,
            positions // 2,
            self._weights.digest[:HASH],
            self._weights.vocabulary.digest[:HASH],
            session.name,
            parse_text(self._text.model()),
        )
        count = max(1, round(data.size / (slots * _SEGMENT)))
        step = -(-data.size // count)
        self._chunks = [self._start(data[at : at + step]) for at in range(0, data.size, step)]

    def model(self) -> bytes:
        """The payload of the MODEL frame."""
        return pack(self._model)

    def payloads(self) -> list[tuple[Bytes, int]]:
        """Each chunk's payload and original size; waits for them."""
        coded = [[part.result() for part in chunk.parts] for chunk in self._chunks]
        if self._session.check:
            checks = [
                self._workers.submit(self._checked, chunk.content, parts)
                for chunk, parts in zip(self._chunks, coded, strict=True)
            ]
            coded = [check.result() for check in checks]
        return [
            (_payload(self._model, chunk.content, parts), chunk.content.size)
            for chunk, parts in zip(self._chunks, coded, strict=True)
        ]

    def _start(self, content: Bytes) -> _Chunk:
        parts = segments(self._model, content.size)
        return _Chunk(content, [self._workers.submit(self._best, content[part]) for part in parts])

    def _best(self, segment: Bytes) -> Coded:
        """A segment in whatever way is smallest."""
        ways = [self._plain(segment)]
        if readable(segment.tobytes()) >= _TEXT_SHARE:
            ways.append(Coded(TOKENS, self._tokens(segment)))
        else:
            self._session.moved(segment.size)
        return min(ways, key=lambda way: way.data.size)

    def _plain(self, segment: Bytes) -> Coded:
        """A segment without the network."""
        text = self._text.encode(segment, 0)
        return Coded(RAW, segment) if text is segment else Coded(TEXT, text)

    def _tokens(self, segment: Bytes) -> Bytes:
        tokens = self._weights.vocabulary.tokens(segment.tobytes())
        data = np.empty(segment.size + _ROOM, np.uint8)
        coder = Coder(True, self._model, self._weights.vocabulary, data, np.array(segment))
        with self._session.network(self._weights, 1, self._model.positions) as network:
            rows = predictions(network, self._model, [token for token in tokens if token >= 0])
            counts = next(rows)
            for token in tokens:
                before = coder.at
                coder.token(counts, token)
                self._session.moved(coder.at - before)
                if token >= 0:
                    counts = next(rows)
        coder.finish()
        return data[: coder.end].copy() if coder.end < segment.size else segment

    def _checked(self, content: Bytes, parts: list[Coded]) -> list[Coded]:
        """The segments; those that do not decode to what they were, coded without the network."""
        decoder = LlmDecoder(self._model, self._session)
        out = np.zeros(content.size, np.uint8)
        try:
            decoder.decode(_payload(self._model, content, parts), out)
        except DensorError:
            out = np.zeros(0, np.uint8)
        where = segments(self._model, content.size)
        return [
            part if np.array_equal(out[place], content[place]) else self._plain(content[place])
            for part, place in zip(parts, where, strict=True)
        ]


def _payload(model: Model, content: Bytes, parts: list[Coded]) -> Bytes:
    """The payload of a chunk."""
    where = segments(model, content.size)
    header = b"".join(
        SEGMENT.pack(part.mode, part.data.size, xxhash.xxh3_64_intdigest(content[place]))
        for part, place in zip(parts, where, strict=True)
    )
    return np.concatenate([np.frombuffer(header, np.uint8), *(part.data for part in parts)])
