"""Many tensors, large tensors, large archives: offsets and counts beyond 32 bits."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import densor
from densor.codec.kind import Segment, kind_of
from densor.formats.container import wire
from densor.formats.container.archive import Archive
from densor.formats.container.entry import TENSOR, EntryMeta
from densor.formats.container.index import before_each
from densor.formats.container.writer import ArchiveWriter
from densor.formats.io.sources import FileRandomSource, MemorySource
from densor.options import ReadOptions, WriteOptions

SKIPPED = 200  # a kind of frame that readers pass over


class Counted(io.BytesIO):
    """A file that counts what is read from it."""

    reads = 0
    bytes_read = 0

    def readinto(self, target: Any) -> int:
        self.reads += 1
        got = super().readinto(target)
        self.bytes_read += got
        return got


@pytest.mark.parametrize("count", [10, 5000])
def test_files_of_many_tensors_open_in_a_few_reads(count: int) -> None:
    values = np.arange(count * 4, dtype=np.float32).reshape(count, 4)
    archive = densor.save({f"w{number}": values[number] for number in range(count)})
    file = Counted(archive)
    with densor.open(file) as opened:
        assert len(opened.keys()) == count
        assert file.reads <= 6
        index = len(archive) - int.from_bytes(archive[-16:-8], "little")
        assert file.bytes_read <= index + wire.HEADER_SIZE + wire.END_SIZE
        before = file.reads
        assert np.array_equal(opened.get_tensor(f"w{count - 1}"), values[-1])
        assert file.reads - before <= 2  # chunk and model


@pytest.mark.parametrize("count", [3, 1000])
def test_archives_of_many_entries_open_in_a_few_reads(count: int) -> None:
    out = io.BytesIO()
    with densor.Writer(out) as writer:
        for number in range(count):
            writer.add_tensor(f"w{number}", np.full(3, number))
    file = Counted(out.getvalue())
    with densor.open(file) as opened:
        assert len(opened.keys()) == count
        assert file.reads <= 6
        for number in (0, count // 2, count - 1):
            assert opened.get_tensor(f"w{number}").tolist() == [number] * 3
            assert opened.info(f"w{number}").stored >= wire.FRAME_SIZE


def test_garbage_is_collected_again_after_an_error() -> None:
    import gc

    from densor.runtime.gc_pause import collection_paused

    with pytest.raises(ZeroDivisionError), collection_paused():
        assert not gc.isenabled()
        _ = 1 / 0
    assert gc.isenabled()
    gc.disable()
    with collection_paused():
        pass
    assert not gc.isenabled()
    gc.enable()


def test_sums_do_not_overflow() -> None:
    sizes = np.full(100, (1 << 26), np.int64)
    assert before_each(sizes)[-1] == 100 << 26
    assert before_each(np.empty(0, np.int64)).tolist() == [0]


def large_archive(path: Path, gap: int) -> Any:
    """An archive whose last tensor stands behind frames of `gap` bytes, which are holes.

    Returns that tensor.
    """
    tensor = np.random.default_rng(1).standard_normal(5000).astype(np.float32)
    nothing = bytes(wire.MAX_SKIPPABLE)
    skipped = wire.pack_frame(SKIPPED, nothing)
    with path.open("w+b") as file:
        writer = ArchiveWriter(file, WriteOptions(threads=1))

        def add(name: str, values: Any) -> None:
            meta = EntryMeta(name, TENSOR, values.nbytes, "F32", values.shape)
            segment = Segment(kind_of("F32", values.shape), values.nbytes)
            writer.add(meta, MemorySource(values), [segment])

        add("first", tensor[::-1].copy())
        for _ in range(gap // len(nothing)):
            file.write(skipped)
            file.seek(len(nothing), io.SEEK_CUR)
            writer._at += len(skipped) + len(nothing)
            row = SKIPPED, 0, len(nothing), 0
            for column, value in zip(writer._frames, row, strict=True):
                column.append(value)
        add("last", tensor)
        writer.close()
    return tensor


def test_offsets_beyond_4_gib(tmp_path: Path) -> None:
    path = tmp_path / "large.densor"
    tensor = large_archive(path, 5 << 30)
    assert path.stat().st_size > 5 << 30
    with densor.open(path) as opened:
        assert np.array_equal(opened.get_tensor("last"), tensor)
        assert np.array_equal(opened.get_slice("last")[77:99], tensor[77:99])
        assert np.array_equal(opened.get_tensor("first"), tensor[::-1])
        assert opened.info("last").stored < tensor.nbytes + 100
    with path.open("rb") as file:
        archive = Archive(FileRandomSource(file), ReadOptions(threads=1))
        assert archive.frames.offsets[-1] > 5 << 30
    path.unlink()


@pytest.mark.slow
def test_offsets_beyond_4_gib_on_a_pipe(tmp_path: Path) -> None:
    path = tmp_path / "large.densor"
    tensor = large_archive(path, 5 << 30)
    assert [entry.size for entry in densor.verify_file(path)] == [tensor.nbytes] * 2
    path.unlink()


def places(count: int) -> list[int]:
    """Elements beside which offsets need one more bit."""
    return [0, 1, (1 << 31) - 1, 1 << 31, count - 1]


def check_places(opened: Any, name: str, count: int) -> None:
    numbers = opened.get_slice(name)
    assert numbers.get_shape() == [count]
    for number, place in enumerate(places(count)):
        begin = max(0, place - 3)
        found = numbers[begin : place + 2]
        assert found.size == min(count, place + 2) - begin
        assert found[place - begin] == number + 1
    assert not numbers[1 << 30 : (1 << 30) + 100].any()


def test_more_than_2_to_the_31_elements(tmp_path: Path) -> None:
    """Zeros, of which memory holds one page and the archive one chunk."""
    count = (1 << 31) + 100
    tensor = np.zeros(count, np.int8)
    for number, place in enumerate(places(count)):
        tensor[place] = number + 1
    with densor.Writer(tmp_path / "x", 1) as writer:
        writer.add_tensor("t", tensor)
        writer.add_tensor("after", np.arange(5))
    assert (tmp_path / "x").stat().st_size < 1 << 20
    with densor.open(tmp_path / "x") as opened:
        check_places(opened, "t", count)
        assert opened.info("t").size == count
        assert opened.get_tensor("after").tolist() == [0, 1, 2, 3, 4]


@pytest.mark.slow
def test_a_sparse_file_of_more_than_4_gib(tmp_path: Path) -> None:
    count = (1 << 31) + 100
    path, packed, back = tmp_path / "t.npy", tmp_path / "t.densor", tmp_path / "back.npy"
    tensor = np.lib.format.open_memmap(path, "w+", np.float16, (count,))
    for number, place in enumerate(places(count)):
        tensor[place] = number + 1
    tensor.flush()
    del tensor
    assert path.stat().st_size > 4 << 30
    densor.compress_file(path, packed, 1)
    with densor.open(packed) as opened:
        check_places(opened, "t", count)
    densor.decompress_file(packed, back)
    assert back.stat().st_size == path.stat().st_size
    restored = np.load(back, mmap_mode="r")
    assert [int(restored[place]) for place in places(count)] == [1, 2, 3, 4, 5]
    for file in (path, packed, back):
        file.unlink()
