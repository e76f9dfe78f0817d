"""The decoding side of chunks of tokens under a language model."""

from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from densor.codec.interfaces import ChunkDecoder
from densor.codec.language_model import token_chunks as wire
from densor.codec.language_model.params import Parameters, SegmentCoder, SharedContexts
from densor.codec.language_model.session import Session
from densor.codec.language_model.step import code_tokens
from densor.errors import ChecksumError, FormatError
from densor.runtime.types import Bytes


class TokensByModelDecoder(ChunkDecoder):
    """Decodes the chunks of one model. Safe to use from several threads at once.

    It tells the session of its progress.
    """

    reports_progress = True

    def __init__(self, model: Parameters, session: Session | None = None) -> None:
        self._model = model
        self._session = session or Session()

    def decode(self, payload: Bytes, out: Bytes) -> None:
        """Decodes a chunk's `payload` into all of `out`; FormatError if it does not fit."""
        model = self._model
        count, rest = divmod(out.size, model.token_bytes)
        if rest:
            raise FormatError("chunk of tokens has an impossible length")
        chunk = wire.parse(model, payload, count)
        known = wire.known_in(wire.parts_of(model, count), chunk.others)
        tokens = np.empty(count, np.uint32)
        is_known = np.ones(count, np.bool_)
        is_known[chunk.others.places] = False
        tokens[chunk.others.places] = chunk.others.tokens
        tokens[is_known] = self._known(chunk, known, out.size)
        out[:] = tokens.astype(f"<u{model.token_bytes}").view(np.uint8)
        if xxhash.xxh3_64_intdigest(out) != chunk.digest:
            raise ChecksumError("chunk of tokens does not decode to what was coded")

    def _known(self, chunk: wire.Chunk, known: list[int], size: int) -> npt.NDArray[np.int64]:
        """The tokens that a text has, `known` of each segment, by their numbers."""
        parts = [part for part in wire.texts_at(chunk.texts) if part.stop > part.start]
        if not parts:
            if chunk.stream.size:
                raise FormatError("chunk of tokens goes on after them")
            self._session.moved(size)
            return np.empty(0, np.int64)
        model, total = self._model, sum(chunk.texts)
        weights = self._session.weights_for(model)
        words = weights.vocabulary
        shared = SharedContexts(
            False, model, words, np.array(chunk.stream), np.zeros(total, np.uint8)
        )
        found: dict[int, list[int]] = {part.start: [] for part in parts}
        moved = Scaled(self._session, size, total)
        coder = lambda shared, part: Noted(shared, part, found[part.start])  # noqa: E731
        with self._session.network(weights, len(parts), model.positions, model.numerics) as network:
            code_tokens(shared, model, network, parts, None, moved, coder)
        if shared.finish() != chunk.stream.size:
            raise FormatError("chunk of tokens does not decode to its end")
        if [len(found[part.start]) for part in parts] != [few for few in known if few]:
            raise FormatError("chunk of tokens decodes to another number of them")
        ranks = np.array([rank for part in parts for rank in found[part.start]], np.int64)
        if int(ranks.min()) < 0:
            raise FormatError("chunk of tokens decodes to bytes")
        return words.numbers[ranks]


class Noted(SegmentCoder):
    """Keeps the tokens that come, by their ranks."""

    def __init__(self, shared: SharedContexts, part: slice, found: list[int]) -> None:
        super().__init__(shared, part)
        self._found = found

    def token(self, counts: npt.NDArray[np.int64], token: int) -> int:
        coded = super().token(counts, token)
        self._found.append(coded)
        return coded


class Scaled:
    """Tells a session of `size` original bytes as `total` bytes of text are done."""

    def __init__(self, session: Session | None, size: int, total: int) -> None:
        self._session, self._size, self._total = session, size, total
        self._done = 0

    def __call__(self, count: int) -> Any:
        before = self._size * self._done // self._total
        self._done += count
        if self._session is not None:
            self._session.moved(self._size * self._done // self._total - before)
