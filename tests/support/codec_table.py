"""Every codec, and how to make one payload with it, whatever a level would choose.

The only place in the tests that knows how the encoders of all codecs are called.
"""

import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import parquet_files
from circuits import any_circuit
from helpers import Bits, bits_of, random_state
from notations import written
from reference import circuit as reference_circuit

from densor.codec import registry
from densor.codec.audio.coders import CascadeCoder, LaneCoder, cascade_model
from densor.codec.audio.layout import Layout as AudioLayout
from densor.codec.audio.params import LIGHT
from densor.codec.audio.samples import model_of as audio_model_of
from densor.codec.batch import Batch, Before
from densor.codec.blocks.block import Field
from densor.codec.blocks.encoder import BlocksEncoder
from densor.codec.byte_cm.encoder import ByteCmEncoder
from densor.codec.circuit.encoder import CircuitCoder
from densor.codec.circuit.model import Size, pack, tables_of
from densor.codec.codecs import decoder_for
from densor.codec.deflate.encoder import DeflateCoder
from densor.codec.deflate.stream import ZLIB, Stream
from densor.codec.delta.encoder import DeltaEncoder
from densor.codec.delta.few_encoder import FewEncoder
from densor.codec.delta.few_params import pack as pack_few
from densor.codec.delta.payload import FEW_CODED
from densor.codec.delta.payload import HEAD as DELTA_HEAD
from densor.codec.float_cm.encoder import FloatCmEncoder
from densor.codec.history import History
from densor.codec.image.encoder import GradientCoder
from densor.codec.image.layout import Layout
from densor.codec.interfaces import BaseDecoder, Decoder
from densor.codec.kind import Kind, kind_of, kind_of_blocks, kind_of_notation, parts_of
from densor.codec.language_model.encoder import LanguageModelEncoder
from densor.codec.language_model.session import Session
from densor.codec.levels import level_settings
from densor.codec.notation.encoder import propose as propose_notation
from densor.codec.notation.layout import BASE64, HEX, LATIN, VARINTS, Notation
from densor.codec.pages.encoder import PagesCoder
from densor.codec.planes.encoder import PlanesEncoder
from densor.codec.planes.layout import layout_for
from densor.codec.planes.stages.huffman import HUFFMAN
from densor.codec.planes.stages.rans import RANS
from densor.codec.scale_context.encoder import ScaleContextEncoder, low_coder
from densor.codec.sparse.encoder import SparseEncoder
from densor.codec.sparse.payload import Bands
from densor.codec.table.encoder import TableCoder
from densor.codec.table.layout import Layout as Table
from densor.codec.tokens.encoder import TokensEncoder
from densor.codec.tokens.params import Mixed, Parameters, Ranked, RankedMore
from densor.dtypes import SIZES
from densor.float_formats import by_rows
from densor.formats.io.sources import MemoryRandomSource, MemorySource
from densor.formats.parsers import parquet
from densor.formats.parsers.contents import Head
from densor.runtime.workers import Workers

Bytes = npt.NDArray[np.uint8]
_FAST, _BEST = level_settings(3), level_settings(6)
_BLOCK = (Field("F16", 2), Field("F16", 2, 2), Field("U8", 8, 3), Field("U8", 8, 1))
_BLOCK_SIZE = sum(field.size for field in _BLOCK)
_NOTATIONS = {
    "F16": (VARINTS, 0),
    "F32": (LATIN, 0),
    "I64": (VARINTS, 1),
    "U8": (HEX, 1),
    "bytes": (BASE64, 0),
}
_OFFSET = 24  # where in its base the tensor of a delta begins


class Coded(NamedTuple):
    """One chunk: MODEL payload, CHUNK payload, what they stand for, and the base they need."""

    model: bytes
    payload: bytes
    data: bytes
    base: bytes | None = None


@dataclass(frozen=True)
class Codec:
    """A codec under test.

    `dtypes`: what it takes, by safetensors names, "blocks" and "bytes". `memory`: bytes that
    decoding may take beside 16 times its input and output.
    """

    number: int
    name: str
    dtypes: tuple[str, ...]
    code: Callable[[Bytes, str, tuple[int, ...]], Coded]
    memory: int = 1 << 22
    has_slow_reference: bool = False
    has_reference: bool = True

    def encode(self, content: str, dtype: str, shape: tuple[int, ...]) -> Coded:
        """A tensor of some content of `helpers.CONTENTS` as one chunk."""
        return self.code(tensor_bytes(content, dtype, shape), dtype, shape)

    def decoder(self, model: bytes) -> Decoder:
        """The package's decoder of a MODEL payload."""
        with_model = self.number in (registry.CODEC_LANGUAGE_MODEL, registry.CODEC_CIRCUIT)
        return decoder_for(model, _session() if with_model else None)

    def decode_into(self, coded: Coded, out: Bytes) -> None:
        """Decodes by the package; DensorError where it refuses."""
        payload = np.frombuffer(coded.payload, np.uint8)
        decoder = self.decoder(coded.model)
        if isinstance(decoder, BaseDecoder):
            decoder.decode_from(payload, out, MemoryRandomSource(coded.base or b""))
        else:
            decoder.decode(payload, out)


def tensor_bytes(content: str, dtype: str, shape: tuple[int, ...]) -> Bytes:
    """The bytes of a tensor, or of a block for each element; complex numbers are two numbers."""
    count = int(np.prod(shape))
    size = {"blocks": 1, "bytes": 1}.get(dtype) or SIZES[dtype]
    number = 4 if dtype == "C64" else min(size, 8)
    count *= _BLOCK_SIZE if dtype == "blocks" else size // number
    rng = random_state("conformance", content, dtype, shape)
    return _as_bytes(bits_of(content, number, count, rng))


def _as_bytes(bits: Bits) -> Bytes:
    return np.ascontiguousarray(bits).reshape(-1).view(np.uint8)


def _batch(coder: Any, data: Bytes) -> Coded:
    """By the usual way of a coder: count and decide, where it does not learn on the way; encode."""
    if hasattr(coder, "count"):
        coder.decide([coder.count(data)])
    payload = coder.encode(data, 0)
    return Coded(coder.model(), bytes(payload), data.tobytes())


def _planes(stage: Any, level: Any, data: Bytes, dtype: str, shape: tuple[int, ...]) -> Coded:
    kind = kind_of(dtype, shape)
    level = replace(level, try_zstd=False)
    return _batch(PlanesEncoder(stage, data, kind.layout, kind.run, level, kind.integers), data)


def _scale_context(data: Bytes, dtype: str, shape: tuple[int, ...]) -> Coded:
    kind = kind_of(dtype, shape)
    low = low_coder(data, kind, _BEST)
    return _batch(ScaleContextEncoder(kind, History(), low, repeats=False), data)


def _float_cm(data: Bytes, dtype: str, shape: tuple[int, ...]) -> Coded:
    """A row of zeros follows, since what would not become smaller is not coded in this way."""
    data = np.concatenate([data, np.zeros(4 * data.size + 1024, np.uint8)])
    elements = data.size // SIZES[dtype]
    return _batch(
        FloatCmEncoder(replace(kind_of(dtype, shape), parts=parts_of(dtype, (elements,)))), data
    )


def _blocks(data: Bytes, dtype: str, shape: tuple[int, ...]) -> Coded:
    return _batch(BlocksEncoder(data, _kind_of_blocks(shape), _FAST, data.size), data)


def _kind_of_blocks(shape: tuple[int, ...]) -> Kind:
    return kind_of_blocks(_BLOCK, max(1, shape[-1] if shape else 1))


def _sparse(data: Bytes, dtype: str, shape: tuple[int, ...]) -> Coded:
    return _batch(SparseEncoder(data, kind_of(dtype, shape), _FAST), data)


def _bands(data: Bytes, dtype: str, shape: tuple[int, ...]) -> Coded:
    """In bands of few columns, of which some always are there."""
    bands = Bands(1 + data.size % 3, data.size % 8)
    return _batch(SparseEncoder(data, kind_of(dtype, shape), _FAST, bands), data)


def _delta(data: Bytes, dtype: str, shape: tuple[int, ...]) -> Coded:
    """Against a base that differs in every seventh byte, and lies at some offset."""
    before = data.copy()
    before[::7] += 1
    size = 4 if dtype == "C64" else min(SIZES[dtype], 8)
    kind = Kind(layout_for(f"U{8 * size}"), dtype=dtype)
    coder = DeltaEncoder(Batch(data, kind, Workers(1), base=Before(before, _OFFSET)))
    coder.encode().result()
    payload = bytes(coder._coded(data, before, 0))
    base = bytes(_OFFSET) + before.tobytes() + b"behind"
    return Coded(coder.model(), payload, data.tobytes(), base)


def _few(data: Bytes, dtype: str, shape: tuple[int, ...]) -> Coded:
    """Against a base that differs in every 29th element, mostly by a little."""
    size = 4 if dtype == "C64" else min(SIZES[dtype], 8)
    before = data.copy()
    changed = before[: data.size // size * size].reshape(-1, size)[::29]
    changed[:, 0] += 1
    changed[::5, -1] ^= 0x41
    encoder = FewEncoder("U8" if dtype == "bytes" else dtype, size)
    part = encoder.survey(data, before)
    assert part is not None
    encoder.fit([part])
    encoder.record(part)
    model = pack_few(encoder.decide())
    payload = DELTA_HEAD.pack(_OFFSET, FEW_CODED) + encoder.code(part)
    base = bytes(_OFFSET) + before.tobytes() + b"behind"
    return Coded(model, payload, data.tobytes(), base)


def _byte_cm(data: Bytes, dtype: str, shape: tuple[int, ...]) -> Coded:
    """Zeros follow, since what would not become smaller is not coded in this way."""
    data = np.concatenate([data, np.zeros(data.size + 256, np.uint8)])
    return _batch(ByteCmEncoder(data), data)


@cache
def _session() -> Session:
    return Session("sample", image_model=CIRCUIT)


def _language_model(data: Bytes, dtype: str, shape: tuple[int, ...]) -> Coded:
    with_text = np.concatenate([data, np.frombuffer(b"The cat sat on the mat. " * 12, np.uint8)])
    coder = LanguageModelEncoder(with_text, _session(), Workers(1))
    ((_, payload, _),) = coder.encode().result().chunks
    return Coded(coder.model(), bytes(payload), with_text.tobytes())


def _image(data: Bytes, dtype: str, shape: tuple[int, ...]) -> Coded:
    """By gradients; `tests/codec/test_image.py` has context mixing."""
    return _batch(GradientCoder(Layout(shape[-1] if shape else 1, 1, SIZES[dtype]), data), data)


CIRCUIT = any_circuit(Size(4, 5, 1))
reference_circuit.know(pack(CIRCUIT))


def _circuit(data: Bytes, dtype: str, shape: tuple[int, ...]) -> Coded:
    """Zeros follow, up to whole images."""
    samples = CIRCUIT.size.samples
    whole = np.concatenate([data, np.zeros(-data.size % samples, np.uint8)])
    return _batch(CircuitCoder(tables_of(CIRCUIT)), whole)


def _deflate(data: Bytes, dtype: str, shape: tuple[int, ...]) -> Coded:
    """The stream that zlib makes of the content."""
    made = np.frombuffer(zlib.compress(data.tobytes() + b"and so on " * 20, 9), np.uint8)
    return _batch(DeflateCoder(Stream(ZLIB), _FAST), made)


def _table(data: Bytes, dtype: str, shape: tuple[int, ...]) -> Coded:
    """A row for each byte: the byte, its higher half, and whether it is even."""
    rows = "".join(f"{byte},{byte >> 4},{'no' if byte % 2 else 'yes'}\n" for byte in data.tolist())
    text = np.frombuffer(rows.encode(), np.uint8)
    return _batch(TableCoder(Table(3), level_settings(5)), text)


def _notation(data: Bytes, dtype: str, shape: tuple[int, ...]) -> Coded:
    """Each type in another form; zeros follow, for which chunks become smaller by all of them."""
    form, option = _NOTATIONS[dtype]
    data = np.concatenate([data, np.zeros(24 * data.size + 1536, np.uint8)])
    numpy_type = {"F16": "<u2", "I64": "<i8"}.get(dtype, "u1")
    text = np.frombuffer(written(data.view(numpy_type), form, option), np.uint8)
    told = "" if dtype == "bytes" else dtype
    count = data.size // SIZES[told] if told else data.size
    kind = kind_of_notation(Notation(form, option, told, (count,)))
    coded = propose_notation(Batch(text, kind, Workers(1)), _FAST).encode().result()
    (chunk,) = coded.chunks
    assert coded.model is not None and chunk.own
    return Coded(coded.model, bytes(chunk.payload), text.tobytes())


def _pages(data: Bytes, dtype: str, shape: tuple[int, ...]) -> Coded:
    """A row or more for each byte: the byte, whether it is even, and a text."""
    values = [bytes([byte]) for byte in data.tolist()] or [b"0"]
    values *= -(-parquet.FEWEST_ROWS // len(values))
    texts = [b"a text" if value < b"\x80" else None for value in values]
    flags = [bytes([value[0] & 1]) for value in values]
    columns = [
        parquet_files.Column("a", "i8", [value + bytes(7) for value in values]),
        parquet_files.Column("b", "bool", flags, False, 0),
        parquet_files.Column("c", "text", texts),
    ]
    file = parquet_files.file(columns, group_rows=len(values))
    head = Head(MemorySource(file), len(file), MemoryRandomSource(file), "a")
    found = parquet.find(head)
    assert found is not None
    (stretch,) = found.stretches
    assert stretch.pages is not None
    made = np.frombuffer(file, np.uint8)[stretch.offset : stretch.offset + stretch.size]
    return _batch(PagesCoder(stretch.pages, level_settings(5), Workers(1)), made)


def _audio(data: Bytes, dtype: str, shape: tuple[int, ...]) -> Coded:
    """In two channels where the elements go into pairs."""
    size = SIZES[dtype]
    channels = 2 if data.size % (2 * size) == 0 else 1
    model = audio_model_of(AudioLayout(channels, size, unsigned=size == 1), data)
    assert model is not None
    return _batch(LaneCoder(model), data)


def _cascade(data: Bytes, dtype: str, shape: tuple[int, ...]) -> Coded:
    """The same by filters that adapt."""
    size = SIZES[dtype]
    model = audio_model_of(AudioLayout(1, size, unsigned=size == 1), data)
    assert model is not None
    adaptive = cascade_model(model, LIGHT)
    assert adaptive is not None
    return _batch(CascadeCoder(adaptive), data)


def _tokens(data: Bytes, dtype: str, shape: tuple[int, ...]) -> Coded:
    """A token of 16 bits for each byte, and 2 KiB of zeros; of several codebooks where it fits."""
    size, rows = SIZES[dtype], shape[-2] if len(shape) > 1 else 1
    tokens = np.concatenate([data, np.zeros(1024 * rows - data.size % rows, np.uint8)])
    columns = tokens.size // rows if rows > 1 else 0
    coder = TokensEncoder(Parameters(size, 2, 8, rows, columns))
    return _batch(coder, tokens.astype(f"<u{size}").view(np.uint8))


def _mixed_tokens(data: Bytes, dtype: str, shape: tuple[int, ...]) -> Coded:
    """A token of 16 bits for each byte, and 2 KiB of zeros, in as many streams as the data says."""
    size, streams = SIZES[dtype], 1 + data.size % 3
    tokens = np.concatenate([data, np.zeros(1024, np.uint8)])
    coder = TokensEncoder(Mixed(size, 2, 8, 9, streams))
    return _batch(coder, tokens.astype(f"<u{size}").view(np.uint8))


def _token_ranks(data: Bytes, dtype: str, shape: tuple[int, ...]) -> Coded:
    """Likewise, by ranks."""
    return _by_ranks(Ranked, data, dtype)


def _more_token_ranks(data: Bytes, dtype: str, shape: tuple[int, ...]) -> Coded:
    """Likewise, by ranks under more contexts."""
    return _by_ranks(RankedMore, data, dtype)


def _by_ranks(method: type[Ranked], data: Bytes, dtype: str) -> Coded:
    size, streams = SIZES[dtype], 1 + data.size % 3
    tokens = np.concatenate([data, np.zeros(1024, np.uint8)])
    coder = TokensEncoder(method(size, 2, 8, 9, streams))
    return _batch(coder, tokens.astype(f"<u{size}").view(np.uint8))


_FLOATS = tuple(sorted(filter(by_rows, SIZES)))
_NUMBERS = tuple(sorted(set(SIZES) - {"VOID"}))

CODECS = (
    Codec(
        registry.CODEC_PLANES_HUFFMAN,
        "byte planes, Huffman",
        _NUMBERS,
        lambda *tensor: _planes(HUFFMAN, _FAST, *tensor),
    ),
    Codec(
        registry.CODEC_PLANES_RANS,
        "byte planes, rANS",
        _NUMBERS,
        lambda *tensor: _planes(RANS, _BEST, *tensor),
    ),
    Codec(registry.CODEC_SCALE_CONTEXT, "scale context", _FLOATS, _scale_context),
    Codec(
        registry.CODEC_FLOAT_CM,
        "float context mixing",
        tuple(dtype for dtype in _FLOATS if dtype != "C64"),
        _float_cm,
        has_slow_reference=True,
    ),
    Codec(registry.CODEC_BLOCKS, "blocks", ("blocks",), _blocks),
    Codec(registry.CODEC_SPARSE, "sparse", _NUMBERS, _sparse),
    Codec(registry.CODEC_SPARSE, "sparse, bands", ("BF16",), _bands),
    Codec(registry.CODEC_DELTA, "delta", _NUMBERS, _delta),
    Codec(registry.CODEC_DELTA, "delta of few", ("BF16", "F32", "F8_E4M3", "I64"), _few),
    Codec(
        registry.CODEC_BYTE_CM,
        "byte context mixing",
        ("bytes",),
        _byte_cm,
        memory=1 << 26,
        has_slow_reference=True,
    ),
    Codec(
        registry.CODEC_LANGUAGE_MODEL,
        "language model",
        ("bytes",),
        _language_model,
        memory=1 << 27,
        has_reference=False,
    ),
    Codec(registry.CODEC_IMAGE, "image", ("U16", "U8"), _image),
    Codec(
        registry.CODEC_TOKENS,
        "tokens",
        ("U16", "I32"),
        _tokens,
        memory=1 << 25,
        has_slow_reference=True,
    ),
    Codec(
        *(registry.CODEC_TOKENS, "tokens, mixed", ("U16", "I32"), _mixed_tokens),
        memory=1 << 25,
        has_slow_reference=True,
    ),
    Codec(
        *(registry.CODEC_TOKEN_RANKS, "tokens, by ranks", ("U16", "I32"), _token_ranks),
        memory=1 << 25,
        has_slow_reference=True,
    ),
    Codec(
        *(registry.CODEC_TOKEN_RANKS_MORE, "tokens, by ranks under more contexts"),
        *(("U16", "I32"), _more_token_ranks),
        memory=1 << 25,
        has_slow_reference=True,
    ),
    Codec(registry.CODEC_CIRCUIT, "circuit", ("U8",), _circuit),
    Codec(registry.CODEC_DEFLATE, "deflate", ("bytes",), _deflate, memory=1 << 22),
    Codec(
        registry.CODEC_TABLE, "table", ("bytes",), _table, memory=1 << 25, has_slow_reference=True
    ),
    Codec(
        registry.CODEC_PAGES, "pages", ("bytes",), _pages, memory=1 << 25, has_slow_reference=True
    ),
    Codec(registry.CODEC_NOTATION, "notation", ("F16", "F32", "I64", "U8", "bytes"), _notation),
    Codec(
        *(registry.CODEC_AUDIO, "sound, adaptive", ("I16", "U8"), _cascade),
        memory=1 << 23,
        has_slow_reference=True,
    ),
    Codec(registry.CODEC_AUDIO, "audio", ("I16", "I32", "U8"), _audio),
)
