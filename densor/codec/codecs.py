"""The table of all codecs, whose sides are imported when they are needed."""

import contextlib
import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast

from densor.codec import registry
from densor.codec.blocks.block import CHUNK as BLOCKS_CHUNK
from densor.codec.interfaces import ChunkDecoder, Decoder, Encoder
from densor.errors import ArgumentError, FormatError, UnsupportedError

if TYPE_CHECKING:  # what only those need who encode
    from densor.codec.batch import Batch
    from densor.codec.language_model.session import Session
    from densor.codec.levels import Level


class EncoderModule(Protocol):
    """The coding side of a codec, a module."""

    def propose(self, batch: "Batch", level: "Level") -> Encoder | None:
        """An encoder for the batch; None where Zstandard does better."""


class DecoderModule(Protocol):
    """The decoding side of a codec, a module."""

    def open_decoder(self, payload: bytes, session: "Session | None") -> Decoder:
        """The decoder of a MODEL frame's payload; FormatError or UnsupportedError for a bad one."""


@dataclass(frozen=True)
class Codec:
    """A codec of the table.

    `about`: its name for people. `specification`: paths. `encoder`, `decoder`: modules, which are
    imported when they are needed. `chunk`: bytes of one, about; 0 where the encoder sees to that.
    `nests`: may code a part of another codec's chunks; `stands_alone`: all elements of a chunk in
    another notation, which those that nest may, too. `suits`: whether it is tried on a batch beside
    the codecs that `choose/candidates.py` lists for it; None for those that are listed.
    """

    number: int
    name: str
    about: str
    specification: tuple[str, ...]
    encoder: str
    decoder: str
    chunk: int = 0
    nests: bool = False
    stands_alone: bool = False
    needs_base: bool = False
    suits: "Callable[[Batch, Level], bool] | None" = None

    def propose(self, batch: "Batch", level: "Level") -> Encoder | None:
        """An encoder for the batch; None where Zstandard does better."""
        module = cast(EncoderModule, importlib.import_module(self.encoder))
        return module.propose(batch, level)

    def open_decoder(self, payload: bytes, session: "Session | None" = None) -> Decoder:
        """The decoder of a MODEL frame's payload; FormatError or UnsupportedError for a bad one."""
        module = cast(DecoderModule, importlib.import_module(self.decoder))
        return module.open_decoder(payload, session)


def _codec(number: int, folder: str, about: str, *also: str, **rest: Any) -> Codec:
    """A codec whose sides stand in a folder of its own, and whose specification has its name."""
    encoder, decoder = f"densor.codec.{folder}.encoder", f"densor.codec.{folder}.decoder"
    specification = (f"docs/format/{folder}.md", *also)
    return Codec(number, folder, about, specification, encoder, decoder, **rest)


def _planes(number: int, name: str, about: str, specification: str) -> Codec:
    """One of the two ways to code byte planes, which differ in the entropy stage."""
    encoder, decoder = "densor.codec.planes.propose", "densor.codec.planes.decoder"
    return Codec(number, name, about, (specification,), encoder, decoder, nests=True)


def _ranks(number: int, name: str, about: str) -> Codec:
    """Tokens by rank, which the encoder of codec 14 proposes."""
    return Codec(
        *(number, name, about, ("docs/format/token_ranks.md",)),
        encoder="densor.codec.tokens.encoder",
        decoder="densor.codec.tokens.decoder",
        stands_alone=True,
    )


def _suits_tokens(batch: "Batch", level: "Level") -> bool:
    """Asks the codec, which is imported when it is needed."""
    if not (batch.kind.tokens or level.tokens):
        return False
    suits: Callable[[Batch, Level], bool] = importlib.import_module(
        "densor.codec.tokens.encoder"
    ).suits
    return suits(batch, level)


_RANS, _ARITHMETIC = "docs/format/rans.md", "docs/format/arithmetic.md"
_LLM, _FEW = "docs/format/llm.md", "docs/format/delta_few.md"
_OF_PLANES = "docs/format/planes_rans.md"
_R = registry

_ALL = (
    _planes(_R.CODEC_PLANES_HUFFMAN, "planes_huffman", "planes", "docs/format/container.md"),
    _codec(
        _R.CODEC_SCALE_CONTEXT, "scale_context", "scale contexts", _RANS, chunk=1 << 21, nests=True
    ),
    _codec(_R.CODEC_FLOAT_CM, "float_cm", "context mixing", _ARITHMETIC, chunk=1 << 23, nests=True),
    _codec(_R.CODEC_BLOCKS, "blocks", "blocks", chunk=BLOCKS_CHUNK),
    _codec(_R.CODEC_SPARSE, "sparse", "sparse", stands_alone=True),
    _codec(_R.CODEC_DELTA, "delta", "changes", _FEW, needs_base=True),
    _planes(_R.CODEC_PLANES_RANS, "planes_rans", "byte planes", _OF_PLANES),
    _codec(_R.CODEC_BYTE_CM, "byte_cm", "text", _ARITHMETIC, chunk=1 << 24, nests=True),
    _codec(
        _R.CODEC_IMAGE, "image", "rows of images", _RANS, _ARITHMETIC, chunk=1 << 18, nests=True
    ),
    _codec(_R.CODEC_DEFLATE, "deflate", "DEFLATE streams"),
    _codec(_R.CODEC_TOKENS, "tokens", "tokens", suits=_suits_tokens, stands_alone=True),
    _ranks(_R.CODEC_TOKEN_RANKS, "token_ranks", "tokens by rank"),
    _ranks(_R.CODEC_TOKEN_RANKS_MORE, "token_ranks_more", "tokens by rank, more contexts"),
    _codec(_R.CODEC_CIRCUIT, "circuit", "images by themselves"),
    _codec(_R.CODEC_TABLE, "table", "columns of tables", _ARITHMETIC),
    _codec(_R.CODEC_NOTATION, "notation", "elements in another form"),
    _codec(_R.CODEC_PAGES, "pages", "columns in pages", "docs/format/table.md"),
    _codec(_R.CODEC_AUDIO, "audio", "sound", _RANS, _ARITHMETIC, chunk=1 << 20),
    _codec(_R.CODEC_LANGUAGE_MODEL, "language_model", "language model", _LLM),
)
CODECS = {codec.number: codec for codec in _ALL}


@contextlib.contextmanager
def registered(codec: Codec) -> Iterator[None]:
    """Adds a codec to the table for a while, as tests and experiments do."""
    if codec.number in CODECS:
        raise ArgumentError(f"there is a codec {codec.number} already")
    CODECS[codec.number] = codec
    try:
        yield
    finally:
        del CODECS[codec.number]


def decoder_for(payload: bytes, session: "Session | None" = None) -> Decoder:
    """The decoder of a MODEL frame's payload; FormatError or UnsupportedError for a bad one.

    `session`: where language models come from.
    """
    return _codec_of(payload).open_decoder(payload, session)


def inner_decoder(payload: bytes) -> ChunkDecoder:
    """The decoder of parameters within parameters, which have none within themselves."""
    codec = _codec_of(payload)
    if not codec.nests:
        raise FormatError("models are nested too deep")
    return cast(ChunkDecoder, codec.open_decoder(payload))


def wrapped_decoder(payload: bytes) -> ChunkDecoder:
    """The decoder of the parameters of elements that stand in another notation."""
    codec = _codec_of(payload)
    if not (codec.nests or codec.stands_alone):
        raise FormatError("models are nested too deep")
    return cast(ChunkDecoder, codec.open_decoder(payload))


def _codec_of(payload: bytes) -> Codec:
    if not payload:
        raise FormatError("model is empty")
    codec = CODECS.get(payload[0])
    if codec is None:
        raise UnsupportedError(f"unknown codec {payload[0]}; a newer densor may read this")
    return codec
