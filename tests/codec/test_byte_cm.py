"""The text codec: round trips, size, damage, and the slow decoder written from its text."""

import contextlib
import io
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from helpers import MODEL, random_state, safetensors_bytes, take_apart
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy._core import _multiarray_umath
from reference import byte_cm as reference_byte_cm
from reference.reading import Refused

import densor
from densor.codec.byte_cm import params as text
from densor.codec.byte_cm.decoder import ByteCmDecoder
from densor.codec.byte_cm.encoder import ByteCmEncoder, full_model
from densor.codec.byte_cm.params import Parameters, pack, parse
from densor.codec.byte_cm.segment import Segment, code_whole, coded
from densor.codec.byte_cm.states import states
from densor.codec.zstd import zstd_compress
from densor.errors import DensorError, FormatError, LimitError
from densor.runtime import memory as memory_module

Bytes = npt.NDArray[np.uint8]
ALL_CONTEXTS = (1 << 18) - 1
MODELS = {
    "text": full_model(np.full(1, 65, np.uint8)),
    "binary": full_model(np.zeros(1, np.uint8)),
    "light": parse(ByteCmEncoder(np.empty(0, np.uint8), light=True).model()),
    "everything": Parameters(ALL_CONTEXTS, 6, 16),
    "least": Parameters(1 << 17, 1, 12),
}
LIBRARY = Path(_multiarray_umath.__file__).read_bytes()
SOURCE = Path(__file__).read_bytes()
PROSE = (
    "“Grüße,” said the cat — it was the best of times, it was the worst of times; "
    "and the cat said: “das ist naïve, 日本語 and Ελληνικά!”\n"
).encode()


def table_rows() -> bytes:
    rng = random_state("csv")
    numbers = rng.integers(0, 1000, (400, 4))
    rows = (f"{i},{a / 10:.1f},station {b % 7},{c}" for i, (a, b, c, _) in enumerate(numbers))
    return ("id,value,place,count\n" + "\n".join(rows)).encode()


CONTENTS = {
    "empty": b"",
    "one byte": b"x",
    "two equal": b"\0\0",
    "all bytes": bytes(range(256)) * 3,
    "utf-8": PROSE * 3,
    "source": SOURCE[:3000],
    "csv": table_rows()[:3000],
    "json": b'{"name": "layer.%d", "shape": [64, 64]},\n' * 60,
    "random": random_state("text").bytes(1500),
    "executable": LIBRARY[len(LIBRARY) // 2 :][:3000],
    "long match": (PROSE + SOURCE[:600]) * 3,
    "newlines": b"\n" * 500 + b"a\n\nb" * 100,
}


def as_array(data: bytes) -> Bytes:
    return np.frombuffer(data, np.uint8)


def stream_of(model: Parameters, data: bytes) -> Bytes:
    """The arithmetic stream, even where it is longer than what it stands for."""
    room = np.empty(2 * len(data) + 64, np.uint8)
    return room[: code_whole(True, model, room, as_array(data).copy())]


def decoded(model: Parameters, payload: Bytes, size: int) -> bytes:
    out = np.full(size, 0xA5, np.uint8)
    ByteCmDecoder(model).decode(payload, out)
    return out.tobytes()


@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("name", MODELS)
def test_round_trip(name: str, content: str) -> None:
    data, model = CONTENTS[content], MODELS[name]
    payload = stream_of(model, data)
    assert decoded(model, payload, len(data)) == data
    assert payload.tobytes() == stream_of(model, data).tobytes()


@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("name", ["text", "light", "everything"])
def test_the_text_is_enough_to_write_a_decoder(name: str, content: str) -> None:
    data, model = CONTENTS[content][:150], MODELS[name]
    payload = stream_of(model, data).tobytes()
    assert reference_byte_cm.decode(pack(model), payload, len(data)) == data


@pytest.mark.parametrize(("name", "size"), [("light", 500), ("text", 120), ("everything", 60)])
def test_histories_and_matches_as_the_text_has_them(name: str, size: int) -> None:
    data = (SOURCE[:size] + b"\n") * 2 + SOURCE[: 2 * size]
    model = MODELS[name]
    payload = stream_of(model, data).tobytes()
    assert reference_byte_cm.decode(pack(model), payload, len(data)) == data


@given(st.binary(max_size=50), st.integers(1, ALL_CONTEXTS), st.integers(1, 6))
@settings(max_examples=20, deadline=None)
def test_any_bytes_under_any_model(data: bytes, contexts: int, sets: int) -> None:
    model = Parameters(contexts, sets, 12)
    payload = stream_of(model, data)
    assert decoded(model, payload, len(data)) == data
    assert reference_byte_cm.decode(pack(model), payload.tobytes(), len(data)) == data


def test_states_are_those_of_the_text() -> None:
    found = states()
    assert len(reference_byte_cm.PAIRS) <= 256
    assert list(zip(found.zeros, found.ones, strict=True)) == [
        (a, b) for a, b, _ in reference_byte_cm.PAIRS
    ]
    for state in range(len(reference_byte_cm.PAIRS)):
        for bit in range(2):
            assert found.after[2 * state + bit] == reference_byte_cm.state_after(state, bit)
    meanings = [reference_byte_cm.first_meaning(s) for s in range(len(reference_byte_cm.PAIRS))]
    assert [int(p) >> 10 for p in text._first_state_maps()[: len(meanings)]] == meanings


def test_tables_are_those_of_the_text() -> None:
    tables = text.tables()
    assert tables.squash.tolist() == reference_byte_cm.SQUASH
    assert tables.stretch.tolist() == reference_byte_cm.STRETCH
    assert tables.rate.tolist() == reference_byte_cm.RATE


def test_pieces_of_any_size_make_the_same_stream() -> None:
    data = as_array(SOURCE).copy()
    model = MODELS["text"]
    whole = coded(model, data)
    room = np.empty(data.size, np.uint8)
    pieces = Segment(model, data.copy())
    pieces.start(True, room)
    for end in (1, 2, 900, data.size):
        pieces.code(end)
    assert room[: pieces.finish()].tobytes() == whole.tobytes()


def test_size_against_zstandard() -> None:
    """What the model is for: far below a strong classic compressor on each kind of content."""
    for name, limit in (("source", 0.9), ("csv", 0.8), ("executable", 0.99)):
        data = CONTENTS[name]
        size = coded(full_model(as_array(data)), as_array(data)).size
        assert size < limit * len(zstd_compress(data, 19)), name
    data = as_array(SOURCE)
    light = ByteCmEncoder(data, light=True)
    sizes = [coded(full_model(data), data).size, light.encode(data, 0).size]
    assert sizes[0] < sizes[1] < 0.9 * len(zstd_compress(data, 19))


def packed(data: bytes, level: int, text: bool = False) -> bytes:
    out = io.BytesIO()
    densor.compress_file(io.BytesIO(data), out, level, 1, text=text)
    return out.getvalue()


def codecs(archive: bytes) -> set[int]:
    return {frame.payload[0] for frame in take_apart(archive) if frame.kind == MODEL}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"x",
        SOURCE,
        PROSE * 40,
        bytes(1_000_000),
        random_state("more").bytes(40_000),
        random_state("twice").bytes(20_000) * 2,
    ],
    ids=["empty", "one", "source", "prose", "zeros", "random", "repeated"],
)
@pytest.mark.parametrize("level", [5, 9])
def test_archives_are_never_clearly_larger_than_zstandard(data: bytes, level: int) -> None:
    archive = packed(data, level)
    assert densor.decompress(archive) == data
    assert len(archive) <= min(len(zstd_compress(data, 19)) * 1.005, len(data)) + 500
    assert archive == packed(data, level)


def test_when_the_model_is_used() -> None:
    assert codecs(packed(SOURCE, 9)) == {9}
    assert codecs(packed(SOURCE, 5)) == {9}
    assert codecs(packed(SOURCE, 3)) == set()
    assert codecs(packed(SOURCE, 1, text=True)) == {9}
    assert len(packed(SOURCE, 1, text=True)) == len(packed(SOURCE, 9))
    for little in (SOURCE[:4000], bytes(100_000), random_state("r").bytes(100_000)):
        assert codecs(packed(little, 9)) == set()


@pytest.mark.parametrize(("level", "expected"), [(5, set()), (9, {9})])
def test_what_stands_beside_tensors_is_as_fast_as_they_are(level: int, expected: set[int]) -> None:
    noise = random_state("beside").bytes(5000)
    file = safetensors_bytes({"t": ("U8", [5000], noise)}, {"vocabulary": SOURCE.decode()})
    archive = packed(file, level)
    assert codecs(archive) & {9} == expected
    assert densor.decompress(archive) == file


MODEL_BYTES = pack(MODELS["least"])


@pytest.mark.parametrize(
    ("payload", "error"),
    [
        (MODEL_BYTES[:-1], FormatError),
        (MODEL_BYTES + b"\0", FormatError),
        (struct.pack("<BBBBI", 9, 11, 1, 0, 1), FormatError),
        (struct.pack("<BBBBI", 9, 0, 1, 0, 1), FormatError),
        (struct.pack("<BBBBI", 9, 29, 1, 0, 1), LimitError),
        (struct.pack("<BBBBI", 9, 255, 1, 0, 1), LimitError),
        (struct.pack("<BBBBI", 9, 12, 0, 0, 1), FormatError),
        (struct.pack("<BBBBI", 9, 12, 7, 0, 1), FormatError),
        (struct.pack("<BBBBI", 9, 12, 1, 1, 1), FormatError),
        (struct.pack("<BBBBI", 9, 12, 1, 0, 0), FormatError),
        (struct.pack("<BBBBI", 9, 12, 1, 0, 1 << 18), FormatError),
    ],
)
def test_hostile_models(payload: bytes, error: type[DensorError]) -> None:
    with pytest.raises(error):
        parse(payload)
    with pytest.raises(Refused):
        reference_byte_cm.parse_model(payload)


def test_table_is_no_larger_than_the_segment_needs() -> None:
    """So that small hostile chunks cannot ask for much memory, or for the time to clear it."""
    model = Parameters(1, 1, 28)
    assert model.table_bits(0) == model.table_bits(1) == 12
    assert model.table_bits(1 << 14) == 22
    assert model.table_bits(1 << 24) == 28


def test_segment_that_is_too_long() -> None:
    with pytest.raises(LimitError):
        ByteCmDecoder(MODELS["least"]).decode(
            np.zeros(8, np.uint8), np.empty((1 << 24) + 1, np.uint8)
        )


@pytest.mark.parametrize("name", MODELS)
def test_damaged_streams(name: str) -> None:
    """A fault, or other bytes; never a crash, and never the right bytes from a wrong length."""
    data, model = SOURCE[:1200], MODELS[name]
    payload = stream_of(model, data)
    rng = random_state("damage", name)
    for cut in (0, 1, 3, 4, payload.size // 2, payload.size - 1):
        with pytest.raises(FormatError):
            decoded(model, payload[:cut], len(data))
    with pytest.raises(FormatError):
        decoded(model, np.append(payload, np.uint8(0)), len(data))
    for at in rng.integers(0, payload.size - 4, 12):
        broken = payload.copy()
        broken[at] ^= 1 << int(rng.integers(8))
        with contextlib.suppress(FormatError):
            assert decoded(model, broken, len(data)) != data
    noise = as_array(rng.bytes(300))
    for size in (1, 300, 4000):
        with contextlib.suppress(FormatError):
            decoded(model, noise, size)


def test_segments_wait_for_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_module, "_most_memory", lambda: 100)
    memory = memory_module.Memory()
    order = []
    with ThreadPoolExecutor(1) as pool, memory.borrowed(60), memory.borrowed(40):

        def third() -> None:
            with memory.borrowed(10):
                order.append("third")

        waiting = pool.submit(third)
        with pytest.raises(TimeoutError):
            waiting.result(0.05)
        order.append("first")
    waiting.result(5)
    with memory.borrowed(10**9):  # nobody else has any
        assert order == ["first", "third"]


def test_segments_in_several_threads() -> None:
    data = SOURCE * 3
    for threads in (1, 4):
        out = io.BytesIO()
        densor.compress_file(io.BytesIO(data), out, 9, threads)
        assert out.getvalue() == packed(data, 9)
        restored = io.BytesIO()
        densor.decompress_file(io.BytesIO(out.getvalue()), restored, threads)
        assert restored.getvalue() == data
