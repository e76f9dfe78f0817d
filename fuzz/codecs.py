"""Decoders of models and chunks, called directly: nothing in front of them checks anything.

An input is a model, the size of the output, a base and a payload, packed by `Case.pack`.
"""

import contextlib
import ctypes
import struct
import sys
import zlib
from collections.abc import Callable, Iterable
from functools import cache
from random import Random
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import parquet_files
from arrow_files import flights, stream, table_in
from bit_coder import decode_bits, encode_bits
from circuits import any_circuit, any_network
from flac_files import flac_frames
from helpers import bits_of, random_state, weights
from notations import written
from record_arrays import layout_of_records, npy, records
from tables import RECORDS, blocks, broken, fixed_width, json_lines, resealed, table

from densor.codec import registry
from densor.codec.ardm import model as ardm
from densor.codec.audio.coders import CascadeCoder, LaneCoder, cascade_model
from densor.codec.audio.flac_encoder import FlacCoder
from densor.codec.audio.layout import Layout as AudioLayout
from densor.codec.audio.params import FULL, LIGHT
from densor.codec.audio.samples import model_of as audio_model_of
from densor.codec.batch import Batch, Before
from densor.codec.blocks.block import Field
from densor.codec.blocks.encoder import BlocksEncoder, Split
from densor.codec.byte_cm.encoder import ByteCmEncoder
from densor.codec.choose.candidates import encode_batch
from densor.codec.circuit.coding import decode_images, encode_images
from densor.codec.circuit.encoder import CircuitCoder
from densor.codec.circuit.loading import load
from densor.codec.circuit.model import Size, pack, parse, tables_of
from densor.codec.codecs import decoder_for
from densor.codec.deflate.encoder import DeflateCoder
from densor.codec.deflate.stream import PNG, RAW, ZLIB, Stream
from densor.codec.delta import few_params
from densor.codec.delta.few_encoder import FewEncoder
from densor.codec.delta.payload import FEW_CODED, HEAD
from densor.codec.float_cm.encoder import FloatCmEncoder
from densor.codec.history import History
from densor.codec.image.encoder import GradientCoder
from densor.codec.image.encoder import MixingCoder as ImageMixingCoder
from densor.codec.image.layout import Layout
from densor.codec.kind import Data, Kind, kind_of, kind_of_blocks, kind_of_notation
from densor.codec.language_model.session import Session
from densor.codec.levels import level_settings
from densor.codec.notation.encoder import propose as propose_notation
from densor.codec.notation.layout import BASE64, HEX, LATIN, VARINTS, Notation
from densor.codec.pages.encoder import PagesCoder
from densor.codec.planes.encoder import PlanesEncoder
from densor.codec.planes.stages.rans import RANS
from densor.codec.scale_context.encoder import ScaleContextEncoder, low_coder
from densor.codec.sparse.encoder import SparseEncoder
from densor.codec.sparse.payload import Bands
from densor.codec.table.encoder import TableCoder
from densor.codec.table.layout import Layout as TableLayout
from densor.codec.tokens.encoder import TokensEncoder
from densor.codec.tokens.params import Mixed, Parameters, Ranked, RankedMore
from densor.codec.zstd import zstd_compress
from densor.entropy import explicit
from densor.entropy.huffman.code import unpack_lengths
from densor.entropy.huffman.decode import decode_tables
from densor.entropy.rans import encode as rans_encode
from densor.entropy.rans import tables as rans_tables
from densor.entropy.rans.decode import decode as rans_decode
from densor.entropy.rans.decode import decode_table
from densor.errors import DensorError
from densor.formats.container.chunk_decoders import decode_chunk
from densor.formats.io.sources import MemoryRandomSource, MemorySource
from densor.formats.parsers import parquet
from densor.formats.parsers.contents import Head
from densor.formats.parsers.csv import layout_of
from densor.formats.parsers.gguf import BLOCKS
from densor.formats.parsers.tabular import layout_in
from densor.runtime.buffers import POOL
from densor.runtime.workers import Workers
from fuzz.mutate import mutated
from fuzz.target import Target, Wrong

Bytes = npt.NDArray[np.uint8]
MOST_OUT = 1 << 18  # bytes that a chunk is decoded to
_MOST_SEEDS = 60
_GUARD = 64  # bytes before and behind the output, which must stay what they were
_HEAD = struct.Struct("<III")  # bytes of the model, of the output, of the base
_CIRCUIT = any_circuit(Size(4, 5, 1))
_FILLS = (0xA5, 0x3C)
_PLAIN, _LEVEL = level_settings(3), level_settings(9)  # Huffman, and everything else


class Case(NamedTuple):
    """What a decoder is given."""

    model: bytes
    size: int
    base: bytes
    payload: bytes

    def pack(self) -> bytes:
        """As one text of bytes."""
        head = _HEAD.pack(len(self.model), self.size, len(self.base))
        return head + self.model + self.base + self.payload


def unpack(data: bytes) -> Case:
    """Any bytes as a case."""
    model, size, base = _HEAD.unpack(data[: _HEAD.size].ljust(_HEAD.size, b"\0"))
    rest = data[_HEAD.size :]
    model, base = min(model, len(rest)), min(base, len(rest))
    first, behind = rest[:model], rest[model:]
    return Case(first, 1 + size % MOST_OUT, behind[:base], behind[base:])


def _perturb(value: int) -> None:
    """Lets the allocator fill fresh memory with some value, where it can."""
    if sys.platform.startswith("linux") and hasattr(ctypes.CDLL(None), "mallopt"):
        ctypes.CDLL(None).mallopt(-6, value)  # M_PERTURB


def decoded_twice(decode: Callable[[Bytes], None], size: int) -> None:
    """Decodes into memory of two different contents; the result must not depend on it.

    DensorError if the decoder refuses the input, which it then must do both times.
    """
    outcomes: list[bytes | None] = []
    error: DensorError | None = None
    for fill in _FILLS:
        memory = np.full(size + 2 * _GUARD, fill, np.uint8)
        _spoil_pool(fill, size)
        _perturb(fill)
        try:
            decode(memory[_GUARD : _GUARD + size])
            outcomes.append(memory[_GUARD : _GUARD + size].tobytes())
        except DensorError as refused:
            error = refused
            outcomes.append(None)
        finally:
            _perturb(0)
        if (memory[:_GUARD] != fill).any() or (memory[_GUARD + size :] != fill).any():
            raise Wrong("a decoder wrote outside of its output")
    if outcomes[0] != outcomes[1]:
        raise Wrong("what is decoded depends on what was in memory before")
    if error is not None:
        raise error


def _spoil_pool(fill: int, size: int) -> None:
    """Fills what the pool of buffers lends next."""
    if size >= 1 << 15:  # smaller buffers do not come from the pool
        buffers = [POOL.take(count) for count in (size, 2 * size)]
        for buffer in buffers:
            buffer[:] = fill
            POOL.give(buffer)


def run_codec(data: bytes) -> None:
    """Parses a model and decodes a chunk with it."""
    case = unpack(data)
    decoder = decoder_for(case.model, _session())
    number = registry.FIRST_MODEL
    payload = np.frombuffer(case.payload, np.uint8)
    base = MemoryRandomSource(case.base) if case.base else None
    decoded_twice(lambda out: decode_chunk(number, decoder, payload, out, base), case.size)


@cache
def _session() -> Session:
    """With the circuit of the seeds."""
    return Session(image_model=_CIRCUIT)


def run_circuit(data: bytes) -> None:
    """Parses a circuit or network, in place of a model, and decodes one image under it."""
    case = unpack(data)
    network = case.model[:4] == ardm.MAGIC
    tables = load(ardm.parse(case.model) if network else parse(case.model))
    payload = np.frombuffer(case.payload, np.uint8)
    sizes = np.array([payload.size])
    decoded_twice(lambda out: decode_images(tables, payload, sizes, out), tables.size.samples)


def run_fixed(data: bytes) -> None:
    """Chunks without a model: raw and Zstandard, told by the first byte of the model."""
    case = unpack(data)
    number = registry.MODEL_ZSTD if case.model[:1] != b"\0" else registry.MODEL_RAW
    payload = np.frombuffer(case.payload, np.uint8)
    decoded_twice(lambda out: decode_chunk(number, None, payload, out), case.size)


def mutate_case(data: bytes, rng: Random, others: Any) -> bytes:
    """Changes one part of a case, seldom several; parts of others fit in its place."""
    case = unpack(data)
    other = unpack(rng.choice(others)) if others else case
    kind = rng.random()
    if kind < 0.35:
        case = case._replace(model=mutated(case.model, rng, [other.model]))
    elif kind < 0.8:
        case = case._replace(payload=mutated(case.payload, rng, [other.payload]))
    elif kind < 0.86:
        case = case._replace(size=max(1, case.size + rng.choice((-8, -2, -1, 1, 2, 7, 8, 64))))
    elif kind < 0.9:
        case = case._replace(size=rng.randrange(1, MOST_OUT if rng.random() < 0.1 else 5000))
    elif kind < 0.95:
        case = case._replace(model=other.model)
    else:
        case = case._replace(base=mutated(case.base, rng), payload=mutated(case.payload, rng))
    # `unpack` adds 1 to the size, so that it is never 0
    return case._replace(size=case.size - 1).pack()


def mutate_table(data: bytes, rng: Random, others: Any) -> bytes:
    """Changes bytes of a column, with checks that fit again, or anything."""
    if rng.random() < 0.2:
        return mutate_case(data, rng, others)
    case = unpack(data)
    with contextlib.suppress(DensorError):
        for _ in range(rng.choice((1, 1, 2, 4))):
            place, change = rng.randrange(1 << 20), rng.randrange(1, 256)
            payload = resealed(case.model, case.payload, case.size, place, change)
            case = case._replace(payload=payload)
    return case._replace(size=case.size - 1).pack()


# Seeds


def _coded(data: Bytes, kind: Kind, level: int, base: Bytes | None = None) -> list[Case]:
    before = None if base is None else Before(base, 0)
    given = Batch(data, kind, Workers(1), base=before)
    coded = encode_batch(given, level_settings(level)).result()
    behind = b"" if base is None else base.tobytes()
    return _cases(coded.model, [(c.original, c.payload) for c in coded.chunks if c.own], behind)


def _cases(model: bytes | None, chunks: Iterable[tuple[int, Any]], base: bytes = b"") -> list[Case]:
    if model is None:
        return []
    return [Case(model, size - 1, base, bytes(payload)) for size, payload in chunks]


def _with(coder: Any, data: Bytes) -> list[Case]:
    """A batch of one chunk by a certain coder, which counts before or learns on the way."""
    if hasattr(coder, "count"):
        coder.decide([coder.count(data)])
    payload = coder.encode(data, 0)
    return _cases(coder.model(), [(data.size, payload)])


_TYPES = {"BF16": "bf16", "F16": "fp16", "F32": "fp32", "F64": "fp64", "F8_E4M3": "fp8"}


def _numbers() -> list[tuple[str, Bytes, tuple[int, int]]]:
    """Weights of every type and integers of every size: type, bytes, shape."""
    found = []
    for dtype, kind in _TYPES.items():
        for rows, columns in ((6, 70), (1, 300), (40, 33)):
            found.append(
                (dtype, weights(kind, rows, columns).view(np.uint8).ravel(), (rows, columns))
            )
    for dtype, size in (("U8", 1), ("I16", 2), ("U32", 4), ("I64", 8), ("BF16", 2)):
        for content in ("steps", "few_values", "constant", "sparse"):
            bits = bits_of(content, size, 300, random_state("fuzz", dtype, content))
            found.append((dtype, np.ascontiguousarray(bits).view(np.uint8), (3, 100)))
    return found


@cache
def _all_cases() -> list[Case]:
    cases: list[Case] = []
    for dtype, data, shape in _numbers():
        kind = kind_of(dtype, shape)
        for level in (1, 3, 6):
            cases += _coded(data, kind, level)
        if kind.layout is not None:
            cases += _with(PlanesEncoder(RANS, data, kind.layout, 64, _LEVEL, kind.integers), data)
        if kind.data is Data.MATRICES:
            cases += _with(FloatCmEncoder(kind), data)
            low = low_coder(data, kind, _LEVEL)
            cases += _with(ScaleContextEncoder(kind, History(), low, repeats=False), data)
        for bands in (None, Bands(7, 3)):
            cases += _with(SparseEncoder(data, kind, _LEVEL, bands), data)
    cases += [*_of_blocks(), *_of_changes(), *_of_text(), *_of_images()]
    cases += [
        *_of_streams(),
        *_of_pages(),
        *_of_notations(),
        *_of_tables(),
        *_of_sound(),
        *_of_circuits(),
        *_of_tokens(),
    ]
    return list(dict.fromkeys(cases))


def _of_circuits() -> list[Case]:
    data = random_state("fuzz circuits").integers(0, 256, 100, np.uint8)
    data[::3] = 0
    return _with(CircuitCoder(tables_of(_CIRCUIT)), data)


def network_seeds() -> list[bytes]:
    """Networks of several sizes, each with the stream of an image."""
    seeds = []
    for number, size in enumerate((Size(4, 5, 1), Size(3, 3, 3), Size(1, 1, 1))):
        network = any_network(size, min(1 + number, size.samples), number)
        image = random_state("fuzz network", number).integers(0, 256, size.samples, np.uint8)
        stream, _ = encode_images(load(network), image)
        seeds.append(Case(ardm.pack(network), size.samples - 1, b"", stream.tobytes()).pack())
    return seeds


def circuit_seeds() -> list[bytes]:
    """Circuits of several sizes, each with the stream of an image."""
    seeds = []
    for number, size in enumerate((Size(4, 5, 1), Size(3, 3, 3), Size(1, 1, 1))):
        circuit = any_circuit(size, 1 + number, 5, 4, residual=number == 1)
        stream = random_state("fuzz circuit", number).integers(1, 256, size.samples, np.uint8)
        seeds.append(Case(pack(circuit), size.samples - 1, b"", stream.tobytes()).pack())
    return seeds


def _of_blocks() -> list[Case]:
    rng = random_state("fuzz blocks")
    scales = weights("fp16", 1, 90).view(np.uint8).reshape(-1, 2)
    numbers = np.clip(rng.standard_normal((90, 16)) * 25 + 120, 0, 255).astype(np.uint8)
    data = np.concatenate([scales, scales, numbers], axis=1).ravel()
    fields = (Field("F16", 2), Field("F16", 2, 2), Field("U8", 8, 3), Field("U8", 8, 1))
    kind = kind_of_blocks(fields, 5)
    coders = [BlocksEncoder(data, kind, level, data.size) for level in (_PLAIN, _LEVEL)]
    return [case for coder in coders for case in _with(coder, data)] + _of_joined_fields()


def _of_joined_fields() -> list[Case]:
    """Packed elements, with the keys of formats that have scales of their own."""
    cases = []
    for block in BLOCKS.values():
        if any(field.joined for field in block.fields):
            size = 6 * sum(field.size for field in block.fields)
            data = random_state("fuzz joined", block.name).integers(0, 256, size).astype(np.uint8)
            kind = kind_of_blocks(block.fields, 3)
            way = Split(kind, size, together=True)
            cases += _with(BlocksEncoder(data, kind, _LEVEL, size, way), data)
    return cases


def _of_changes() -> list[Case]:
    cases = []
    for dtype, data, shape in _numbers():
        changed = data.copy()
        changed[:: max(1, data.size // 60)] ^= 1
        near = data + np.uint8(1)
        for new in (changed, data, near):
            cases += _coded(new, kind_of(dtype, shape), 3, data)
    return cases + [
        case
        for size, dtype in ((1, "I8"), (2, "BF16"), (4, "F32"), (8, "F64"))
        for case in _of_few(size, dtype)
    ]


def _of_few(size: int, dtype: str) -> list[Case]:
    """Few elements that differ, also by much."""
    old = random_state("fuzz few", dtype).integers(0, 200, 900 * size).astype(np.uint8)
    new = old.copy()
    new[:: 23 * size] += 1
    new[size - 1 :: 211 * size] ^= 0x81
    encoder = FewEncoder(dtype, size)
    part = encoder.survey(new, old)
    assert part is not None
    encoder.fit([part])
    encoder.record(part)
    model = few_params.pack(encoder.decide())
    payload = HEAD.pack(0, FEW_CODED) + encoder.code(part)
    return _cases(model, [(new.size, payload)], old.tobytes())


def _of_text() -> list[Case]:
    texts = (b"a text that repeats itself, " * 12, bytes(300), bytes(range(64)) * 6)
    cases: list[Case] = []
    for data in (np.frombuffer(text, np.uint8) for text in texts):
        for coder in (ByteCmEncoder(data), ByteCmEncoder(data, light=True)):
            cases += _with(coder, data)
    return cases


def _of_images() -> list[Case]:
    y, x = np.mgrid[:24, :30]
    cases: list[Case] = []
    for channels, size in ((1, 1), (3, 1), (4, 1), (1, 2), (3, 2)):
        noise = random_state("fuzz images", channels, size).integers(0, 9, (24, 30, channels))
        samples = (noise + (x * y)[..., None] // 4).astype(f"<u{size}")
        data = np.ascontiguousarray(samples).view(np.uint8).ravel()
        layout = Layout(30, channels, size)
        cases += _with(GradientCoder(layout, data), data)
        cases += _with(ImageMixingCoder(layout, data, 12, 8), data)
        cases += _with(ImageMixingCoder(layout, data // 9 * 9, 2, 1), data // 9 * 9)
        cases += _with(ImageMixingCoder(layout, data, 0, 2), data)
    return cases


def _of_streams() -> list[Case]:
    rows = np.zeros((20, 31), np.uint8)
    rows[:, 0] = np.arange(20) % 5
    rows[:, 1:] = random_state("fuzz streams").integers(0, 4, (20, 30))
    text = b"a text that repeats itself, " * 12
    cases: list[Case] = []
    for form, raw in ((RAW, text), (ZLIB, text), (PNG, rows.tobytes())):
        for level, strategy, memory in ((1, 0, 8), (6, 1, 9), (9, 0, 1), (6, 2, 8), (6, 3, 8)):
            zlib_made = zlib.compressobj(
                level, zlib.DEFLATED, -15 if form == RAW else 15, memory, strategy
            )
            made = zlib_made.compress(raw) + zlib_made.flush()
            if form == PNG:
                made = b"".join(_idat(made[i : i + 50]) for i in range(0, len(made), 50))
            stream = Stream(PNG, 30, 3, Layout(10, 3)) if form == PNG else Stream(form)
            data = np.frombuffer(made, np.uint8)
            cases += _with(DeflateCoder(stream, _PLAIN), data)
            cases += _with(DeflateCoder(stream, _LEVEL), data)
    return cases


def _of_pages() -> list[Case]:
    cases: list[Case] = []
    for codec, version, other in ((0, 1, False), (1, 2, False), (1, 1, True)):
        columns = parquet_files.flights(70)
        data = parquet_files.file(columns, codec, 30, 70, version, other=other)
        head = Head(MemorySource(data), len(data), MemoryRandomSource(data), "a")
        found = parquet.find(head)
        assert found is not None
        for stretch in found.stretches:
            assert stretch.pages is not None
            made = np.frombuffer(data, np.uint8)[stretch.offset : stretch.offset + stretch.size]
            for level in (_PLAIN, _LEVEL):
                cases += _with(PagesCoder(stretch.pages, level, Workers(1)), made)
    return cases


def _of_notations() -> list[Case]:
    """Every form, of elements whose model is another one each, with other bytes between."""
    rng = np.random.default_rng(19)
    values = (rng.standard_normal(1500) * 0.02).astype(np.float32)
    cases: list[Case] = []
    for form, option, dtype, array in (
        (VARINTS, 0, "F16", values.astype(np.float16)),
        (VARINTS, 1, "I8", (values * 1000).astype(np.int8)),
        (VARINTS, 1, "I64", rng.integers(-3, 900, 700)),
        (VARINTS, 0, "U8", (values > 0.04).astype(np.uint8)),
        (LATIN, 0, "F32", values),
        (BASE64, 1, "F32", values),
        (HEX, 0, "", values),
    ):
        kind = kind_of_notation(Notation(form, option, dtype, array.shape))
        data = np.frombuffer(written(array, form, option), np.uint8)
        lines = [b"a text" + data[i : i + 900].tobytes() for i in range(0, data.size, 900)]
        made = np.frombuffer(b"".join(lines), np.uint8)
        for level in (_PLAIN, _LEVEL):
            coded = propose_notation(Batch(made, kind, Workers(1)), level).encode().result()
            if coded.model is not None:
                chunk = coded.chunks[0]
                cases.append(Case(coded.model, chunk.original - 1, b"", bytes(chunk.payload)))
    return cases


def _idat(piece: bytes) -> bytes:
    body = b"IDAT" + piece
    return len(piece).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")


def _of_tables() -> list[Case]:
    cases: list[Case] = []
    for text in (table(40), broken(table(90), 8), RECORDS["times"], RECORDS["numbers"]):
        layout = layout_of(text.split(b"\n"))
        assert layout is not None
        for level in (3, 5, 9):
            coder = TableCoder(layout, level_settings(level))
            cases += _with(coder, np.frombuffer(text, np.uint8))
    for text in (json_lines(60), fixed_width(70)):
        layout = layout_in(text, True)
        assert layout is not None
        cases += _with(TableCoder(layout, level_settings(5)), np.frombuffer(text, np.uint8))
    array = records(60)
    layout = layout_of_records(npy(array))
    for level in (3, 5, 9):
        coder = TableCoder(layout, level_settings(level))
        cases += _with(coder, array.view(np.uint8).reshape(-1))
    data, layout = table_in(stream(*flights(40, 2)))
    for level in (3, 5, 9):
        cases += _with(TableCoder(layout, level_settings(level)), data)
    latent = TableCoder(TableLayout(14), level_settings(3, latents=True))
    cases += _with(latent, np.frombuffer(blocks(80), np.uint8))
    return cases


def _of_sound() -> list[Case]:
    cases: list[Case] = []
    for channels, size in ((1, 1), (2, 2), (6, 2), (2, 3), (1, 4)):
        noise = random_state("fuzz sound", channels, size).integers(0, 99, (300, channels))
        samples = (noise * np.arange(300)[:, None] // 9).astype("<i8") << (7 * (size - 1))
        data = np.ascontiguousarray(samples[..., None].view(np.uint8)[..., :size]).ravel()
        model = audio_model_of(AudioLayout(channels, size), data)
        assert model is not None
        cases += _with(LaneCoder(model), data)
        for setting in (LIGHT, FULL):
            adaptive = cascade_model(model, setting)
            if adaptive is not None:
                cases += _with(CascadeCoder(adaptive), data)
    return cases + _of_flac()


def _of_flac() -> list[Case]:
    cases: list[Case] = []
    for channels, depth, level in ((1, 16, 3), (2, 16, 5), (2, 24, 3), (3, 8, 3), (2, 12, 3)):
        layout = AudioLayout(channels, (depth + 7) // 8)
        frames = flac_frames(Random(f"fuzz {channels} {depth}"), channels, depth)
        data = np.frombuffer(frames, np.uint8)
        cases += _with(FlacCoder(layout, depth, level_settings(level)), data)
    return cases


def _of_tokens() -> list[Case]:
    cases: list[Case] = []
    noise = random_state("fuzz tokens").integers(0, 40, 900)
    tokens = (noise * noise % 37 + 4000 * (noise % 3)).astype(np.uint32)
    for size, rows in ((2, 1), (4, 1), (2, 3), (4, 30)):
        coder = TokensEncoder(Parameters(size, 4, 8, rows, 30 if rows > 1 else 0))
        cases += _with(coder, tokens.astype(f"<u{size}").view(np.uint8))
    for method in (Mixed, Ranked, RankedMore):
        for size, streams in ((2, 1), (4, 3)):
            coder = TokensEncoder(method(size, 4, 8, 9, streams))
            cases += _with(coder, tokens.astype(f"<u{size}").view(np.uint8))
    return cases


def seeds_of(codec: int) -> Callable[[], list[bytes]]:
    """Cases of a codec by its number."""
    return lambda: [case.pack() for case in _all_cases() if case.model[0] == codec][:_MOST_SEEDS]


def fixed_seeds() -> list[bytes]:
    """Zstandard frames and raw bytes."""
    texts = [b"a text that repeats itself, " * 12, bytes(900)]
    cases = [
        Case(b"\1", len(text) - 1, b"", zstd_compress(text, level))
        for text in texts
        for level in (1, 9, 19)
    ]
    return [case.pack() for case in [*cases, Case(b"\0", len(texts[0]) - 1, b"", texts[0])]]


# Entropy coders alone


def run_rans(data: bytes) -> None:
    """Frequencies, and a stream under contexts; the model holds the number of contexts first."""
    case = unpack(data)
    contexts = 1 + case.model[0] % 20 if case.model else 1
    freqs, taken = rans_tables.unpack(np.frombuffer(case.model, np.uint8)[1:], contexts)
    if not 0 <= taken < len(case.model):
        raise Wrong("frequencies take more bytes than there are")
    if not np.isin(freqs.sum(axis=1), (0, rans_tables.ONE)).all():
        raise Wrong("frequencies do not add up")
    table = decode_table(freqs)
    stream = np.frombuffer(case.payload, np.uint8)
    which = np.resize(np.frombuffer(case.base or b"\0", np.uint8) % np.uint8(contexts), case.size)
    decoded_twice(lambda out: rans_decode(table, stream, which, out), case.size)


def rans_seeds() -> list[bytes]:
    """One to several contexts, even and uneven."""
    cases = []
    rng = random_state("fuzz rans")
    for contexts, size, spread in ((1, 500, 3), (4, 900, 9), (20, 300, 40), (2, 33, 1)):
        which = np.resize(np.arange(contexts, dtype=np.uint8), size)
        symbols = np.clip(rng.standard_normal(size) * spread + 128, 0, 255).astype(np.uint8)
        counts = np.zeros((contexts, 256), np.int64)
        np.add.at(counts, (which, symbols), 1)
        freqs = rans_tables.quantise(counts)
        stream = rans_encode.encode(symbols, which, freqs)
        model = bytes([contexts - 1]) + rans_tables.pack(freqs)
        cases.append(Case(model, size - 1, which.tobytes(), bytes(stream)))
    return [case.pack() for case in cases]


def run_huffman(data: bytes) -> None:
    """Code lengths of a model, and the tables that decoding takes symbols from."""
    lengths = np.zeros((1, 256), np.uint8)
    count = 2 + data[0] % 255 if data else 2
    packed = np.frombuffer(data[1 : 1 + (count + 1) // 2], np.uint8)
    if packed.size < (count + 1) // 2:
        return
    unpack_lengths(packed, lengths[0, :count])
    kraft = sum(1 << 12 - int(length) for length in lengths[0] if length)
    if kraft != 1 << 12 or int(lengths.max()) > 12:
        raise Wrong("code lengths are accepted that form no complete code")
    decode_tables(lengths)


def huffman_seeds() -> list[bytes]:
    """Codes of 2 to 256 symbols."""
    even = bytes([254]) + b"\x88" * 128  # 256 symbols of 8 bits
    return [even, bytes([0, 0x11]), bytes([2, 0x21, 0x33]), bytes([14]) + b"\x44" * 8]


def run_arithmetic(data: bytes) -> None:
    """Bits under probabilities that the input gives as well."""
    case = unpack(data)
    model = case.model[: len(case.model) // 2 * 2] or b"\1\0"
    probabilities = np.maximum(np.resize(np.frombuffer(model, "<u2"), case.size), 1)
    payload = np.frombuffer(case.payload, np.uint8)
    bits = decode_bits(payload, probabilities)
    if (bits > 1).any():
        raise Wrong("bits other than 0 and 1")


def arithmetic_seeds() -> list[bytes]:
    """Likely and unlikely bits."""
    rng = random_state("fuzz arithmetic")
    cases = []
    for size, low in ((40, 20000), (900, 1), (3000, 60000)):
        probabilities = rng.integers(low, 65536, size).astype(np.uint16)
        bits = (rng.integers(0, 65536, size) < probabilities).astype(np.uint8)
        coded = encode_bits(bits, probabilities)
        cases.append(Case(probabilities.tobytes(), size - 1, b"", coded.tobytes()))
    return [case.pack() for case in cases]


def run_explicit(data: bytes) -> None:
    """Symbols under distributions that the caller gives; the words are hostile."""
    case = unpack(data)
    count = 1 + case.size % 500
    words = np.frombuffer(case.payload[: len(case.payload) // 4 * 4], np.uint32)
    if case.model[:1] == b"\0":
        means, stds = np.linspace(-9, 9, count), np.linspace(0.1, 30, count)
        symbols = explicit.decode_normal(words, means, stds, -100, 100)
        if symbols.size != count or int(abs(symbols).max()) > 100:
            raise Wrong("symbols outside of their range")
        return
    rows = np.tile(np.linspace(1, 5, 7), (count, 1))
    symbols = explicit.decode_categorical(words, rows)
    if symbols.size != count or not 0 <= int(symbols.min()) <= int(symbols.max()) <= 6:
        raise Wrong("symbols outside of their range")


def explicit_seeds() -> list[bytes]:
    """Words of both kinds of distributions."""
    count = 101  # of a case of size 100
    rng = random_state("fuzz explicit")
    near = np.clip(rng.standard_normal(count) * 9, -100, 100).astype(np.int32)
    normal = explicit.encode_normal(
        near, np.linspace(-9, 9, count), np.linspace(0.1, 30, count), -100, 100
    )
    few = rng.integers(0, 7, count).astype(np.int32)
    categorical = explicit.encode_categorical(few, np.tile(np.linspace(1, 5, 7), (count, 1)))
    words = ((b"\0", normal), (b"\1", categorical))
    return [Case(kind, 99, b"", found.tobytes()).pack() for kind, found in words]


def _codec(name: str, number: int, **limits: int) -> Target:
    return Target(name, run_codec, seeds_of(number), mutate_case, **limits)


_BIG = {"most_memory": 1 << 25}
TARGETS = (
    _codec("planar", registry.CODEC_PLANES_HUFFMAN, **_BIG),
    _codec("scales", registry.CODEC_SCALE_CONTEXT, **_BIG),
    _codec("mixing", registry.CODEC_FLOAT_CM, **_BIG),
    _codec("fields", registry.CODEC_BLOCKS, **_BIG),
    _codec("sparse", registry.CODEC_SPARSE, **_BIG),
    _codec("change", registry.CODEC_DELTA, **_BIG),
    _codec("planes", registry.CODEC_PLANES_RANS, **_BIG),
    _codec("text", registry.CODEC_BYTE_CM, most_memory=1 << 26),
    _codec("image", registry.CODEC_IMAGE, most_memory=1 << 28),
    _codec("deflate", registry.CODEC_DEFLATE, most_memory=1 << 28),
    _codec("pages", registry.CODEC_PAGES, most_memory=1 << 28),
    _codec("notation", registry.CODEC_NOTATION, most_memory=1 << 28),
    Target("table", run_codec, seeds_of(registry.CODEC_TABLE), mutate_table, most_memory=1 << 28),
    _codec("tokens", registry.CODEC_TOKENS, most_memory=1 << 28),
    _codec("token ranks", registry.CODEC_TOKEN_RANKS, most_memory=1 << 28),
    _codec("more token ranks", registry.CODEC_TOKEN_RANKS_MORE, most_memory=1 << 28),
    _codec("images", registry.CODEC_CIRCUIT, **_BIG),
    Target("circuit", run_circuit, circuit_seeds, mutate_case, most_memory=1 << 28),
    Target("network", run_circuit, network_seeds, mutate_case, most_memory=1 << 28),
    _codec("audio", registry.CODEC_AUDIO, most_memory=1 << 26),
    Target("zstd", run_fixed, fixed_seeds, mutate_case, **_BIG),
    Target("rans", run_rans, rans_seeds, mutate_case),
    Target("huffman", run_huffman, huffman_seeds),
    Target("arithmetic", run_arithmetic, arithmetic_seeds, mutate_case),
    Target("explicit", run_explicit, explicit_seeds, mutate_case),
)
