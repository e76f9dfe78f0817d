"""The models of an archive while it is read: the latest are known, fewer are kept ready."""

from collections.abc import Callable
from typing import cast

from densor.codec import registry
from densor.codec.codecs import decoder_for
from densor.codec.interfaces import Base, BaseDecoder, ChunkDecoder, Decoder
from densor.codec.language_model.session import Session
from densor.codec.zstd import zstd_decompress_into
from densor.errors import FormatError, UnsupportedError
from densor.formats.io.sources import Bytes
from densor.runtime.locks import Lock
from densor.runtime.lru import LruCache

_READY = 16  # decoders kept, with up to 4 MB of tables each; those of parts count too


class Models:
    """Models by number; bounded memory, safe to use from several threads.

    `session`: where language models come from.
    """

    def __init__(self, session: Session | None = None) -> None:
        self._session = session
        self._payloads: dict[int, bytes] = {}
        self._ready: LruCache[int, Decoder] = LruCache(
            _READY, lambda decoder: decoder.weight, least=2
        )
        self._lock = Lock()
        self._next = registry.FIRST_MODEL

    def append(self, payload: bytes) -> None:
        """Adds the next model of the archive; checked at once."""
        decoder = decoder_for(payload, self._session)
        with self._lock:
            number = self._next
            self._next += 1
            self._payloads[number] = payload
            self._payloads.pop(number - registry.MODEL_WINDOW, None)
            self._ready.drop(number - registry.MODEL_WINDOW)
            self._ready.put(number, decoder)

    def put(self, number: int, payload: bytes) -> Decoder:
        """Adds a model that was looked up in the index."""
        decoder = decoder_for(payload, self._session)
        self._ready.put(number, decoder)
        return decoder

    def get(self, number: int) -> Decoder | None:
        """The decoder of a model, None if it is not known (any more)."""
        decoder = self._ready.get(number)
        if decoder is not None:
            return decoder
        with self._lock:
            if number in self._payloads:
                decoder = decoder_for(self._payloads[number], self._session)
                self._ready.put(number, decoder)
            return decoder

    def known(self, number: int, payload_of: Callable[[], bytes] | None = None) -> Decoder | None:
        """The decoder that a chunk names, None for the fixed models; FormatError if unknown.

        `payload_of`: looks up a model that is not at hand.
        """
        if number in (registry.MODEL_RAW, registry.MODEL_ZSTD):
            return None
        if number < registry.FIRST_MODEL:
            raise UnsupportedError(f"unknown model {number}; a newer densor may read this")
        decoder = self.get(number)
        if decoder is None and payload_of is not None:
            decoder = self.put(number, payload_of())
        if decoder is None:
            raise FormatError(f"chunk names model {number}, which is not at hand")
        return decoder


def reports_progress(decoder: Decoder | None) -> bool:
    """Whether it tells the session of its progress itself."""
    return decoder is not None and decoder.reports_progress


def decode_chunk(
    number: int,
    decoder: Decoder | None,
    payload: Bytes,
    out: Bytes,
    base: Base | None = None,
) -> None:
    """Decodes the payload of a CHUNK frame, already verified, into all of `out`.

    `base`: the bytes that the entry of the chunk is based on, if there are any.
    """
    if hasattr(decoder, "decode_from"):  # not `isinstance`, which takes 11 us for a protocol
        if base is None:
            raise FormatError("chunk holds changes against a base, which its entry does not have")
        cast(BaseDecoder, decoder).decode_from(payload, out, base)
    elif decoder is not None:
        cast(ChunkDecoder, decoder).decode(payload, out)
    elif number == registry.MODEL_ZSTD:
        zstd_decompress_into(payload, out)
    elif payload.size == out.size:
        out[:] = payload
    else:
        raise FormatError("raw chunk has the wrong length")
