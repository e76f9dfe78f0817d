"""Large indexes: the compiled scan gives what the parser of JSON gives, or leaves it to that."""

import io
import json
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import densor
from densor.codec.zstd import zstd_compress
from densor.errors import ChecksumError, DensorError, LimitError
from densor.formats.container import index, index_scan, wire
from densor.formats.container.frames import Frame
from densor.formats.container.listed_entries import Entries
from densor.formats.container.listing import packed_index
from densor.formats.io.sources import MemoryRandomSource

COUNT = 600
CUTS = 400


def archive_of(**named: Any) -> bytes:
    """Entries that are tensors of three forms; files too, where some are `named`."""
    values = np.random.default_rng(1).standard_normal((COUNT, 96), np.float32)
    file = io.BytesIO()
    with densor.Writer(file, 1) as writer:
        for number, value in enumerate(values):
            writer.add_tensor(f"layer.{number}.é", value[: (64, 80, 96)[number % 3]])
        for name, shape in named.items():
            writer.add_tensor(name, np.zeros(shape, np.float32))
    return file.getvalue()


def file_of(count: int = COUNT) -> bytes:
    tensors = {f"t{n}": np.full((n % 5, 3), n, np.float32) for n in range(count)}
    return densor.save(tensors, level=1)


def index_of(archive: bytes) -> tuple[bytes, int]:
    """The JSON of an index, and where it stands."""
    frame = index.find_index(MemoryRandomSource(archive), wire.CHUNK_LIMIT)
    return index._text(frame, None), frame.offset


def read(text: bytes, at: int, monkeypatch: pytest.MonkeyPatch, least: int) -> Any:
    """An index, or the kind of the error: scanned from `least` bytes on."""
    header = wire.FrameHeader(wire.INDEX, 0, len(text), 0, 0)
    payload = np.frombuffer(zstd_compress(text, 1), np.uint8)
    monkeypatch.setattr(index, "LEAST", least)
    try:
        frames, entries = index.read_index(Frame(header, payload, at, payload))
    except DensorError as error:
        return type(error)
    return [column.tolist() for column in frames], list(entries)


def same(text: bytes, at: int, monkeypatch: pytest.MonkeyPatch) -> bool:
    return bool(read(text, at, monkeypatch, 0) == read(text, at, monkeypatch, 1 << 40))


@pytest.mark.parametrize(
    "archive", [archive_of(), archive_of(empty=(0, 3), big=(40, 64)), file_of()]
)
def test_is_what_the_parser_gives(archive: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    text, at = index_of(archive)
    assert index_scan.scan(text, at) is not None
    found = read(text, at, monkeypatch, 0)
    assert isinstance(found, tuple)
    assert found == read(text, at, monkeypatch, 1 << 40)


def test_entries_come_one_by_one_and_in_parts() -> None:
    text, at = index_of(archive_of())
    scanned = index_scan.scan(text, at)
    assert scanned is not None and scanned.tensors is not None
    entries = Entries(scanned.tensors)
    whole = list(entries)
    assert len(entries) == COUNT and entries[5:9] == whole[5:9] and entries[-1] == whole[-1]
    with pytest.raises(IndexError):
        entries[COUNT]


CHANGES = [
    (b'},{"name"', b'}{"name"'),
    (b'"frames":[3,', b'"frames":[4,'),
    (b',3],"digest"', b',1],"digest"'),
    (b',3],"digest"', b',900000],"digest"'),
    (b',3],"digest"', b',99999999999999999999],"digest"'),
    (b'"frames":[3,', b'"frames":[03,'),
    (b'"frames":[3,', b'"frames":[-3,'),
    (b'"name":"layer.7.', b'"name":"layer.8.'),
    (b'"name":"layer.7.', b'"name":"layer.\\u0041.'),
    (b'"name":"layer.7.', b'"name":"layer.\xff.'),
    (b'"name":"layer.7.', b'"name":"layer.\x01.'),
    (b'"name":"layer.7.\xc3\xa9"', b'"name":""'),
    (b'"name":"layer.7.', b'"name":"' + b"x" * 5000),
    (b'"kind":"tensor"', b'"kind":"array"'),
    (b'"kind":"tensor"', b'"kind":"tensor","hash":"sha256"'),
    (b'"kind":"tensor"', b'"kind":"tensor","kind":"tensor"'),
    (b'"dtype":"F32"', b'"dtype":"F99"'),
    (b'"size":256', b'"size":255'),
    (b'"shape":[64]', b'"shape":[65]'),
    (b'"shape":[64]', b'"shape":[64.0]'),
    (b'"shape":[64]', b'"shape":[[64]]'),
    (b'"digest":[1,"', b'"digest":[1,"A'),
    (b'"digest":[1,"', b'"digest":[1,"0'),
    (b'"digest":[1,"', b'"digest":[1,"00'),
    (b'"digest":[1,"', b'"digest":[2,"'),
    (b'"digest":[1,"', b'"digest":["1","'),
    (b'"kinds":[1,', b'"kinds":[2,'),
    (b'"kinds":[1,', b'"kinds":[4294967297,'),
    (b'"kinds":[1,', b'"kinds":[1,1,'),
    (b'"kinds":[1,', b'"kinds":[1.0,'),
    (b'"models":[0,', b'"models":['),
    (b'"entries":[', b'"entries":[,'),
    (b'"entries":[', b'"entries":[{},'),
    (b'{"entries":', b'{"entries":[],"entries":'),
    (b'{"entries":', b'{ "entries":'),
]  # fmt: skip


CHANGES_OF_LISTS = [
    (b'"tensors":[[', b'"tensors":[[]'),
    (b'"tensors":[[', b'"tensors":[],"tensors":[['),
    (b'"tensors":[[', b'"x":{"tensors":[[1]]},"tensors":[['),
    (b'["t7"', b'["t8"'),
    (b'["t7"', b'["t\\"7"'),
    (b'["t7","F32"', b'["t7","F99"'),
    (b'["t7","F32"', b'["t7","VOID"'),
    (b'["t7","F32",[', b'["t7","F32",[1,'),
    (b'["t7","F32",[2,3]', b'["t7","F32",[3,2]'),
    (b'["t7","F32",[2,3]', b'["t7","F32",{},[2,3]'),
    (b'["t7","F32",[2,3]', b'["t7","F32",[4611686018427387904,2]'),
    (b',24]', b',25]'),
    (b',24]', b',24,{"neg":true}]'),
    (b',24]', b',24,0]'),
    (b',[2,3],', b',[2,3],9'),
    (b',[2,3],', b',[2,3],99999999999999999'),
]  # fmt: skip


@pytest.mark.parametrize(
    "make, before, after",
    [
        *((archive_of, *change) for change in CHANGES),
        *((file_of, *change) for change in CHANGES_OF_LISTS),
    ],
)
def test_changes_end_as_in_the_parser(
    make: Callable[[], bytes], before: bytes, after: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, at = index_of(make())
    assert before in text
    assert same(text.replace(before, after, 1), at, monkeypatch)
    assert same(text.replace(before, after), at, monkeypatch)


@pytest.mark.parametrize("archive", [archive_of(), file_of()])
def test_cut_and_damaged_anywhere(archive: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    text, at = index_of(archive)
    rng = np.random.default_rng(2)
    for place in rng.integers(0, len(text), CUTS).tolist():
        scanned = index_scan.scan(text[:place], at)
        assert scanned is None
        damaged = bytearray(text)
        damaged[place] = b'"[]{},\\0a\x80\x00'[int(rng.integers(10))]
        if index_scan.scan(bytes(damaged), at) is not None:
            assert same(bytes(damaged), at, monkeypatch)


def test_forms_are_found_by_their_hash() -> None:
    """Each entry is compared with at most two forms, however many are as long and begin alike."""
    shapes = [(1, 300 + n % 200) for n in range(COUNT)]
    file = io.BytesIO()
    with densor.Writer(file, 1) as writer:
        for number, shape in enumerate(shapes):
            writer.add_tensor(f"t{number}", np.zeros(shape, np.float32))
    text, at = index_of(file.getvalue())
    rows, entries = (np.empty((COUNT + 1, columns), np.int64) for columns in (5, 8))
    forms, columns = np.empty((256, 3), np.int64), np.empty((4, at), np.int64)
    state = np.empty(9, np.int64)
    data = np.frombuffer(text, np.uint8)
    assert index_scan.scan_index(data, entries, rows, forms, columns, state) == 0
    sizes = forms[: state[0], 1] - forms[: state[0], 0]
    assert state[0] == 200 and np.unique(sizes).size == 1
    assert state[8] == (COUNT - 200) * sizes[0]


@pytest.mark.parametrize("piece", [b'{"', b'["', b'{"":0},'])
def test_memory_for_a_scan_is_bounded(piece: bytes) -> None:
    """Whatever is repeated: 64 bytes for each brace would be 32 times the text."""
    text = b'{"entries":[' + piece * (1 << 16)
    tracemalloc.start()
    try:
        assert index_scan.scan(text, len(text)) is None
        assert tracemalloc.get_traced_memory()[1] < 25 * len(text)
    finally:
        tracemalloc.stop()


def test_many_forms_are_left_to_the_parser() -> None:
    tensors = {f"t{n}": np.zeros(n + 1, np.float32) for n in range(COUNT)}
    archive = densor.save(tensors, level=1)
    assert index_scan.scan(*index_of(archive)) is None
    assert densor.load(archive).keys() == tensors.keys()


def test_damage_is_found_where_entries_are_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "LEAST", 0)
    archive = archive_of()
    found = densor.load(archive)
    assert found["layer.4.é"].flags.writeable and len(found) == COUNT
    with densor.open(archive) as file:
        assert isinstance(file.archive.entries, Entries)
        assert "layer.4.é" in file and "x" not in file and len(file) == COUNT
        assert all((file.get_tensor(name) == array).all() for name, array in found.items())
        assert file.offset_keys() == file.keys() == list(found)
        wanted = file.archive.entries[7].digest.hex().encode()
    with pytest.raises(LimitError):
        densor.load(archive, max_output_size=1000)
    text, _ = index_of(archive)
    other = text.replace(wanted, b"00" * 16)
    with pytest.raises(ChecksumError, match=r"layer\.7"):
        densor.load(with_index(archive, other))


def with_index(archive: bytes, text: bytes) -> bytes:
    """An archive with another index."""
    frame = index.find_index(MemoryRandomSource(archive), wire.CHUNK_LIMIT)
    payload = zstd_compress(text, 9)
    begin = wire.pack_frame(wire.INDEX, payload, len(text), 0) + payload
    count = len(json.loads(text)["kinds"]) + 1
    end = wire.END_PAYLOAD.pack(frame.offset, count)
    return archive[: frame.offset] + begin + wire.pack_frame(wire.END, end) + end


def test_a_long_index_takes_the_level_that_leaves_less() -> None:
    digits = np.random.default_rng(3).bytes(1 << 20).hex().encode()
    for text in (digits, b'{"name":"abc%d"}' * (1 << 16), b"short"):
        packed = packed_index(text)
        assert len(packed) == min(len(zstd_compress(text, level)) for level in (1, 9))
    assert len(packed_index(b"ab" * 1000)) == len(zstd_compress(b"ab" * 1000, 9))
