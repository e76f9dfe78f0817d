"""The coding side of chunks of tokens whose vocabulary is that of a language model.

What they stand for is coded as a text is, by these tokens instead of those that the model's own
tokeniser would make of it, so that they come back as they were. Others are written beside it.
"""

import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import xxhash

from densor.codec.batch import Batch, Chunk, Chunks, Coding
from densor.codec.byte_cm.encoder import ByteCmEncoder
from densor.codec.chunks import own_or_raw
from densor.codec.interfaces import Encoder, Estimate
from densor.codec.language_model import token_chunks as wire
from densor.codec.language_model.choices import ROOM, settled, slots_for, step_of
from densor.codec.language_model.params import MAX_CHUNK, Parameters, SharedContexts, pack
from densor.codec.language_model.session import Session
from densor.codec.language_model.step import code_tokens
from densor.codec.language_model.token_chunks import Others, Tokens
from densor.codec.language_model.token_decoder import Scaled, TokensByModelDecoder
from densor.entropy.arithmetic.coder import position
from densor.errors import DensorError, FormatError
from densor.llm.vocabulary import readable
from densor.runtime.types import Bytes

_MIN_KNOWN = 0.9  # of the tokens, and of what they stand for, that a text must have
_SAMPLE = 1 << 16  # tokens by whose text that is told
_TRIAL = 512  # tokens that are coded to see whether the model expects such
_COLD = 0.8  # of what these take, later ones take
_ROOM_OF_TOKEN = 8  # bytes of a stream for each, beyond those that it stands for


def propose_tokens(batch: Batch) -> "TokensByModelEncoder | None":
    """An encoder for a batch of integers; None where they do not stand for a text."""
    assert batch.session is not None
    size = batch.kind.unit
    ranks = wire.ranks_of(batch.session.weights().vocabulary)
    encoder = TokensByModelEncoder(batch, ranks)
    middle = _middle(batch.data.view(f"<u{size}"), _SAMPLE)
    known, text = encoder.text_of(middle.astype(np.uint32))
    if not text or known.size < _MIN_KNOWN * middle.size or readable(text) < _MIN_KNOWN:
        return None
    encoder.settle(len(text) / middle.size, text)
    return encoder


def _middle(tokens: npt.NDArray[np.unsignedinteger], count: int) -> npt.NDArray[np.unsignedinteger]:
    begin = max(0, tokens.size - count) // 2
    return tokens[begin : begin + count]


class TokensByModelEncoder(Encoder):
    """Codes a batch of tokens; `ranks`: of each number of the model, see `token_chunks`."""

    _model: Parameters
    _step: int  # tokens of a chunk

    def __init__(self, batch: Batch, ranks: npt.NDArray[np.int64]) -> None:
        assert batch.session is not None
        self._batch, self._ranks = batch, ranks
        self._session: Session = batch.session
        self._weights = self._session.weights()
        self._size = batch.kind.unit

    def text_of(self, tokens: Tokens) -> tuple[npt.NDArray[np.int64], bytes]:
        """Ranks of the tokens that stand for something in a text, and that."""
        known = tokens[tokens < self._ranks.size]
        ranks = self._ranks[known]
        ranks = ranks[ranks >= 0]
        pieces = self._weights.vocabulary.pieces
        return ranks, b"".join([pieces[rank] for rank in ranks.tolist()])

    def settle(self, bytes_of_token: float, text: bytes) -> None:
        """Settles all parameters, by how long tokens are and a text of some."""
        count = self._batch.data.size // self._size
        length = int(count * bytes_of_token) + 1
        slots = slots_for(length)
        self._step = step_of(count, length, slots)
        contexts = ByteCmEncoder(np.frombuffer(text, np.uint8)).model()
        self._model = replace(settled(self._session, slots, contexts), token_bytes=self._size)

    def estimate(self) -> Estimate | None:
        """What all of it will take, by what some tokens take."""
        numbers = self._batch.data.view(f"<u{self._size}")
        some = _middle(numbers, _TRIAL).astype(np.uint32)
        known, text = self.text_of(some)
        stream = self._stream([known.tolist()], [text], None) if text else None
        if stream is None:
            return None
        share = numbers.size / some.size * (_COLD if numbers.size > some.size else 1)
        return Estimate(stream[1] / 8 * share, math.inf)

    def model(self) -> bytes:
        """The payload of the MODEL frame."""
        return pack(self._model)

    def encode(self) -> Coding:
        """Starts coding all chunks."""
        step = self._step * self._size
        data, submit = self._batch.data, self._batch.workers.submit
        chunks = [data[at : at + step] for at in range(0, data.size, step)]
        return Chunks(self, [submit(self._chunk, chunk) for chunk in chunks])

    def _chunk(self, chunk: Bytes) -> Chunk:
        payload = self._payload(chunk)
        if payload is not None and self._session.check and not self._decodes(payload, chunk):
            payload = None
        if payload is None:
            self._session.moved(chunk.size)
            return own_or_raw(chunk, chunk)
        return own_or_raw(payload, chunk)

    def _payload(self, chunk: Bytes) -> Bytes | None:
        """The payload of a chunk; None where its text is too long for one."""
        tokens = chunk.view(f"<u{self._size}").astype(np.uint32)
        known = tokens < self._ranks.size
        known[known] = self._ranks[tokens[known]] >= 0
        places = np.flatnonzero(~known)
        others = Others(places, tokens[places])
        parts = wire.parts_of(self._model, tokens.size)
        ranks, texts = zip(*(self.text_of(tokens[part]) for part in parts), strict=True)
        sizes = [len(text) for text in texts]
        if sum(sizes) > MAX_CHUNK:
            return None
        stream = np.empty(0, np.uint8)
        if any(sizes):
            some = [number for number, size in enumerate(sizes) if size]
            moved = Scaled(self._session, chunk.size, sum(sizes))
            listed = [ranks[number].tolist() for number in some]
            coded = self._stream(listed, [texts[number] for number in some], moved)
            if coded is None:
                return None
            stream = coded[0]
        else:
            self._session.moved(chunk.size)
        return wire.pack(xxhash.xxh3_64_intdigest(chunk), others, sizes, stream)

    def _stream(
        self, ranks: list[list[int]], texts: list[bytes], moved: Scaled | None
    ) -> tuple[Bytes, float] | None:
        """The stream of segments of tokens, and how many bits it takes; None if it is too long."""
        content = np.frombuffer(b"".join(texts), np.uint8)
        room = content.size + _ROOM_OF_TOKEN * sum(map(len, ranks)) + ROOM
        data = np.empty(room, np.uint8)
        model, words = self._model, self._weights.vocabulary
        shared = SharedContexts(True, model, words, data, content)
        parts = wire.texts_at([len(text) for text in texts])
        tell = moved or (lambda _: self._session.moved(0))
        with self._session.network(
            self._weights, len(parts), model.positions, model.numerics
        ) as network:
            try:
                code_tokens(shared, model, network, parts, ranks, tell)
            except FormatError:  # there is no more room
                return None
        bits = position(shared.state.coder)
        return data[: shared.finish()].copy(), bits

    def _decodes(self, payload: Bytes, chunk: Bytes) -> bool:
        out = np.zeros(chunk.size, np.uint8)
        try:
            TokensByModelDecoder(self._model, self._session).decode(payload, out)
        except DensorError:
            return False
        return bool(np.array_equal(out, chunk))
