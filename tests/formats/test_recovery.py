"""Recovery data: what it mends, what it cannot, and that nobody else is disturbed by it."""

import io
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from helpers import model_file, random_state, take_apart
from hypothesis import given
from hypothesis import strategies as st
from reference import container
from reference import recovery as reference_recovery

import densor
from densor.formats.container import wire
from densor.formats.damage import recovery, scan
from densor.formats.io.sources import MemoryRandomSource

NOISE = random_state("recovery").integers(0, 256, 400_000, np.uint8).tobytes()


VALUES = (0, 1, 2, 255, 2**31, 2**32 - 1, 2**63, 2**64 - 1)


@pytest.fixture(scope="module")
def protected() -> bytes:
    """A file of 400 kB with 5 % of recovery data."""
    out = io.BytesIO()
    densor.compress_file(io.BytesIO(NOISE), out, recovery=5)
    return out.getvalue()


def layout_of(archive: bytes) -> recovery.Layout:
    layout = recovery.find_layout(MemoryRandomSource(archive))
    assert layout is not None
    return layout


def repaired(damaged: bytes, folder: Path) -> bytes:
    path = folder / "x"
    path.write_bytes(damaged)
    densor.archives.repair(path)
    assert os.listdir(folder) == ["x"]
    return path.read_bytes()


def test_archives_with_recovery_data_are_read_as_ever(protected: bytes) -> None:
    (entry,) = container.decode(protected)
    assert entry.data == NOISE
    assert container.read_index(protected)
    densor.verify_file(io.BytesIO(protected))
    with densor.open(protected) as file:
        assert file.read_file("stdin") == NOISE
    plain = io.BytesIO()
    densor.compress_file(io.BytesIO(NOISE), plain)
    layout = layout_of(protected)
    assert protected[: layout.protected] == plain.getvalue()[:-44]
    assert len(protected) == layout.size
    assert len(protected) < 1.1 * len(plain.getvalue())


def test_the_code_is_the_one_of_the_specification(protected: bytes) -> None:
    """Parity by interpolation over GF(2^8), as docs/format/container.md says, against zfec."""
    for size, percent in ((32, 100), (500, 50), (5000, 30)):
        data = NOISE[:size]
        layout = recovery.plan(size, 0, 1, percent)
        ((_, blocks),) = recovery.batches(MemoryRandomSource(data), layout)
        for group in range(layout.groups):
            frames = recovery.parity_frames(layout, group, blocks[:, group])
            for number, frame in enumerate(frames):
                block = frame[-layout.block :]
                wanted = reference_recovery.parity([bytes(row) for row in blocks[:, group]], number)
                assert block == wanted
    frames = [frame for frame in take_apart(protected) if frame.kind == 128]
    found = reference_recovery.check(protected)
    assert found == len(frames) > 0


@pytest.mark.parametrize("seed", range(12))
def test_bursts_anywhere_are_mended(protected: bytes, seed: int, tmp_path: Path) -> None:
    """5 % of the archive in one place, wherever it is: header, end and recovery data included."""
    rng = random_state("burst", seed)
    length = layout_of(protected).protected * 5 // 100
    for begin in (0, len(protected) - length, *rng.integers(0, len(protected) - length, 2)):
        damaged = bytearray(protected)
        noise = bool(seed % 2)
        piece = rng.integers(0, 256, length, np.uint8).tobytes() if noise else bytes(length)
        damaged[begin : begin + length] = piece
        assert repaired(bytes(damaged), tmp_path) == protected


def test_scattered_damage_is_mended(protected: bytes, tmp_path: Path) -> None:
    rng = random_state("scattered")
    parity = layout_of(protected).parity
    for count in range(1, parity + 1):
        damaged = bytearray(protected)
        for at in rng.integers(0, len(damaged), count):
            damaged[at] ^= 1 << rng.integers(0, 8)
        assert repaired(bytes(damaged), tmp_path) == protected


@pytest.mark.parametrize("share", [1, 30, 100, 1000, 10_000, 20_000])
def test_truncation_is_mended(protected: bytes, share: int, tmp_path: Path) -> None:
    assert repaired(protected[:-share], tmp_path) == protected


def test_recovery_data_that_is_gone_leaves_a_whole_archive(
    protected: bytes, tmp_path: Path
) -> None:
    at = layout_of(protected).protected
    for tail in (b"", NOISE[: len(protected) - at], bytes(len(protected) - at)):
        whole = repaired(protected[:at] + tail, tmp_path)
        assert whole[:at] == protected[:at] and len(whole) == at + 44
        assert densor.decompress(whole)


def test_too_much_damage_is_an_error_and_changes_nothing(protected: bytes, tmp_path: Path) -> None:
    damaged = bytearray(protected)
    damaged[1000 : 1000 + len(protected) // 4] = bytes(len(protected) // 4)
    path = tmp_path / "x"
    path.write_bytes(damaged)
    with pytest.raises(densor.ChecksumError, match="salvage"):
        densor.archives.repair(path)
    with pytest.raises(densor.ChecksumError, match="salvage"):
        densor.archives.repair(path, tmp_path / "y")
    assert path.read_bytes() == damaged
    assert os.listdir(tmp_path) == ["x"]


@given(st.data())
def test_random_damage_is_mended_or_refused(protected: bytes, data: st.DataObject) -> None:
    damaged = bytearray(protected)
    for _ in range(data.draw(st.integers(1, 4))):
        begin = data.draw(st.integers(0, len(protected) - 1))
        length = data.draw(st.integers(1, 30_000))
        fill = data.draw(st.integers(0, 255))
        piece = damaged[begin : begin + length]
        damaged[begin : begin + length] = bytes([fill]) * len(piece)
    del damaged[data.draw(st.integers(len(protected) - 9000, len(protected))) :]
    with tempfile.TemporaryDirectory() as folder:
        try:
            whole = repaired(bytes(damaged), Path(folder))
        except densor.DensorError:
            return
    assert densor.decompress_file(io.BytesIO(whole), io.BytesIO()).original == len(NOISE)
    assert whole == protected or whole[:-44] == protected[: len(whole) - 44]


def test_output_elsewhere_and_new_recovery_data(protected: bytes, tmp_path: Path) -> None:
    path, other = tmp_path / "x", tmp_path / "y"
    damaged = bytearray(protected)
    damaged[5000] ^= 1
    path.write_bytes(damaged)
    done = densor.archives.repair(path, other)
    assert (done.blocks, done.frames, done.ends, done.protected) == (1, 0, False, True)
    assert (path.read_bytes(), other.read_bytes()) == (damaged, protected)
    with pytest.raises(densor.FileError, match="already exists"):
        densor.archives.repair(path, other)
    densor.archives.repair(path, recovery=30)
    larger = path.read_bytes()
    assert layout_of(larger).percent == 30
    assert densor.archives.repair(path).was_whole and path.read_bytes() == larger
    damaged = bytearray(larger)
    length = layout_of(larger).protected * 3 // 10
    damaged[777 : 777 + length] = bytes(length)
    assert repaired(bytes(damaged), _fresh(tmp_path)) == larger


def _fresh(folder: Path) -> Path:
    (folder / "fresh").mkdir()
    return folder / "fresh"


def test_a_plain_archive_gets_recovery_data_and_ends(tmp_path: Path) -> None:
    path = tmp_path / "x"
    densor.compress_file(io.BytesIO(model_file()), path)
    plain = path.read_bytes()
    assert densor.archives.repair(path) == (0, 0, False, False)
    for damaged in (
        plain[:-1],
        plain[:-44],
        plain[:-20] + bytes(20),
        plain[:8] + bytes(24) + plain[32:],
    ):
        path.write_bytes(damaged)
        assert densor.archives.repair(path).ends
        assert path.read_bytes() == plain
    for damaged in (plain[:-60], plain[:5000] + bytes(50) + plain[5050:], b"", plain[:20], NOISE):
        path.write_bytes(damaged)
        with pytest.raises(densor.DensorError):
            densor.archives.repair(path)
        assert path.read_bytes() == damaged
    path.write_bytes(plain)
    densor.archives.repair(path, recovery=10)
    assert path.read_bytes()[: len(plain) - 44] == plain[:-44]
    assert layout_of(path.read_bytes()).percent == 10


@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, 5000, 262_144])
@pytest.mark.parametrize("percent", [0.1, 5, 100])
def test_all_sizes(size: int, percent: float, tmp_path: Path) -> None:
    out = io.BytesIO(b"before")
    out.seek(6)
    densor.compress_file(io.BytesIO(NOISE[:size]), out, recovery=percent, verify=True)
    archive = out.getvalue()[6:]
    layout = layout_of(archive)
    damaged = bytearray(archive)
    at = size // 2
    length = max(1, int(layout.protected * percent / 100))
    damaged[at : at + length] = bytes(len(damaged[at : at + length]))
    assert repaired(bytes(damaged), tmp_path) == archive


def test_folders_and_appending(model_folder: Path, tmp_path: Path) -> None:
    packed = tmp_path / "packed"
    sizes = densor.pack([model_folder], packed, recovery=10)
    whole = packed.read_bytes()
    assert sizes.stored == len(whole)
    damaged = bytearray(whole)
    damaged[100:2000] = bytes(1900)
    packed.write_bytes(damaged)
    densor.archives.repair(packed)
    assert packed.read_bytes() == whole
    (tmp_path / "new").write_bytes(model_file())
    densor.archives.append(packed, tmp_path / "new")
    assert layout_of(packed.read_bytes()).percent == 10
    densor.verify_file(packed)
    assert reference_recovery.check(packed.read_bytes())


def test_an_archive_within_another_is_not_taken_for_it(protected: bytes, tmp_path: Path) -> None:
    outer = io.BytesIO()
    densor.compress_file(io.BytesIO(protected), outer)
    assert protected[-5000:] in outer.getvalue()  # stored as it is
    assert recovery.find_layout(MemoryRandomSource(outer.getvalue())) is None
    for cut in (50, 2000, 20_000):  # frames of the inner archive can be seen now
        assert recovery.find_layout(MemoryRandomSource(outer.getvalue()[:-cut])) is None


def test_where_recovery_data_cannot_be_written(tmp_path: Path) -> None:
    class Pipe:
        def write(self, data: bytes) -> int:
            return len(data)

    with pytest.raises(densor.ArgumentError, match="read again"):
        densor.compress_file(io.BytesIO(NOISE), Pipe(), recovery=5)  # type: ignore[arg-type]
    with pytest.raises(densor.ArgumentError, match="read again"):
        densor.compress_file(io.BytesIO(NOISE), os.devnull, recovery=5)
    for percent in (0, -1, 101, float("nan")):
        with pytest.raises(densor.ArgumentError, match="percent"):
            densor.compress_file(io.BytesIO(NOISE), tmp_path / "x", recovery=percent)
    assert not os.listdir(tmp_path)


def test_without_the_library(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, protected: bytes
) -> None:
    monkeypatch.setitem(sys.modules, "zfec", None)
    with pytest.raises(densor.UnsupportedError, match=r"densor\[recovery\]"):
        densor.compress_file(io.BytesIO(NOISE), tmp_path / "x", recovery=5)
    path = tmp_path / "x"
    path.write_bytes(protected[:500] + b"?" + protected[501:])
    with pytest.raises(densor.UnsupportedError, match=r"densor\[recovery\]"):
        densor.archives.repair(path)
    densor.verify_file(io.BytesIO(protected))


def test_hostile_recovery_frames(protected: bytes, tmp_path: Path) -> None:
    """Every field of every kind of value: refused or harmless, and no large allocation."""
    layout = layout_of(protected)
    rng = random_state("hostile")
    frames = take_apart(protected)
    numbers = [i for i, frame in enumerate(frames) if frame.kind == 128]
    for _ in range(150):
        archive = bytearray(protected)
        for number in numbers if rng.random() < 0.5 else rng.choice(numbers, 2):
            at = layout.frame_offset(0, number - numbers[0])
            payload = bytearray(frames[number].payload)
            field = int(rng.integers(0, 52))
            width = int(rng.integers(1, 9))
            value = VALUES[rng.integers(0, len(VALUES))]
            payload[field : field + width] = value.to_bytes(8, "little")[:width]

            packed = wire.pack_frame(128, bytes(payload)) + bytes(payload)
            archive[at : at + len(packed)] = packed
        archive[300] ^= 1
        path = tmp_path / "x"
        path.write_bytes(archive)
        try:
            densor.archives.repair(path)
        except densor.DensorError:
            continue
        assert path.read_bytes()[: layout.protected] == protected[: layout.protected]


# Finding frames


def test_headers_are_found_wherever_they_stand(protected: bytes) -> None:
    rng = random_state("headers")
    frames = take_apart(protected)
    before = rng.integers(0, 256, 70_001, np.uint8).tobytes()
    found = list(scan.headers(MemoryRandomSource(before + protected), 0))
    at = len(before) + 32
    for frame in frames:
        assert (at, frame.kind, frame.original) in [(o, h.kind, h.original) for o, h in found]
        at += 28 + len(frame.payload)
    for data in (
        bytes(100_000),
        bytes([3]) * 100_000,
        b"\3\0\0\0" * 20_000,
        b"\3\0\0\0\0\0\0\0" * 9,
    ):
        assert not list(scan.headers(MemoryRandomSource(data), 0))


def test_the_vectorised_hash() -> None:
    import xxhash

    rows = random_state("rows").integers(0, 256, (500, 24), np.uint8)
    wanted = [xxhash.xxh3_64_intdigest(row.tobytes()) for row in rows]
    assert scan.digests_of_24(rows).tolist() == wanted
