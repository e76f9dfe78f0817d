"""Archives and files made to do harm: bombs, names, links, code. What fuzzing does not think of."""

import ast
import contextlib
import io
import json
import os
import pickle
import struct
import tracemalloc
import unicodedata
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash
import zstandard
from helpers import (
    CHUNK,
    END,
    ENTRY,
    ENTRY_END,
    INDEX,
    MODEL,
    REF,
    Frame,
    bytes_archive,
    header,
    one_object,
    put_together,
    safetensors_bytes,
    with_header,
)

import densor
from densor import verify_file
from densor.codec.blocks.payload import FIELD, HEAD
from densor.codec.codecs import decoder_for
from densor.codec.parts import MODEL_LENGTH
from densor.errors import printable
from densor.formats.container import strictjson
from densor.formats.io.safe_paths import Places, check_portable
from densor.formats.parsers.torch_pickle import scan
from densor.runtime.workers import Workers

MIB = 1 << 20
BOMB = 32 * MIB  # bytes that a few thousand unfold to


@contextlib.contextmanager
def memory_below(most: int) -> Iterator[None]:
    """Fails where more than so many bytes are allocated at a time."""
    tracemalloc.start()
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < most, f"{peak / MIB:.1f} MiB"


def sealed(entries: list[dict[str, Any]], data: bytes = b"", features: int = 1) -> bytes:
    """An archive with index of entries of these descriptions, each with the bytes `data`."""
    frames: list[Frame] = []
    listed = []
    end = struct.pack("<QB", len(data), 1) + xxhash.xxh3_128_digest(data)
    for entry in entries:
        entry = {"size": len(data), **entry}
        own = [Frame(ENTRY, json.dumps(entry).encode())]
        own += [Frame(CHUNK, data, len(data))] if data else []
        own += [Frame(ENTRY_END, end)]
        tensors = {"tensors": entry.pop("tensors")} if "tensors" in entry else {}
        if tensors:
            own[0] = Frame(ENTRY, json.dumps(entry).encode())
        digest = [1, xxhash.xxh3_128_hexdigest(data)]
        listed.append({**entry, **tensors, "frames": [len(frames), len(own)], "digest": digest})
        frames += own
    return indexed(frames, listed, features)


def indexed(frames: list[Frame], entries: list[dict[str, Any]], features: int = 1) -> bytes:
    """An archive of these frames, with an index that lists these entries."""
    index = {
        "entries": entries,
        "kinds": [frame.kind for frame in frames],
        "models": [frame.model for frame in frames],
        "stored": [len(frame.payload) for frame in frames],
        "original": [frame.original for frame in frames],
    }
    text = json.dumps(index).encode()
    last = [Frame(INDEX, zstandard.compress(text), len(text)), Frame(END, bytes(16))]
    return put_together([*frames, *last], header(features))


# Bombs


@pytest.fixture(scope="module")
def bomb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive of a few KB of a safetensors file of 32 MiB, and one of a change to it."""
    folder = tmp_path_factory.mktemp("bomb")
    tensors = {"w": ("U8", (BOMB,), bytes(BOMB))}
    (folder / "m.safetensors").write_bytes(safetensors_bytes(tensors))
    densor.compress_file(folder / "m.safetensors", folder / "m.densor", threads=1)
    densor.compress_file(
        folder / "m.safetensors", folder / "d.densor", threads=1, base=folder / "m.safetensors"
    )
    assert max((folder / name).stat().st_size for name in ("m.densor", "d.densor")) < 10_000
    (folder / "m.safetensors").unlink()
    return folder


READERS: dict[str, Callable[[Path, Path], object]] = {
    "decompress_file": lambda m, out: densor.decompress_file(m, out / "x", max_output_size=MIB),
    "test": lambda m, out: verify_file(m, max_output_size=MIB),
    "extract": lambda m, out: densor.extract(m, out, max_output_size=MIB),
    "load_file": lambda m, out: densor.load_file(m, max_output_size=MIB),
    "load": lambda m, out: densor.load(m.read_bytes(), max_output_size=MIB),
    "get_tensor": lambda m, out: densor.open(m, max_output_size=MIB).get_tensor("w"),
    "get_slice": lambda m, out: densor.open(m, max_output_size=MIB).get_slice("w")[: 2 * MIB],
    "read_file": lambda m, out: densor.open(m, max_output_size=MIB).read_file("m.safetensors"),
}


@pytest.mark.parametrize("name", READERS)
def test_every_function_that_reads_has_a_limit(name: str, bomb: Path, tmp_path: Path) -> None:
    with memory_below(8 * MIB), pytest.raises(densor.LimitError):
        READERS[name](bomb / "m.densor", tmp_path)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["decompress_file", "test", "extract", "get_tensor"])
def test_a_packed_base_is_within_the_limit(name: str, bomb: Path, tmp_path: Path) -> None:
    """It is decoded to a temporary file, which is output as well."""
    calls: dict[str, Callable[..., object]] = {
        "decompress_file": lambda **a: densor.decompress_file(bomb / "d.densor", "x", **a),
        "test": lambda **a: verify_file(bomb / "d.densor", **a),
        "extract": lambda **a: densor.extract(bomb / "d.densor", tmp_path, **a),
        "get_tensor": lambda **a: densor.open(bomb / "d.densor", **a).get_tensor("w"),
    }
    with memory_below(8 * MIB), pytest.raises(densor.LimitError):
        calls[name](max_output_size=MIB, base=bomb / "m.densor")


@pytest.mark.parametrize(
    "argv",
    [
        ["-d", "m.densor", "-o", "out"],
        ["-d", "-c", "m.densor"],
        ["-t", "m.densor"],
        ["test", "m.densor"],
        ["extract", "m.densor", "-C", "out"],
        ["cat", "m.densor", "w"],
        ["cat", "m.densor", "m.safetensors"],
        ["diff", "m.densor", "m.densor"],
        ["cat", "d.densor", "w", "--base", "m.densor"],
    ],
    ids=" ".join,
)
def test_every_command_that_reads_has_a_limit(
    argv: list[str], bomb: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    from densor.cli.main import main

    monkeypatch.chdir(bomb)
    assert main([*argv, "--max-size", "1M"]) == 1
    out, err = capfd.readouterr()
    assert not out and "1048576 bytes allowed" in err
    assert not (bomb / "out").is_file()


def test_the_limit_is_on_all_files_together(tmp_path: Path) -> None:
    tensors = {f"t{i}": np.full((300, 100), i, np.uint8) for i in range(10)}
    with densor.Writer(tmp_path / "a") as writer:
        for name, tensor in tensors.items():
            writer.add_tensor(name, tensor)
    assert len(densor.load_file(tmp_path / "a", max_output_size=300_000)) == 10
    with pytest.raises(densor.LimitError):
        densor.load_file(tmp_path / "a", max_output_size=299_999)
    with densor.open(tmp_path / "a", max_output_size=30_000) as file:  # one by one
        assert all((file.get_tensor(name) == tensor).all() for name, tensor in tensors.items())


def test_tensors_that_share_bytes_are_not_copied_without_end() -> None:
    """At odd offsets, each has to be a copy of its own."""
    data = bytes(MIB + 1)
    tensors = [[f"t{i}", "F32", [MIB // 4], 1, MIB] for i in range(1000)]
    archive = sealed([{"name": "f", "kind": "file", "tensors": tensors}], data)
    with memory_below(16 * MIB), pytest.raises(densor.LimitError, match="share"):
        densor.load(archive)
    with densor.open(archive) as file:
        assert file.get_tensor("t999").nbytes == MIB
    aligned = [[name, dtype, shape, 0, size] for name, dtype, shape, _, size in tensors]
    archive = sealed([{"name": "f", "kind": "file", "tensors": aligned}], data)
    with memory_below(16 * MIB):
        assert len(densor.load(archive)) == 1000


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs limits of processes")
def test_many_entries_take_few_open_files(tmp_path: Path) -> None:
    """Bytes that may repeat are kept in files, but not in one for each entry."""
    import resource

    folder = tmp_path / "in"
    folder.mkdir()
    for i in range(300):
        (folder / f"{i:03}").write_bytes(b"%d" % (i // 2) * 100)
    densor.pack([folder], tmp_path / "a", threads=1)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = len(os.listdir("/dev/fd")) + 100
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, before[1]))
    try:
        assert len(verify_file(tmp_path / "a", 1)) == 300
        assert densor.extract(tmp_path / "a", tmp_path / "out", ["003", "299"]) == ["003", "299"]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert (tmp_path / "out" / "003").read_bytes() == (folder / "002").read_bytes()


def test_tensors_of_files_in_turn_are_decoded_once_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """Later names win, but keep their place; entries must not be decoded for each tensor."""
    from densor.formats.container.archive import Archive

    shapes = ("U8", [100])
    first = [[f"t{i}", *shapes, 100 * i, 100] for i in range(20)]
    second = [[f"t{i}", *shapes, 100 * i, 100] for i in range(0, 20, 2)]
    entries = [
        {"name": name, "kind": "file", "tensors": tensors}
        for name, tensors in (("one", first), ("two", second))
    ]
    reads: list[str] = []
    read = Archive.read

    def counted(self: Archive, entry: Any, *args: Any) -> Any:
        reads.append(entry.meta.name)
        return read(self, entry, *args)

    read_run = Archive._read_run

    def counted_run(self: Archive, run: Any, entries: Any, sizes: Any) -> Any:
        reads.extend(entry.meta.name for entry in entries[run.first : run.stop])
        return read_run(self, run, entries, sizes)

    monkeypatch.setattr(Archive, "read", counted)
    monkeypatch.setattr(Archive, "_read_run", counted_run)
    found = densor.load(sealed(entries, bytes(range(200)) * 10))
    assert list(found) == [f"t{i}" for i in range(20)]
    assert sorted(reads) == ["one", "two"]


def test_an_index_that_unfolds_is_within_the_limit() -> None:
    text = b'{"entries": [' + b"0," * (20 * MIB) + b"0]}"
    frames = [Frame(200, b"\1" * MIB) for _ in range(2)]
    frames.append(Frame(INDEX, zstandard.compress(text), len(text)))
    archive = put_together([*frames, Frame(END, bytes(16))])
    with memory_below(8 * MIB), pytest.raises(densor.LimitError):
        densor.open(archive, max_output_size=MIB)
    frames[:2] = [Frame(200, bytes(300_000))]
    small = put_together([*frames, Frame(END, bytes(16))])
    with memory_below(8 * MIB), pytest.raises(densor.LimitError):
        densor.open(small)  # 64 times its offset and 1 MiB, no more


def test_a_header_that_claims_all_of_a_large_file() -> None:
    """`metadata` reads no more than a safetensors header may have."""
    data = struct.pack("<Q", (1 << 30) - 8)
    entry = {"name": "f", "kind": "file", "format": "safetensors", "size": 1 << 30}
    end = struct.pack("<QB", 1 << 30, 1) + bytes(16)
    zeros = zstandard.compress(bytes(1 << 26))
    first = zstandard.compress(data + bytes((1 << 26) - 8))
    chunks = [Frame(CHUNK, first, 1 << 26, 1), *[Frame(CHUNK, zeros, 1 << 26, 1)] * 15]
    frames = [Frame(ENTRY, json.dumps(entry).encode()), *chunks, Frame(ENTRY_END, end)]
    archive = indexed(frames, [{**entry, "frames": [0, 18], "digest": [1, "00" * 16]}])
    with (
        densor.open(archive, threads=1) as file,
        memory_below(256 * MIB),
        pytest.raises(densor.FormatError),
    ):
        file.metadata()


def _huffman_classes(planes: int, classes: int = 16) -> bytes:
    """Class lists that take four bytes per table of 32 KB."""
    return (bytes([classes]) + bytes([2, 0, 1, 0x11]) * classes) * planes


def test_models_of_many_tables_take_bounded_memory() -> None:
    planar = struct.pack("<BBBBI", 2, 7, 0, 8, 1) + _huffman_classes(8)
    model = HEAD.pack(5, 8)
    model += (FIELD.pack(8, 0, 0, 0) + MODEL_LENGTH.pack(len(planar)) + planar) * 8
    decoder: Any = decoder_for(model)
    data = _planar_chunk()
    parts = b"".join(struct.pack("<BI", 2, len(data)) for _ in range(8)) + data * 8
    out = np.empty(64 * 16, np.uint8)
    with memory_below(64 * MIB), contextlib.suppress(densor.FormatError):
        decoder.decode(np.frombuffer(parts, np.uint8), out)
    frames = [Frame(MODEL, model)] * 20
    archive = bytes_archive([*frames, Frame(CHUNK, b"x", 1)], b"x")
    with memory_below(64 * MIB):
        assert densor.decompress(archive) == b"x"


def _planar_chunk() -> bytes:
    """Planes of classes: a map of zeros, then streams that are too short."""
    section = bytes(8) + struct.pack("<4I", 1, 1, 1, 1) + bytes(4) + bytes(8)
    return struct.pack("<BI", 3, len(section)) * 8 + section * 8


def test_repetitions_in_an_array_that_stays_packed() -> None:
    """40 bytes stand for a thousand chunks each time."""
    from densor.formats.container.packed_array import PackedArray

    count, times = 1000, 200
    size = count * (times + 1)
    meta = {"name": "", "kind": "array", "dtype": "U8", "shape": [size], "size": size}
    inner = [Frame(CHUNK, b"\0", 1)] * count
    inner += [Frame(REF, struct.pack("<IQ", 0, 0), count)] * times
    with memory_below(64 * MIB), pytest.raises(densor.LimitError):
        PackedArray(one_object(meta, inner, bytes(size)))
    size = count * 51
    meta |= {"shape": [size], "size": size}
    held = PackedArray(one_object(meta, inner[: count + 50], bytes(size)))
    out = np.ones(size, np.uint8)
    held.decode_into(out, Workers(1))
    assert not out.any()


def test_many_models_of_an_array_that_stays_packed() -> None:
    """Each takes 4 MB of tables once it is used; few are kept."""
    from densor.formats.container.packed_array import PackedArray

    classes = struct.pack("<BBBBI", 2, 7, 0, 8, 1) + _huffman_classes(8)
    plane = struct.pack("<BI", 1, 1)
    chunk = plane * 8 + bytes(8)
    count = 60
    frames = []
    for number in range(count):
        frames += [Frame(MODEL, classes), Frame(CHUNK, chunk, 800, 16 + number)]
    size = 800 * count
    meta = {"name": "", "kind": "array", "dtype": "U8", "shape": [size], "size": size}
    held = PackedArray(one_object(meta, frames, bytes(size)))
    out = np.ones(size, np.uint8)
    with memory_below(100 * MIB):
        held.decode_into(out, Workers(1))
    assert not out.any()


@pytest.mark.parametrize("suffix", [".npz", ".pt"])
def test_deflated_members_of_zip_files_are_never_inflated(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"bomb{suffix}"
    name = "a.npy" if suffix == ".npz" else "m/data.pkl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, bytes(64 * MIB))
    assert path.stat().st_size < MIB
    with memory_below(40 * MIB):  # it is read in batches of 24 MiB
        densor.compress_file(path, tmp_path / "packed", threads=1)
    densor.decompress_file(tmp_path / "packed", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == path.read_bytes()


def test_a_pickle_that_doubles_at_each_step() -> None:
    """The value would have 2^200 elements."""
    doubled = b"\x80\x02}(X\1\0\0\0a)" + b"2\x86" * 200 + b"s."
    with memory_below(MIB):
        assert not scan(b"\x80\x02)" + b"2\x86" * 200 + b".").tensors
        with contextlib.suppress(densor.FormatError):
            scan(doubled)


@pytest.mark.parametrize("text", [b"[" * 10**6, b'{"a":' * 10**6, b'{"a":' + b"9" * 10**6 + b"}"])
def test_json_that_is_nested_or_long(text: bytes) -> None:
    with pytest.raises(densor.FormatError):
        strictjson.loads(text, "text")
    data = with_header(text, bytes(100))
    assert densor.decompress(densor.compress(data)) == data


@pytest.mark.parametrize(
    "shape", [[1 << 62, 1 << 62], [1 << 63], [0, 1 << 62, 1 << 62], [1] * 65, [-1]]
)
def test_shapes_beyond_any_memory(shape: list[int]) -> None:
    for kind in ("array", "tensor"):
        entry = {"name": "x", "kind": kind, "dtype": "F32", "shape": shape, "size": 0}
        if kind == "tensor":
            with pytest.raises(densor.DensorError), densor.open(sealed([entry])) as file:
                file.get_tensor("x")
        with contextlib.suppress(densor.DensorError):
            densor.decompress(sealed([entry]))
    header = {"x": {"dtype": "F32", "shape": shape, "data_offsets": [0, 8]}}
    data = with_header(header, bytes(8))
    assert densor.decompress(densor.compress(data)) == data


# Names

EVIL = (
    "\x1b[2J\x1b]0;owned\x07",
    "two\nlines",
    "\u202egnp.exe",
    "\x9b31m",
    "a\rb",
    "\u2028",
    "\x7f",
)


def _only_text(output: bytes) -> None:
    text = output.decode()
    assert all(c == "\n" or c.isprintable() for c in text), repr(text)


@pytest.mark.parametrize("name", EVIL)
def test_no_name_reaches_a_terminal(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: Any
) -> None:
    """Tensors may have any name; commands print it so that it only looks like one."""
    from densor.cli.main import main

    monkeypatch.chdir(tmp_path)
    data = bytes(8)
    tensors = [[name, "F32", [2], 0, 8]]
    base = {"size": 8, "digest": [1, "00" * 16], "name": name}
    entries: list[dict[str, Any]] = [
        {"name": "file", "kind": "file", "format": name, "tensors": tensors},
        {"name": f"t {name}", "kind": "tensor", "dtype": "F32", "shape": [2]},
        {"name": f"b {name}", "kind": "bytes"},
        {"name": f"d {name}", "kind": "bytes", "base": base},
    ]
    (tmp_path / "good").write_bytes(sealed(entries, data, 3))
    (tmp_path / "plain").write_bytes(sealed(entries[:3], data))
    twice = sealed([entries[2], entries[2]], data)
    (tmp_path / "twice").write_bytes(twice)
    commands = [
        ["list", "good"],
        ["list", "good", "--json"],
        ["info", "good"],
        ["-l", "good"],
        ["test", "good"],
        ["test", "plain", "-v"],
        ["test", "twice"],
        ["extract", "plain"],
        ["extract", "plain", name],
        ["extract", "plain", f"t {name}", "-f"],
        ["cat", "plain", f"no {name}"],
        ["cat", "good", f"d {name}"],
        ["diff", "plain", "plain"],
        ["diff", "plain", "plain", "--json"],
        ["-d", "plain"],
        ["info", name],
        ["list", "twice"],
    ]
    for command in commands:
        main(command)
        out, err = capfdbinary.readouterr()
        _only_text(out)
        _only_text(err)
    with (
        densor.open(tmp_path / "plain", max_output_size=1) as file,
        pytest.raises(densor.LimitError) as error,
    ):
        file.get_tensor(f"t {name}")
    _only_text(str(error.value).encode())
    assert printable(name) in str(error.value)


@pytest.mark.parametrize(
    "name",
    [
        *("../x", "/etc/x", "a/../../x", "..", ".", "", "a//b", "a/", "/", "./a", "a/."),
        *("C:/x", "C:x", "a\\b", "..\\x", "\\\\host\\x", "x:stream", "a\0b", "a\nb", "\x1b[0m"),
        *("\ud800", "x" * 4097),
    ],
)
def test_paths_that_lead_elsewhere_are_refused(name: str, tmp_path: Path) -> None:
    target = tmp_path / "in" / "deep"
    target.mkdir(parents=True)
    for kind in ("file", "dir"):
        entry = {"name": name, "kind": kind}
        archive = sealed([entry], b"data" if kind == "file" else b"")
        with pytest.raises(densor.FormatError):
            densor.extract(io.BytesIO(archive), target, overwrite=True)
        with pytest.raises(densor.FormatError):
            densor.open(archive)
    assert sorted(tmp_path.rglob("*")) == [tmp_path / "in", target]


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x", "x\0", "a\nb"])
@pytest.mark.parametrize("cut", [0, 20])
def test_salvage_keeps_to_its_folder(name: str, cut: int, tmp_path: Path) -> None:
    """Also without an index, and for tensors, whose names are no paths."""
    entries = [
        {"name": name, "kind": "file"},
        {"name": f"t {name}", "kind": "bytes"},
        {"name": "good", "kind": "file"},
    ]
    archive = sealed(entries, b"data")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a").write_bytes(archive[: len(archive) - cut])
    found = densor.archives.salvage(tmp_path / "in" / "a", tmp_path / "in" / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]
    assert sorted(path.name for path in (tmp_path / "in").iterdir()) == ["a", "out"]
    written = [path.name for path in (tmp_path / "in" / "out").rglob("*")]
    assert all(printable(part) == part for part in written)
    assert (tmp_path / "in" / "out" / "good").read_bytes() == b"data"
    assert len(found.entries) == 3


def test_salvage_finds_other_names_for_devices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check(name: str) -> None:
        check_portable(name, windows=True)

    monkeypatch.setattr("densor.formats.io.safe_paths.check_portable", check)
    archive = sealed([{"name": name, "kind": "file"} for name in ("NUL", "sub/x")], b"data")
    (tmp_path / "a").write_bytes(archive)
    densor.archives.salvage(tmp_path / "a", tmp_path / "out")
    names = [path.name for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert sorted(names) == ["entry-0-NUL", "salvage.json", "x"]
    with pytest.raises(densor.FileError, match="Windows"):
        densor.extract(tmp_path / "a", tmp_path / "again")


def test_links_in_the_way_are_not_written_through(tmp_path: Path) -> None:
    """Neither those to folders nor those to files, whole or dangling; they belong to others."""
    outside, target = tmp_path / "outside", tmp_path / "target"
    outside.mkdir()
    target.mkdir()
    (outside / "file").write_bytes(b"precious")
    archive = sealed([{"name": name, "kind": "file"} for name in ("a", "sub/b")], b"new")
    (target / "sub").symlink_to(outside)
    with pytest.raises(densor.FileError, match="symbolic link"):
        densor.extract(io.BytesIO(archive), target, ["sub/b"], overwrite=True)
    (target / "sub").unlink()
    for link in ("file", "nowhere"):
        (target / "a").symlink_to(outside / link)
        with pytest.raises(densor.FileError, match="exists"):
            densor.extract(io.BytesIO(archive), target, ["a"])
        assert densor.extract(io.BytesIO(archive), target, ["a"], overwrite=True) == ["a"]
        assert not (target / "a").is_symlink() and (target / "a").read_bytes() == b"new"
        (target / "a").unlink()
    assert [path.name for path in outside.iterdir()] == ["file"]
    assert (outside / "file").read_bytes() == b"precious"


@pytest.mark.parametrize("kind", ["link", "symlink", "hardlink", "fifo", "device", "file "])
def test_archives_hold_nothing_but_files_and_folders(kind: str, tmp_path: Path) -> None:
    archive = sealed([{"name": "a", "kind": kind, "target": "/etc/passwd"}], b"x")
    with pytest.raises(densor.FormatError):
        densor.extract(io.BytesIO(archive), tmp_path)
    assert not any(tmp_path.iterdir())


def test_modes_are_permissions_and_nothing_else(tmp_path: Path) -> None:
    """No set-user-ID bits."""
    with pytest.raises(densor.FormatError):
        densor.open(sealed([{"name": "a", "kind": "file", "mode": 0o4755}], b"x"))


def test_names_that_are_one_file_here(tmp_path: Path) -> None:
    """As on a file system that folds case: the second name leads to the file of the first."""
    names = ["a", "between", "A"]
    archive = sealed([{"name": name, "kind": "file"} for name in names], b"data")
    calls = 0

    def fold(moved: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:  # while the one between is written
            os.link(tmp_path / "a", tmp_path / "A")

    with pytest.raises(densor.FileError, match="same file as a"):
        densor.extract(io.BytesIO(archive), tmp_path, threads=1, overwrite=True, progress=fold)
    assert (tmp_path / "a").read_bytes() == b"data"


def test_places_tell_own_files_from_others(tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(b"")
    places = Places(tmp_path)
    assert places.path("old") == tmp_path / "old"
    (tmp_path / "new").write_bytes(b"")
    places.made("new")
    with pytest.raises(densor.FileError):
        places.path("new")
    assert places.path("new/below") == tmp_path / "new/below"


def test_names_that_differ_in_form_or_case_are_different_elsewhere(tmp_path: Path) -> None:
    names = ["Readme", "README", "é", unicodedata.normalize("NFD", "é")]
    archive = sealed([{"name": name, "kind": "file"} for name in names], b"data")
    folds = (tmp_path / "x").mkdir() or (tmp_path / "X").exists()
    if not folds:
        assert densor.extract(io.BytesIO(archive), tmp_path / "out") == names


@pytest.mark.parametrize(
    "name", ["CON", "nul", "a/COM1", "lpt9.txt", "aux .c", "x.", "a ", "a./b", "a?b", "<a>", "com¹"]
)
def test_names_that_windows_takes_for_something_else(name: str) -> None:
    """Refused there, where a device would be written to; elsewhere, names like any other."""
    with pytest.raises(densor.FileError, match="Windows"):
        check_portable(name, windows=True)
    check_portable(name, windows=False)


@pytest.mark.parametrize(
    "name", ["CONFIG", "con-1", "a.con", "COM0", "LPT", "nulls/aux1", ".x", "é"]
)
def test_names_that_windows_takes_for_what_they_are(name: str) -> None:
    check_portable(name, windows=True)


def test_names_twice(tmp_path: Path) -> None:
    archive = sealed([{"name": "a", "kind": "file"}] * 2, b"x")
    for read in (densor.open, lambda a: densor.extract(io.BytesIO(a), tmp_path)):
        with pytest.raises(densor.FormatError, match="two entries"):
            read(archive)
    tensors = [["t", "U8", [1], 0, 1]] * 2
    with pytest.raises(densor.FormatError, match="twice"):
        densor.open(sealed([{"name": "f", "kind": "file", "tensors": tensors}], b"x"))


# Code


class Trap:
    """What a pickle can do when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_nothing_of_a_pickle_is_run(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    trap = tmp_path / "trap"
    file = io.BytesIO()
    torch.save({"w": torch.ones(30, 30), "evil": Trap(trap)}, file)
    files = {"evil.pt": file.getvalue(), "evil.pkl": pickle.dumps(Trap(trap))}
    array = np.array([Trap(trap)], object)
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    files["evil.npy"] = file.getvalue()
    file = io.BytesIO()
    np.savez(file, a=array, b=np.ones(500))
    files["evil.npz"] = file.getvalue()
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    densor.pack([tmp_path / name for name in files], tmp_path / "a.densor")
    densor.extract(tmp_path / "a.densor", tmp_path / "out")
    with densor.open(tmp_path / "a.densor") as found:
        assert "w" in found.keys()  # noqa: SIM118
        for name in found:
            found.get_tensor(name)
        for name, data in files.items():
            assert found.read_file(name) == data == (tmp_path / "out" / name).read_bytes()
    assert not trap.exists()
    with pytest.raises(densor.ArgumentError):
        densor.compress(array)
    pickle.loads(files["evil.pkl"])  # it does what it says
    assert trap.exists()


@pytest.mark.parametrize("descr", ["|O", "O", [["a", "|O"]], ["|O", [2]], [["a", [["b", "O8"]]]]])
def test_arrays_of_objects_are_refused(descr: Any) -> None:
    entry = {"name": "", "kind": "array", "dtype": "VOID", "shape": [1], "size": 8, "descr": descr}
    end = struct.pack("<QB", 8, 1) + xxhash.xxh3_128_digest(bytes(8))
    frames = [Frame(ENTRY, json.dumps(entry).encode()), Frame(CHUNK, bytes(8), 8)]
    archive = put_together([*frames, Frame(ENTRY_END, end), Frame(END, bytes(16))])
    with pytest.raises(densor.FormatError):
        densor.decompress(archive)


_LOADERS = {"pickle", "_pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
_RUNNERS = {"eval", "exec", "compile", "__import__"}


def _dangers(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names]
            module = getattr(node, "module", None)
            for name in [module, *names] if module else names:
                if name.partition(".")[0] in _LOADERS:
                    yield f"import {name}"
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        options = {word.arg: ast.unparse(word.value) for word in node.keywords}
        if called in _RUNNERS or called in ("os.system", "os.popen", "yaml.load"):
            yield called
        if called == "torch.load" and options.get("weights_only") != "True":
            yield called
        if options.get("allow_pickle", "False") != "False":
            yield f"{called} with allow_pickle"


def test_the_package_has_no_means_to_run_what_it_reads() -> None:
    package = Path(densor.__file__).parent
    files = sorted(package.rglob("*.py"))
    assert len(files) > 100
    found = [
        f"{path.relative_to(package)}: {danger}"
        for path in files
        for danger in _dangers(ast.parse(path.read_text()))
    ]
    assert not found


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from marshal import loads",
        "eval('1')",
        "torch.load(f)",
        "np.load(f, allow_pickle=True)",
    ],
)
def test_what_that_test_looks_for(text: str) -> None:
    assert list(_dangers(ast.parse(text)))
    assert not list(_dangers(ast.parse("re.compile('a'); torch.load(f, weights_only=True)")))
