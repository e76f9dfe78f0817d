"""The decoding side: the segments of a chunk in step, a row of the network each."""

import numpy as np
import xxhash

from densor.codec.llm.model import (
    MAX_CHUNK,
    RAW,
    SEGMENT,
    TEXT,
    TOKENS,
    Bytes,
    Coder,
    Model,
    segments,
)
from densor.codec.llm.session import Session
from densor.codec.llm.window import Ints, Window
from densor.codec.text.decode import TextDecoder
from densor.errors import ChecksumError, FormatError, LimitError
from densor.llm.network import Network


class LlmDecoder:
    """Decodes the chunks of one model. Safe to use from several threads at once."""

    reports = True  # its progress, to the session

    def __init__(self, model: Model, session: Session | None = None) -> None:
        self.model = model
        self._session = session or Session()
        self._text = TextDecoder(model.text)

    def decode(self, payload: Bytes, out: Bytes) -> None:
        """Decodes a chunk's `payload` into all of `out`; FormatError if it does not fit."""
        if out.size > MAX_CHUNK:
            raise LimitError(f"chunk of text has more than {MAX_CHUNK} bytes")
        parts = segments(self.model, out.size)
        at = SEGMENT.size * len(parts)
        if payload.size < at:
            raise FormatError("chunk of text ends within its header")
        waiting: list[tuple[Bytes, Bytes]] = []
        hashes = []
        for i, part in enumerate(parts):
            mode, size, expected = SEGMENT.unpack_from(payload, i * SEGMENT.size)
            hashes.append(expected)
            data, segment = payload[at : at + size], out[part]
            at += size
            if at > payload.size:
                raise FormatError("segments are longer than their chunk")
            if mode == TOKENS:
                waiting.append((data, segment))
            else:
                self._plain(mode, data, segment)
        if at != payload.size:
            raise FormatError("chunk of text goes on after its segments")
        if waiting:
            self._tokens(waiting)
        for part, expected in zip(parts, hashes, strict=True):
            if xxhash.xxh3_64_intdigest(out[part]) != expected:
                raise ChecksumError("segment of text does not decode to what was coded")

    def _plain(self, mode: int, data: Bytes, out: Bytes) -> None:
        """A segment without the network."""
        if mode == TEXT:
            self._text.decode(data, out)
        elif mode == RAW and data.size == out.size:
            out[:] = data
        else:
            raise FormatError("segment of text is coded in no known way")
        self._session.moved(out.size)

    def _tokens(self, waiting: list[tuple[Bytes, Bytes]]) -> None:
        weights = self._session.weights_for(self.model)
        with self._session.network(weights, len(waiting), self.model.positions) as network:
            texts = [
                _Text(slot, self.model, network, data, out)
                for slot, (data, out) in enumerate(waiting)
            ]
            while texts:
                _advance(network, texts)
                before = sum(text.coder.at for text in texts)
                for text in texts:
                    text.decode()
                self._session.moved(sum(text.coder.at for text in texts) - before)
                texts = [text for text in texts if not text.done]


class _Text:
    """A segment that is being decoded."""

    def __init__(self, slot: int, model: Model, network: Network, data: Bytes, out: Bytes) -> None:
        self.slot = slot
        self.coder = Coder(False, model, network.model.vocabulary, np.array(data), out)
        self._window = Window(model, network.model.start)
        self._size = data.size
        self.read, self.first = self._window.begin()
        self.counts: Ints | None = None

    def decode(self) -> None:
        """The tokens that the last prediction is for, bytes that are none before it included."""
        assert self.counts is not None
        token = -1
        while token < 0 and not self.done:
            token = self.coder.token(self.counts)
        if token >= 0:
            self.read, self.first = self._window.add(token)

    @property
    def done(self) -> bool:
        """Whether all bytes are there; FormatError if data are left, or were too few."""
        if self.coder.at < self.coder.content.size:
            return False
        self.coder.check_end(self._size)
        return True


def _advance(network: Network, texts: list[_Text]) -> None:
    """Predicts the next token of each text: those that read one token together."""
    for text in texts:
        if len(text.read) > 1:
            text.counts = _rows(network, [text], text.read)[0]
    single = [text for text in texts if len(text.read) == 1]
    if single:
        rows = _rows(network, single, [text.read[0] for text in single])
        for text, counts in zip(single, rows, strict=True):
            text.counts = counts


def _rows(network: Network, texts: list[_Text], read: list[int]) -> Ints:
    """What the network says after the last token that each text reads."""
    if len(texts) == 1:
        first = texts[0].first
        places = np.arange(first, first + len(read), dtype=np.int64)
        slots = np.full(len(read), texts[0].slot, np.int64)
    else:
        places = np.array([text.first for text in texts], np.int64)
        slots = np.array([text.slot for text in texts], np.int64)
    return network.advance(np.array(read, np.int64), slots, places, len(texts))
