"""The table of codecs, and what holds for all of them."""

import ast
import importlib.util
from pathlib import Path

import numpy as np
import pytest

import densor
from densor.codec import registry
from densor.codec.batch import Batch, Before
from densor.codec.blocks.block import Field
from densor.codec.choose.candidates import encode_batch
from densor.codec.choose.sizes import batch_bytes, chunk_bytes
from densor.codec.codecs import CODECS, Codec
from densor.codec.history import MAX_KEPT, History
from densor.codec.interfaces import BaseDecoder
from densor.codec.kind import BYTES, Data, Kind, kind_of, kind_of_blocks
from densor.codec.levels import level_settings
from densor.formats.container import wire
from densor.formats.container.chunk_decoders import decode_chunk
from densor.formats.io.sources import MemoryRandomSource
from densor.runtime.workers import Workers

PACKAGE = Path(densor.__file__).parent


@pytest.mark.parametrize("codec", CODECS.values(), ids=lambda codec: codec.name)
def test_every_codec_has_what_its_record_says(codec: Codec) -> None:
    assert CODECS[codec.number] is codec
    assert all((PACKAGE.parent / path).is_file() for path in codec.specification)
    assert callable(importlib.import_module(codec.encoder).propose)
    with pytest.raises(densor.DensorError):
        codec.open_decoder(bytes([codec.number]))


def test_names_are_unique() -> None:
    for names in ([c.name for c in CODECS.values()], [c.about for c in CODECS.values()]):
        assert len(set(names)) == len(CODECS)


def test_size_of_a_frame_is_that_of_the_container() -> None:
    assert wire.FRAME_SIZE == registry.FRAME_SIZE
    assert len(wire.pack_frame(wire.MODEL, b"")) == registry.FRAME_SIZE


def imported(module: str) -> set[str]:
    """Modules of the codecs that a module imports when it is imported."""
    path = PACKAGE.joinpath(*module.split(".")[1:])
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{name.name}" for name in node.names}
    return {
        name
        for name in found
        if name.startswith("densor.codec.")
        and importlib.util.find_spec(name.rpartition(".")[0]) is not None
        and PACKAGE.joinpath(*name.split(".")[1:]).with_suffix(".py").is_file()
    }


def reached(module: str) -> set[str]:
    """All that it imports, directly or not."""
    found: set[str] = set()
    waiting = [module]
    while waiting:
        for name in imported(waiting.pop()) - found:
            found.add(name)
            waiting.append(name)
    return found


def test_the_two_sides_do_not_import_each_other() -> None:
    encoders = {codec.encoder for codec in CODECS.values()}
    decoders = {codec.decoder for codec in CODECS.values()}
    for encoder in encoders:
        assert not [name for name in reached(encoder) if name.endswith("decoder")], encoder
    for decoder in decoders:
        names = reached(decoder)
        coding = [one for one in names if one.endswith("encoder") or ".choose" in one]
        assert not coding, decoder


def test_kinds_of_data() -> None:
    kinds: dict[Kind, Data] = {
        BYTES: Data.BYTES,
        kind_of("I16", (30, 40)): Data.ELEMENTS,
        kind_of("F64", (30, 40)): Data.ELEMENTS,
        kind_of("BF16", (30, 40)): Data.MATRICES,
        kind_of_blocks((Field("F16", 2), Field("U8", 16)), 40): Data.BLOCKS,
    }
    for kind, data in kinds.items():
        assert kind.data is data
        for level in range(1, 10):
            size = chunk_bytes(kind, level_settings(level))
            assert 0 < size <= 1 << 24 and size % kind.unit == 0
            assert batch_bytes(kind, level_settings(level)) % size == 0


def coded(data: bytes, kind: Kind, level: int, threads: int, base: bytes | None) -> list[bytes]:
    """Parameters and payloads of a batch, which are decoded and compared."""
    array = np.frombuffer(data, np.uint8)
    before = None if base is None else Before(np.frombuffer(base, np.uint8), 0)
    batch = Batch(array, kind, Workers(threads), base=before)
    found = encode_batch(batch, level_settings(level)).result()
    decoder = None if found.model is None else CODECS[found.model[0]].open_decoder(found.model)
    source = None if base is None else MemoryRandomSource(base)
    parts = []
    for chunk in found.chunks:
        out = np.empty(chunk.original, np.uint8)
        number = registry.FIRST_MODEL if chunk.own else chunk.model
        payload = np.frombuffer(bytes(chunk.payload), np.uint8)
        decode_chunk(number, decoder if chunk.own else None, payload, out, source)
        parts.append(out.tobytes())
    assert b"".join(parts) == data
    assert isinstance(decoder, BaseDecoder) == (decoder is not None and base is not None)
    assert found.stored == sum(28 + len(c.payload) for c in found.chunks) + (
        0 if found.model is None else 28 + len(found.model)
    )
    return [found.model or b"", *(bytes(chunk.payload) for chunk in found.chunks)]


@pytest.mark.parametrize("level", [1, 3, 6, 9])
@pytest.mark.parametrize("based", [False, True])
def test_any_kind_at_any_level_in_any_number_of_threads(level: int, based: bool) -> None:
    rng = np.random.default_rng(level)
    for dtype in ("F32", "BF16", "I16", "U8"):
        numbers = (rng.standard_normal((64, 96)) * 100).astype(np.float32)
        data = numbers.tobytes() if dtype == "F32" else numbers.astype(np.int16).tobytes()
        base = bytes(data[:-1]) + bytes([data[-1] ^ 1]) if based else None
        kind = kind_of(dtype, (64, 96))
        one = coded(data, kind, level, 1, base)
        assert one == coded(data, kind, level, 3, base)
        assert not based or one[0][0] == registry.CODEC_DELTA


def test_history_forgets_the_oldest() -> None:
    history = History()
    assert history.kept("a") == ()
    for number in range(MAX_KEPT + 3):
        history.keep("a", number)
    history.keep("b", "other")
    assert history.kept("a") == tuple(range(3, MAX_KEPT + 3))
    assert history.kept("b") == ("other",)
