"""The coding side: a batch cut into chunks, each of segments that are coded in step."""

from dataclasses import replace
from typing import Any, cast

import numpy as np
import xxhash

from densor.codec.batch import OWN, Batch, Chunk, Chunks, Coding
from densor.codec.byte_cm.encoder import ByteCmEncoder
from densor.codec.codecs import decoder_for
from densor.codec.interfaces import Encoder
from densor.codec.language_model.choices import ROOM, settled, slots_for, step_of
from densor.codec.language_model.lines import Prepared, prepare
from densor.codec.language_model.params import (
    RAW,
    SEGMENT,
    TEXT,
    TOKENS,
    SegmentCoder,
    SharedContexts,
    pack,
    segments,
)
from densor.codec.language_model.session import Session
from densor.codec.language_model.step import code_tokens
from densor.codec.levels import Level
from densor.entropy.arithmetic.coder import position
from densor.errors import DensorError
from densor.llm.vocabulary import readable
from densor.runtime.types import Bytes
from densor.runtime.workers import Workers

_TEXT_SHARE = 0.9  # of the bytes of a segment that the network is asked about


def propose(batch: Batch, _: Level | None = None) -> Encoder | None:
    """An encoder for a batch that has a language model: of plain bytes; or of integers, None where
    these are no tokens of its."""
    assert batch.session is not None
    if batch.kind.layout is None:
        return LanguageModelEncoder(batch.data, batch.session, batch.workers)
    from densor.codec.language_model.token_encoder import propose_tokens  # which few need

    return propose_tokens(batch)


class LanguageModelEncoder(Encoder):
    """Codes a batch of plain bytes under a language model."""

    def __init__(self, data: Bytes, session: Session, workers: Workers) -> None:
        self._session = session
        self._workers = workers
        self._weights = session.weights()
        self._text = ByteCmEncoder(data)
        slots = slots_for(data.size)
        step = step_of(data.size, data.size, slots)
        self._chunks = [data[at : at + step] for at in range(0, data.size, step)]
        self._model = settled(session, slots, self._text.model())
        self._prepared = [prepare(chunk, self._bits) for chunk in self._chunks]
        lines = any(prepared.marks.size for prepared in self._prepared)
        self._model = replace(self._model, lines=lines)

    def encode(self) -> Coding:
        """Starts coding all chunks."""
        pairs = zip(self._chunks, self._prepared, strict=True)
        return Chunks(self, [self._workers.submit(self._own, *pair) for pair in pairs])

    def _own(self, content: Bytes, prepared: Prepared) -> Chunk:
        return Chunk(OWN, self._chunk(content, prepared), content.size)

    def _bits(self, text: Bytes) -> float:
        """What a text takes by itself, without counting it as progress."""
        return self._stream(text, [slice(0, text.size)], [], trial=True)[1]

    def model(self) -> bytes:
        """The payload of the MODEL frame."""
        return pack(self._model)

    def _chunk(self, content: Bytes, prepared: Prepared) -> Bytes:
        """The payload of a chunk; without the network where it does not decode to what it was."""
        text = prepared.text
        parts = segments(self._model, text.size)
        asked = [readable(text[part].tobytes()) >= _TEXT_SHARE for part in parts]
        payload = self._payload(prepared, parts, asked)
        self._session.moved(content.size - text.size)
        if self._session.check and not self._decodes(payload, content):
            payload = self._payload(prepared, parts, [False] * len(parts))
        return payload

    def _payload(self, prepared: Prepared, parts: list[slice], asked: list[bool]) -> Bytes:
        """Behind the form, where there is one, what `_coded` makes of the text."""
        payload = self._coded(prepared.text, parts, asked)
        if not self._model.lines:
            return payload
        return np.concatenate([np.frombuffer(prepared.header, np.uint8), payload])

    def _coded(self, content: Bytes, parts: list[slice], asked: list[bool]) -> Bytes:
        """The payload; `asked`: whether each segment is coded as tokens."""
        headers, stored, known = [], [], []
        for part, as_tokens in zip(parts, asked, strict=True):
            segment = content[part]
            mode, data = (TOKENS, segment[:0]) if as_tokens else self._plain(segment)
            if not as_tokens:
                known.append(part)
                self._session.moved(segment.size)
            headers.append(SEGMENT.pack(mode, data.size, xxhash.xxh3_64_intdigest(segment)))
            stored.append(data)
        waiting = [part for part, as_tokens in zip(parts, asked, strict=True) if as_tokens]
        if waiting:
            stored.append(self._stream(content, waiting, known)[0])
        return np.concatenate([np.frombuffer(b"".join(headers), np.uint8), *stored])

    def _plain(self, segment: Bytes) -> tuple[int, Bytes]:
        """Mode and bytes of a segment without the network."""
        text = self._text.encode(segment, 0)
        return (RAW, segment) if text is segment else (TEXT, text)

    def _stream(
        self,
        content: Bytes,
        waiting: list[slice],
        known: list[slice],
        trial: bool = False,
    ) -> tuple[Bytes, float]:
        """The stream of the segments that wait for the network, and how many bits it takes."""
        words = self._weights.vocabulary
        data = np.empty(content.size + ROOM, np.uint8)
        shared = SharedContexts(True, self._model, words, data, content)
        for part in known:
            shared.know(part, content[part])
        texts = [words.tokens(content[part].tobytes()) for part in waiting]
        model = self._model
        with self._session.network(
            self._weights, len(waiting), model.positions, model.numerics
        ) as network:
            moved = self._checked if trial else self._session.moved
            coder = SegmentCoder if trial else self._segment_coder
            code_tokens(shared, model, network, waiting, texts, moved, coder)
        bits = position(shared.state.coder)
        return data[: shared.finish()].copy(), bits

    def _checked(self, _: int) -> None:
        """Notices that the call has ended; what is only tried is no progress."""
        self._session.moved(0)

    def _segment_coder(self, shared: SharedContexts, part: slice) -> SegmentCoder:
        """What codes a segment of tokens."""
        return SegmentCoder(shared, part)

    def _decodes(self, payload: Bytes, content: Bytes) -> bool:
        out = np.zeros(content.size, np.uint8)
        try:
            decoder = cast(Any, decoder_for(self.model(), self._session))
            decoder.expect(content)
            decoder.decode(payload, out)
        except DensorError:
            return False
        return bool(np.array_equal(out, content))
