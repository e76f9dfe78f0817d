"""The short form of tiny archives: what it saves, that it stands for the same, what is refused."""

import io
import struct
from pathlib import Path

import archives
import ml_dtypes
import numpy as np
import pytest
import xxhash
import zstandard
from helpers import header, random_state, safetensors_bytes, take_apart, varint, weights
from reference import container
from reference.reading import Refused

import densor
from densor.formats.container import short_form, wire
from densor.formats.container.tensor_blob import Tensor, decode, describe, encode
from densor.formats.io.sources import as_bytes

pytestmark = pytest.mark.usefixtures("short_archives")
SAMPLES = sorted(archives.MAKERS)


def is_short(archive: bytes) -> bool:
    return bool(int.from_bytes(archive[12:16], "little") & wire.SHORT)


def sealed(body: bytes, features: int = 0) -> bytes:
    """A short archive of this body, however wrong."""
    fields = header()[:8] + struct.pack(
        "<HHIII", 1, 0, features | 4, len(body), xxhash.xxh3_64_intdigest(body) & 0xFFFFFFFF
    )
    return fields + struct.pack("<Q", xxhash.xxh3_64_intdigest(fields)) + body


def long_form(archive: bytes) -> bytes:
    return short_form.lengthened(wire.parse_header(archive[:32]), archive[32:])


# What it saves


def test_small_things_are_small(tmp_path: Path) -> None:
    bias = weights("bf16", 1, 256).reshape(-1)
    assert len(densor.compress(bias, dtype="bf16")) < bias.nbytes + 36
    (tmp_path / "a.txt").write_bytes(b"hello\n")
    densor.compress_file(tmp_path / "a.txt", tmp_path / "a.densor")
    assert (tmp_path / "a.densor").stat().st_size <= 80
    assert len(densor.compress(b"hello\n")) <= 64
    tensor = Tensor("bias", "BF16", (256,), bias.nbytes, None)
    blob = encode(tensor, as_bytes(bias))
    assert len(blob) < bias.nbytes + 36
    assert describe(as_bytes(blob)) == tensor
    assert decode(as_bytes(blob), tensor).tobytes() == bias.tobytes()


def test_what_is_not_tiny_is_in_the_ordinary_form() -> None:
    noise = random_state("not tiny").integers(0, 256, short_form.MOST, np.uint8).tobytes()
    assert not is_short(densor.compress(noise))
    assert is_short(densor.compress(noise[:60000]))


# Stands for the same


@pytest.mark.parametrize("name", SAMPLES)
def test_every_sample(name: str) -> None:
    archives.sample.cache_clear()
    archive, entries = archives.sample(name)
    archives.sample.cache_clear()
    assert is_short(archive)
    found = {entry.name: entry.data for entry in container.decode(archive)}
    assert found == entries
    assert [e.meta.name for e in densor.verify_file(io.BytesIO(archive), threads=1)] == list(
        entries
    )
    whole = long_form(archive)
    assert {entry.name: entry.data for entry in container.decode(whole)} == entries
    assert len(archive) < len(whole)
    again = archives.in_short_form(whole)
    assert take_apart(long_form(again))[:-2] == take_apart(whole)[:-2]
    if container.read_index(archive):
        with densor.open(archive, threads=1) as file:
            for entry in container.decode(archive):
                if entry.kind == "file":
                    assert file.read_file(entry.name) == entry.data


@pytest.mark.parametrize("hash", [None, "sha256", "xxh3-128"])
def test_arrays_and_hashes(hash: str | None) -> None:
    for array in (
        np.arange(12, dtype=">i4").reshape(3, 4).T,
        np.zeros((2, 0, 3), np.complex128),
        np.array(3.5),
        np.zeros(3, [("a", "<f4"), ("b", "S3")]),
        np.ones((5, 5), ml_dtypes.bfloat16),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    ):
        archive = densor.compress(array, hash=hash)
        assert is_short(archive)
        restored = densor.decompress(archive)
        assert restored.dtype == array.dtype and restored.shape == array.shape
        assert restored.tobytes() == array.tobytes()
        assert restored.flags.f_contiguous == array.flags.f_contiguous
        (entry,) = container.decode(archive)
        assert entry.meta.get("hash") == hash


def test_pipes_and_folders(tmp_path: Path) -> None:
    class Pipe(io.RawIOBase):
        data = b""

        def writable(self) -> bool:
            return True

        def write(self, data: object) -> int:
            self.data += bytes(data)  # type: ignore[call-overload]
            return memoryview(data).nbytes  # type: ignore[arg-type]

    pipe = Pipe()
    densor.compress_file(io.BytesIO(b"abc" * 9), pipe, name="x")
    assert is_short(pipe.data)
    out = io.BytesIO()
    densor.decompress_file(io.BytesIO(pipe.data), out)
    assert out.getvalue() == b"abc" * 9
    (tmp_path / "in" / "empty").mkdir(parents=True)
    (tmp_path / "in" / "one").write_bytes(b"1")
    densor.pack([tmp_path / "in"], tmp_path / "archive")
    assert is_short((tmp_path / "archive").read_bytes())
    densor.extract(tmp_path / "archive", tmp_path / "out")
    assert (tmp_path / "out" / "one").read_bytes() == b"1"
    assert (tmp_path / "out" / "empty").is_dir()


def test_files_are_appended(tmp_path: Path) -> None:
    data = safetensors_bytes({"w": ("BF16", (8, 16), weights("bf16", 8, 16).tobytes())})
    archive = tmp_path / "archive"
    for name in ("one", "two"):
        (tmp_path / name).write_bytes(data)
    densor.pack([tmp_path / "one"], archive)
    before = archive.stat().st_size
    grown = densor.archives.append(archive, tmp_path / "two")
    assert is_short(archive.read_bytes())
    assert grown.stored == archive.stat().st_size - before > 0
    assert [entry.data for entry in container.decode(archive.read_bytes())] == [data, data]
    (tmp_path / "large").write_bytes(random_state("large").bytes(1 << 17))
    densor.archives.append(archive, tmp_path / "large")
    assert not is_short(archive.read_bytes())
    assert len(densor.verify_file(archive)) == 3


# Damage


def test_every_changed_byte_is_noticed() -> None:
    archive = archives.MAKERS["small file"]().archive
    assert is_short(archive)
    for at in range(len(archive)):
        damaged = bytearray(archive)
        damaged[at] ^= 1 << at % 8
        with pytest.raises(densor.DensorError):
            densor.verify_file(io.BytesIO(bytes(damaged)), threads=1)
        with pytest.raises(Refused):
            container.decode(bytes(damaged))
    for end in range(0, len(archive), 7):
        for wrong in (archive[:end], archive + b"\0" * (end + 1)):
            with pytest.raises(densor.DensorError):
                densor.verify_file(io.BytesIO(wrong), threads=1)


def test_salvage_and_repair(tmp_path: Path) -> None:
    data = random_state("salvaged").bytes(300)
    for name in ("first", "second"):
        (tmp_path / name).write_bytes(data + name.encode())
    archive = tmp_path / "archive"
    densor.pack([tmp_path / "first", tmp_path / "second"], archive)
    whole = archive.read_bytes()
    assert is_short(whole)
    assert densor.archives.salvage(archive, tmp_path / "sound").sound
    assert densor.archives.repair(archive).was_whole
    damaged = bytearray(whole)
    damaged[-40] ^= 1  # in the data of the second file
    archive.write_bytes(damaged)
    found = densor.archives.salvage(archive, tmp_path / "saved")
    assert not found.sound
    assert (tmp_path / "saved" / "first").read_bytes() == data + b"first"
    assert not (tmp_path / "saved" / "second").exists()
    with pytest.raises(densor.ChecksumError):
        densor.archives.repair(archive)
    archive.write_bytes(whole)
    densor.archives.repair(archive, recovery=20)
    assert not is_short(archive.read_bytes())
    assert len(densor.verify_file(archive)) == 2


# Hostile input


def brief(kind: int = 4, name: bytes = b"", more: bytes = b"\x04", frames: bytes = b"") -> bytes:
    """An entry: by default four bytes of the kind `bytes`, raw."""
    count = bytes([1]) if frames else b"\x01\x03\x00\x04"
    return bytes([kind, len(name)]) + name + more + (count + frames if frames else count)


def body(
    description: bytes, contents: bytes = b"", flags: int = 0, size: int | None = None
) -> bytes:
    length = len(description) if size is None else size
    return bytes([flags]) + varint(length) + description + contents


DATA = b"abcd"
CONTENTS = DATA + xxhash.xxh3_128_digest(DATA)
BOMB = zstandard.ZstdCompressor().compress(bytes(1 << 20))


def test_by_hand() -> None:
    archive = sealed(body(brief(), CONTENTS))
    assert densor.decompress(archive) == DATA
    (entry,) = container.decode(archive)
    assert (entry.kind, entry.data) == ("bytes", DATA)


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        (b"", densor.FormatError),
        (body(brief(), CONTENTS, 4), densor.FormatError),
        (body(brief(), CONTENTS, 128), densor.FormatError),
        (body(brief(), CONTENTS[:-1]), densor.FormatError),
        (body(brief(), CONTENTS + b"x"), densor.FormatError),
        (body(brief(), DATA + bytes(16)), densor.ChecksumError),
        (body(brief(7), CONTENTS), densor.FormatError),
        (body(brief(4 | 128), CONTENTS), densor.FormatError),
        (body(brief(name=b"\xff"), CONTENTS), densor.FormatError),
        (body(brief(0, b"../x", b"\x04\0"), CONTENTS), densor.FormatError),
        (body(brief(0, b"x", b"\x04\x08"), CONTENTS), densor.FormatError),
        (body(brief(2, b"x", b"\x12\x01\x04"), CONTENTS), densor.FormatError),
        (body(brief(2, b"x", b"\x01\x41" + b"\x01" * 65), CONTENTS), densor.FormatError),
        (body(brief(2, b"x", b"\x0e\x01" + b"\xff" * 8 + b"\x7f"), CONTENTS), densor.FormatError),
        (body(brief(3, b"x", b"\x01\x04\x01\x04"), CONTENTS), densor.FormatError),
        (body(brief(more=b"\xff" * 9 + b"\x01"), CONTENTS), densor.FormatError),
        (body(brief(frames=b"\x01\x04"), CONTENTS), densor.FormatError),
        (body(brief(frames=b"\x07\x10"), CONTENTS), densor.FormatError),
        (body(brief(frames=b"\x03\x00" + varint(1 << 32)), CONTENTS), densor.FormatError),
        (body(brief(frames=b"\x03" + varint(1 << 32) + b"\x04\x04"), CONTENTS), densor.FormatError),
        (body(brief(frames=b"\x03\x02\x04\x04"), CONTENTS), densor.UnsupportedError),
        (body(brief(frames=b"\x04" + varint(1 << 32) + b"\0\4"), CONTENTS[4:]), densor.FormatError),
        (body(brief(frames=b"\x04\0\0\4"), CONTENTS[4:]), densor.FormatError),
        (body(brief() + b"\xff", CONTENTS), densor.FormatError),
        (body(brief(4 | 8, b"{}", b""), CONTENTS), densor.FormatError),
        (body(brief()[:2] + varint(1 << 60), CONTENTS), densor.FormatError),
        (body(b"", BOMB, 1, 1 << 20), densor.LimitError),
        (body(b"", varint(len(BOMB)) + BOMB, 1, 1 << 18), densor.FormatError),
        (body(brief() * 2, CONTENTS * 2), densor.FormatError),
    ],
)
def test_what_is_refused(wrong: bytes, error: type[densor.DensorError]) -> None:
    archive = sealed(wrong)
    for read in (
        lambda: densor.verify_file(io.BytesIO(archive), threads=1),
        lambda: densor.decompress(archive),
    ):
        with pytest.raises(densor.DensorError) as ours:
            read()
        assert type(ours.value) is error
    with pytest.raises(Refused) as theirs:
        container.decode(archive)
    assert theirs.value.reason == error.__name__.removesuffix("Error").lower()


def test_many_frames_that_hold_nothing_end_soon() -> None:
    """A description that unpacks to a quarter of a million bytes of frames."""
    frames = b"\x80\x00" * 120_000
    description = bytes([4, 0, 0]) + varint(120_000) + frames
    packed = zstandard.ZstdCompressor().compress(description)
    wrong = body(
        b"", varint(len(packed)) + packed + xxhash.xxh3_128_digest(b""), 1, len(description)
    )
    assert len(wrong) < 100
    assert densor.decompress(sealed(wrong)) == b""


def test_older_readers_refuse_by_name() -> None:
    """By a header that they can check: its features are looked at before all but the version."""
    archive = densor.compress(b"hello")
    assert wire.parse_header(header()).features == 1
    fields, check = archive[:24], archive[24:32]
    assert struct.unpack("<Q", check)[0] == xxhash.xxh3_64_intdigest(fields)
    assert struct.unpack_from("<HHI", archive, 8) == (1, 0, 4)
