"""What is got out of damaged archives is right, is all that was left, and the rest is told."""

import io
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import archives
import numpy as np
import pytest
from helpers import (
    ENTRY,
    INDEX,
    MODEL,
    model_file,
    random_state,
    safetensors_bytes,
    take_apart,
    weights,
)
from mutations import resealed
from reference import container

import densor
from densor.formats.container import wire, writer
from densor.formats.damage import inventory, scan
from densor.formats.damage.salvage import Damage, EntryDamage
from densor.formats.io.sources import MemoryRandomSource

TEXT = b"".join(b"line %d of some text\n" % i for i in range(2000))
NOISE = random_state("salvage").integers(0, 256, 30_000, np.uint8).tobytes()


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of small files need not reach the disk."""
    monkeypatch.setattr("os.fsync", lambda _: None)


class Frame:
    """A frame and where it is."""

    def __init__(self, stretch: scan.Stretch) -> None:
        assert stretch.header is not None
        self.begin, self.end, self.kind = stretch.offset, stretch.end, stretch.header.kind
        self.model, self.original = stretch.header.model, stretch.header.original


def frames_of(archive: bytes) -> list[Frame]:
    return [Frame(stretch) for stretch in scan.walk(MemoryRandomSource(archive))]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Files of several kinds, two of them equal."""
    path = tmp_path / "original"
    (path / "sub" / "empty").mkdir(parents=True)
    bits = weights("bf16", 60, 200)
    (path / "a.safetensors").write_bytes(
        safetensors_bytes(
            {
                "first": ("BF16", bits.shape, bits.tobytes()),
                "second": ("BF16", bits.shape, weights("bf16", 60, 200, 1).tobytes()),
            }
        )
    )
    (path / "b.txt").write_bytes(TEXT)
    (path / "c.bin").write_bytes(NOISE)
    (path / "sub" / "d.safetensors").write_bytes(model_file())
    (path / "sub" / "e.bin").write_bytes(NOISE)
    return path


@pytest.fixture
def packed(
    folder: Path, tiny_batches: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> bytes:
    """An archive of the folder, of many chunks."""
    tiny_batches(4000)
    out = io.BytesIO()
    densor.pack([folder], out, threads=1)
    return out.getvalue()


@pytest.fixture
def with_places(folder: Path, packed: bytes, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """Likewise, with frames that tell where they stand."""
    monkeypatch.setattr(writer, "_PLACE_EVERY", 6000)
    out = io.BytesIO()
    densor.pack([folder], out, threads=1)
    assert out.getvalue().count(b"\x81\0\0\0\x10\0\0\0") > 10
    return out.getvalue()


def test_places_are_true(with_places: bytes) -> None:
    """What PLACE frames say is what a reader from the start on counts."""
    entry, models, offset, seen = -1, 0, 0, 0
    for frame in take_apart(with_places):
        if frame.kind == ENTRY:
            entry, offset = entry + 1, 0
        models += frame.kind == MODEL
        if frame.kind in (wire.CHUNK, wire.REF):
            offset += frame.original
        if frame.kind == wire.PLACE:
            seen += 1
            assert wire.PLACE_PAYLOAD.unpack(frame.payload) == (entry, models, offset)
    assert seen > 10
    assert len(container.decode(with_places)) == entry + 1


def contents(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def salvaged(archive: bytes, folder: Path, tmp_path: Path, base: object = None) -> Damage:
    """Salvages and holds everything against the originals."""
    path, out = tmp_path / "archive", tmp_path / "out"
    path.write_bytes(archive)
    shutil.rmtree(out, ignore_errors=True)
    originals = contents(folder)
    found = densor.archives.salvage(path, out, threads=1, overwrite=True, base=base)
    surveyed = densor.archives.damage(path, threads=1, base=base)
    for mine, other in zip(found.entries, surveyed.entries, strict=True):
        assert vars(mine) | {"file": None} == vars(other)
    written = contents(out)
    for entry in found.entries:
        if entry.kind != "dir":
            assert entry.file is not None
            check_entry(entry, originals, written[entry.file])
    assert json.loads(written["salvage.json"]) == json.loads(json.dumps(found.to_json()))
    for name, data in written.items():
        if ".at-" in name and bytes(64) not in data:  # chunks of no known place, in order
            assert any(data in original for original in originals.values())
    return found


def check_entry(entry: EntryDamage, originals: dict[str, bytes], data: bytes) -> None:
    """What is not said to be lost is right."""
    if entry.name is None:
        whole = [o for o in (b"", *originals.values()) if entry.size in (None, len(o))]
        assert any(agrees(entry, original, data) for original in whole)
        return
    original = originals[entry.name]
    assert agrees(entry, original, data), entry
    if entry.whole:
        assert data == original
        assert entry.file == entry.name
    else:
        assert entry.file is not None and ".partial" in entry.file


def agrees(entry: EntryDamage, original: bytes, data: bytes) -> bool:
    """Whether the data is the original where nothing is said to be lost, zeros where it is."""
    at = 0
    for lost in entry.lost:
        end = len(original) if lost.end is None else lost.end
        if data[at : lost.begin] != original[at : lost.begin] or any(data[lost.begin : end]):
            return False
        at = end
    return data[at:] == original[at : max(at, len(data))]


def lost_bytes(entry: EntryDamage) -> int:
    """How many bytes are lost, those up to an unknown end left out."""
    return sum(lost.end - lost.begin for lost in entry.lost if lost.end is not None)


def kept(found: Damage) -> int:
    """Bytes that are there, in their places."""
    sizes = (entry.size or 0 for entry in found.entries)
    return sum(sizes) - sum(map(lost_bytes, found.entries))


def untouched(archive: bytes, damaged: bytearray) -> int:
    """Original bytes of the chunks that are the same in both, models included."""
    total = 0
    models: list[bool] = []
    for frame in frames_of(archive):
        same = archive[frame.begin : frame.end] == damaged[frame.begin : frame.end]
        if frame.kind == MODEL:
            models.append(same)
        if frame.kind == wire.CHUNK and same and (frame.model < 16 or models[frame.model - 16]):
            total += frame.original
    return total


def test_sound_archives(packed: bytes, with_places: bytes, folder: Path, tmp_path: Path) -> None:
    for archive in (packed, with_places):
        found = salvaged(archive, folder, tmp_path)
        assert found.sound and found.has_index and all(entry.verified for entry in found.entries)
        assert kept(found) == sum(map(len, contents(folder).values()))
    names = [name for name in contents(tmp_path / "out") if name != "salvage.json"]
    assert sorted(names) == sorted(contents(folder))
    assert (tmp_path / "out" / "sub" / "empty").is_dir()


@pytest.mark.parametrize("name", [n for n in archives.MAKERS if n != "folder"])
def test_archives_of_all_kinds(name: str, tmp_path: Path) -> None:
    """Entries that are no files come as their bytes; each frame in turn is damaged."""
    sample = archives.sample(name)
    path = tmp_path / "archive"
    for frame in [None, *frames_of(sample.archive)]:
        damaged = bytearray(sample.archive)
        if frame is not None:
            damaged[frame.end - 1] ^= 1
        path.write_bytes(damaged)
        found = densor.archives.salvage(path, tmp_path / "out", threads=1, overwrite=True)
        written = contents(tmp_path / "out")
        assert found.sound == (frame is None)
        for entry in found.entries:
            if entry.whole and entry.name is not None and entry.file is not None:
                assert written[entry.file] == sample.entries[entry.name]


def test_every_frame_damaged_with_an_index(packed: bytes, folder: Path, tmp_path: Path) -> None:
    """Just the bytes of the damaged chunk are lost, and what depends on it."""
    total = sum(map(len, contents(folder).values()))
    for frame in frames_of(packed)[::3]:
        damaged = bytearray(packed)
        damaged[frame.begin + 1 : frame.begin + 9] = b"\xff" * 8
        found = salvaged(bytes(damaged), folder, tmp_path)
        assert not found.sound
        lost = total - kept(found)
        if frame.kind in (wire.CHUNK, wire.REF):
            assert frame.original <= lost <= 4 * frame.original
        elif frame.kind == MODEL:
            assert 0 < lost <= 9000
        else:
            assert lost == 0 and all(entry.whole for entry in found.entries)


@pytest.mark.parametrize("places", [False, True])
@pytest.mark.parametrize("what", ["header", "payload"])
def test_every_frame_damaged_and_no_index(
    what: str, places: bool, packed: bytes, with_places: bytes, folder: Path, tmp_path: Path
) -> None:
    archive = with_places if places else packed
    frames = frames_of(archive)
    total = sum(map(len, contents(folder).values()))
    end = next(frame.begin for frame in frames if frame.kind == INDEX)
    for frame in frames[: -2 : 2 if places else 3]:
        damaged = bytearray(archive[:end])
        damaged[frame.begin if what == "header" else frame.end - 1] ^= 0x10
        found = salvaged(bytes(damaged), folder, tmp_path)
        assert not found.has_index and found.truncated and found.damaged
        lost = total - kept(found)
        if frame.kind in (wire.CHUNK, wire.REF):
            assert lost <= 4 * frame.original
        elif frame.kind == wire.PLACE:
            assert lost == 0
        elif frame.kind == MODEL:
            assert lost <= 9000


def test_truncated_anywhere(packed: bytes, folder: Path, tmp_path: Path) -> None:
    """Every whole chunk in front of the cut is there."""
    frames = frames_of(packed)
    rng = random_state("cuts")
    for cut in sorted(rng.integers(40, len(packed), 40).tolist()):
        found = salvaged(packed[:cut], folder, tmp_path)
        assert found.truncated
        whole = [f for f in frames if f.end <= cut and f.kind in (wire.CHUNK, wire.REF)]
        there = sum(e.lost[0].begin if e.lost else e.size or 0 for e in found.entries)
        assert there == sum(frame.original for frame in whole)


@pytest.mark.parametrize("places", [False, True])
@pytest.mark.parametrize("index", [False, True])
def test_random_damage(
    index: bool, places: bool, packed: bytes, with_places: bytes, folder: Path, tmp_path: Path
) -> None:
    archive = with_places if places else packed
    if not index:
        end = next(frame.begin for frame in frames_of(archive) if frame.kind == INDEX)
        archive = archive[:end]
    rng = random_state("random", index, places)
    total = sum(map(len, contents(folder).values()))
    shares = []
    for _ in range(25):
        damaged = bytearray(archive)
        for _ in range(int(rng.integers(1, 5))):
            begin, length = int(rng.integers(0, len(archive))), int(rng.integers(1, 3000))
            damaged[begin : begin + length] = bytes(len(damaged[begin : begin + length]))
        found = salvaged(bytes(damaged), folder, tmp_path)
        shares.append(kept(found) / total)
        if found.has_index:
            assert kept(found) >= untouched(archive, damaged)
    assert np.mean(shares) > (0.7 if index else 0.65 if places else 0.4)


def test_data_after_the_end(packed: bytes, folder: Path, tmp_path: Path) -> None:
    for junk in (b"x", NOISE, packed):
        found = salvaged(packed + junk, folder, tmp_path)
        assert all(entry.whole for entry in found.entries)
        assert not found.sound and not found.truncated
        assert found.damaged == [(len(packed), len(packed + junk), "data after the end")]
        densor.archives.repair(tmp_path / "archive")
        assert (tmp_path / "archive").read_bytes() == packed
    damaged = bytearray(packed)
    damaged[frames_of(packed)[8].begin] ^= 1
    found = salvaged(bytes(damaged) + NOISE, folder, tmp_path)
    assert found.has_index and len(found.lost) == 1


def test_missing_and_inserted_bytes(packed: bytes, folder: Path, tmp_path: Path) -> None:
    """The index no longer fits; frames are found all the same."""
    rng = random_state("shifted")
    total = sum(map(len, contents(folder).values()))
    for number in range(12):
        at = int(rng.integers(100, len(packed) - 2000))
        piece = NOISE[:700] if number % 2 else b""
        damaged = packed[:at] + piece + packed[at + (0 if number % 2 else 500) :]
        found = salvaged(damaged, folder, tmp_path)
        assert not found.sound
        assert kept(found) > 0.6 * total


def test_the_header_and_the_begin_of_an_entry(packed: bytes, folder: Path, tmp_path: Path) -> None:
    damaged = bytes(32) + packed[32:]
    found = salvaged(damaged, folder, tmp_path)
    assert [d.what for d in found.damaged] == ["header"]
    assert all(entry.whole for entry in found.entries)
    end = next(frame.begin for frame in frames_of(packed) if frame.kind == INDEX)
    entries = [frame for frame in frames_of(packed) if frame.kind == ENTRY]
    cut = bytearray(packed[:end])
    cut[entries[1].end - 5] ^= 1
    found = salvaged(bytes(cut), folder, tmp_path)
    unnamed = [entry for entry in found.entries if entry.name is None]
    assert len(unnamed) == 1 and unnamed[0].number == 1 and not unnamed[0].lost
    assert (tmp_path / "out" / "entry-1.partial").read_bytes() == TEXT


def test_an_archive_within_a_damaged_archive(
    tmp_path: Path, tiny_batches: Callable[[int], None]
) -> None:
    """Frames of the inner archive are not taken for those of the outer one."""
    original = tmp_path / "original"
    original.mkdir()
    inner = densor.compress(NOISE[:9000])
    (original / "inner.densor").write_bytes(inner)
    (original / "z.txt").write_bytes(TEXT)
    out = io.BytesIO()
    densor.pack([original], out, threads=1)
    archive = out.getvalue()
    chunk = next(f for f in frames_of(archive) if f.kind == wire.CHUNK)
    assert inner in archive[chunk.begin : chunk.end]
    end = next(frame.begin for frame in frames_of(archive) if frame.kind == INDEX)
    damaged = bytearray(archive[:end])
    damaged[chunk.begin] ^= 0x20
    found = salvaged(bytes(damaged), original, tmp_path)
    assert [entry.name for entry in found.entries] == ["inner.densor", "z.txt"]
    assert found.entries[0].lost == [(0, len(inner), "its frames are damaged")]
    assert found.entries[1].whole
    found = salvaged(archive[: chunk.end - 3], original, tmp_path)
    assert [entry.name for entry in found.entries] == ["inner.densor"]


def test_chains_of_bases(tmp_path: Path, tiny_batches: Callable[[int], None]) -> None:
    """A chunk that was coded against lost bytes is lost with them; others are not."""
    tiny_batches(4000)
    original, archive = tmp_path / "original", tmp_path / "chain"
    original.mkdir()
    bits = weights("bf16", 80, 200)
    for step in range(3):
        data = safetensors_bytes({"w": ("BF16", bits.shape, bits.tobytes())})
        (original / f"{step}").write_bytes(data)
        bits = bits + (np.arange(bits.size).reshape(bits.shape) % 13 == step).astype(np.uint16)
    densor.pack([original / "0"], archive, threads=1)
    densor.archives.append(archive, original / "1", threads=1)
    densor.archives.append(archive, original / "2", threads=1)
    packed = archive.read_bytes()
    frames = frames_of(packed)
    assert salvaged(packed, original, tmp_path).sound
    chunk = [f for f in frames if f.kind == wire.CHUNK and f.original > 1000][1]
    damaged = bytearray(packed)
    damaged[chunk.end - 1] ^= 1
    found = salvaged(bytes(damaged), original, tmp_path)
    assert [len(entry.lost) for entry in found.entries] == [1, 1, 1]
    assert "coded against" in found.entries[2].lost[0].why
    assert lost_bytes(found.entries[0]) == chunk.original
    assert found.entries[0].tensors == ["w"]


def test_a_base_outside(tmp_path: Path) -> None:
    bits = weights("bf16", 80, 200)
    for name, add in (("old", 0), ("new", 1)):
        changed = bits + np.uint16(add) * (np.arange(bits.size).reshape(bits.shape) % 9 == 0)
        data = safetensors_bytes({"w": ("BF16", bits.shape, changed.astype(np.uint16).tobytes())})
        (tmp_path / name).write_bytes(data)
    packed = tmp_path / "packed"
    densor.compress_file(tmp_path / "new", packed, base=tmp_path / "old")
    with pytest.raises(densor.ArgumentError, match="--base"):
        densor.archives.damage(packed)
    assert densor.archives.damage(packed, base=tmp_path / "old").sound
    archive = bytearray(packed.read_bytes())
    archive[-40:] = bytes(40)
    packed.write_bytes(archive)
    found = densor.archives.salvage(packed, tmp_path / "out", base=tmp_path / "old")
    assert found.truncated and found.entries[0].verified
    assert (tmp_path / "out" / "new").read_bytes() == (tmp_path / "new").read_bytes()


def test_what_is_no_archive(tmp_path: Path) -> None:
    path = tmp_path / "x"
    for data in (b"", b"x", TEXT, NOISE, bytes(100_000)):
        path.write_bytes(data)
        for action in (
            lambda: densor.archives.damage(path),
            lambda: densor.archives.salvage(path, tmp_path / "o"),
        ):
            with pytest.raises(densor.FormatError, match="not a densor archive"):
                action()
    assert not (tmp_path / "o").exists()


def test_existing_files_are_kept(packed: bytes, folder: Path, tmp_path: Path) -> None:
    path, out = tmp_path / "archive", tmp_path / "out"
    path.write_bytes(packed[:-44])
    out.mkdir()
    (out / "b.txt").write_bytes(b"mine")
    with pytest.raises(densor.FileError, match="already exists"):
        densor.archives.salvage(path, out)
    assert (out / "b.txt").read_bytes() == b"mine"


def test_limits(packed: bytes, tmp_path: Path) -> None:
    path = tmp_path / "archive"
    path.write_bytes(packed)
    with pytest.raises(densor.LimitError):
        densor.archives.damage(path, max_output_size=100_000)


def test_damaged_archives_that_lie(tmp_path: Path) -> None:
    """Hostile frames with valid checks: never wrong data under a right name, never a crash."""
    rng = random_state("lies")
    path = tmp_path / "x"
    for name in ("small file", "folder", "tensors", "chain", "scales"):
        sample = archives.sample(name)
        for _ in range(40):
            archive = bytearray(resealed(sample.archive, rng))
            if rng.random() < 0.5:
                archive[int(rng.integers(0, len(archive)))] ^= 1 << int(rng.integers(0, 8))
            if rng.random() < 0.3:
                del archive[int(rng.integers(32, len(archive))) :]
            path.write_bytes(archive)
            try:
                found = densor.archives.salvage(path, tmp_path / "out", threads=1, overwrite=True)
            except densor.DensorError:
                continue
            written = contents(tmp_path / "out")
            for entry in found.entries:
                if entry.verified and entry.file is not None:
                    assert written[entry.file] in {*sample.entries.values(), b""}


def test_a_survey_of_many_frames_is_linear() -> None:
    """Headers that claim large payloads one within the other are not hashed again and again."""
    head = wire.pack_header(0)
    frame = bytearray(wire.pack_frame(wire.CHUNK, b"x" * 100_000, 1 << 20, 1))
    data = head + bytes(frame) * 20_000
    begin = time.monotonic()
    inventory.survey(MemoryRandomSource(data))
    assert time.monotonic() - begin < 20
