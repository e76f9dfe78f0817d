"""The decoding side of the language-model codec."""

import numpy as np
import xxhash

from densor.codec.byte_cm.decoder import ByteCmDecoder
from densor.codec.interfaces import ChunkDecoder
from densor.codec.language_model import lines
from densor.codec.language_model.params import (
    MAX_CHUNK,
    RAW,
    SEGMENT,
    TEXT,
    TOKENS,
    Parameters,
    SharedContexts,
    parse,
    segments,
)
from densor.codec.language_model.session import Session
from densor.codec.language_model.step import code_tokens
from densor.codec.language_model.token_decoder import TokensByModelDecoder
from densor.errors import ChecksumError, FormatError, LimitError
from densor.runtime.types import Bytes


class LanguageModelDecoder(ChunkDecoder):
    """Decodes the chunks of one model. Safe to use from several threads at once.

    It tells the session of its progress.
    """

    reports_progress = True

    def __init__(self, model: Parameters, session: Session | None = None) -> None:
        self.model = model
        self._session = session or Session()
        self._expected: Bytes | None = None
        self._text = ByteCmDecoder(model.text)

    def expect(self, content: Bytes) -> None:
        """What chunks are thought to be: right guesses make decoding faster, others do no harm."""
        self._expected = content

    def decode(self, payload: Bytes, out: Bytes) -> None:
        """Decodes a chunk's `payload` into all of `out`; FormatError if it does not fit."""
        if out.size > MAX_CHUNK:
            raise LimitError(f"chunk of text has more than {MAX_CHUNK} bytes")
        if not self.model.lines:
            self._segments(payload, out, self._expected)
            return
        form = lines.parse(payload, out.size)
        if not form.form:
            self._segments(payload[form.end :], out, self._expected)
            return
        expected = None if self._expected is None else lines.joined(self._expected, form.form)[0]
        text = np.zeros(form.size, np.uint8)
        self._segments(payload[form.end :], text, expected)
        out[:] = form.restored(text, out.size)
        self._session.moved(out.size - text.size)

    def _segments(self, payload: Bytes, out: Bytes, expected: Bytes | None) -> None:
        """The segments of a chunk; `expected`: what they are thought to be."""
        parts = segments(self.model, out.size)
        at = SEGMENT.size * len(parts)
        if payload.size < at:
            raise FormatError("chunk of text ends within its header")
        waiting: list[slice] = []
        plain: list[slice] = []
        hashes = []
        for i, part in enumerate(parts):
            mode, size, digest = SEGMENT.unpack_from(payload, i * SEGMENT.size)
            hashes.append(digest)
            if mode == TOKENS and not size:
                waiting.append(part)
                continue
            if at + size > payload.size:
                raise FormatError("segments are longer than their chunk")
            self._plain(mode, payload[at : at + size], out[part])
            plain.append(part)
            at += size
        if waiting:
            self._tokens(payload[at:], waiting, plain, out, expected)
        elif at != payload.size:
            raise FormatError("chunk of text goes on after its segments")
        for part, digest in zip(parts, hashes, strict=True):
            if xxhash.xxh3_64_intdigest(out[part]) != digest:
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

    def _tokens(
        self,
        data: Bytes,
        waiting: list[slice],
        plain: list[slice],
        out: Bytes,
        expected: Bytes | None,
    ) -> None:
        """The segments that wait, whose stream is `data`; the others are there."""
        weights = self._session.weights_for(self.model)
        shared = SharedContexts(False, self.model, weights.vocabulary, np.array(data), out)
        for part in plain:
            shared.know(part, out[part])
        texts = None
        if expected is not None:
            texts = [weights.vocabulary.tokens(expected[part].tobytes()) for part in waiting]
        model = self.model
        with self._session.network(
            weights, len(waiting), model.positions, model.numerics
        ) as network:
            code_tokens(shared, model, network, waiting, texts, self._session.moved)
        if shared.finish() != data.size:
            raise FormatError("chunk of text does not decode to its end")
        for part in waiting:
            out[part] = shared.known(part)


def open_decoder(payload: bytes, session: Session | None = None) -> ChunkDecoder:
    """The decoder of a MODEL frame's payload; FormatError or UnsupportedError for a bad one."""
    model = parse(payload)
    return (TokensByModelDecoder if model.token_bytes else LanguageModelDecoder)(model, session)
