"""Files and folders: whole or not at all, whatever fails; identical when they come back."""

import errno
import io
import os
import shutil
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import archives
import numpy as np
import pytest
import zstandard
from helpers import (
    CHUNK,
    MODEL,
    REF,
    FaultyFile,
    Frame,
    model_file,
    one_object,
    random_state,
    take_apart,
    weights,
)
from reference import container

import densor

NOISE = random_state("file").integers(0, 256, 70_000, np.uint8).tobytes()
CONTENTS = {
    "nothing": b"",
    "one byte": b"x",
    "text": b"to be or not to be, " * 400,
    "noise": NOISE,
    "model": model_file(),
    "zeros": bytes(1_000_000),
}


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def through_pipe(data: bytes) -> Any:
    """A pipe that yields `data`, in pieces."""
    read_end, write_end = os.pipe()

    def feed() -> None:
        with os.fdopen(write_end, "wb") as out:
            for begin in range(0, len(data), 3001):
                out.write(data[begin : begin + 3001])

    threading.Thread(target=feed, daemon=True).start()
    return os.fdopen(read_end, "rb", buffering=0)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", CONTENTS)
def test_files_by_path(name: str, threads: int, tmp_path: Path) -> None:
    plain, packed, restored = (tmp_path / part for part in ("plain", "packed", "restored"))
    plain.write_bytes(CONTENTS[name])
    sizes = densor.compress_file(plain, packed, threads=threads, verify=True)
    assert sizes == (len(CONTENTS[name]), packed.stat().st_size)
    again = densor.decompress_file(packed, restored, threads=threads)
    assert again == sizes
    assert restored.read_bytes() == plain.read_bytes() == CONTENTS[name]
    assert left_in(tmp_path) == ["packed", "plain", "restored"]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", CONTENTS)
def test_file_objects_and_pipes(name: str, threads: int) -> None:
    data = CONTENTS[name]
    for source in (io.BytesIO(data), through_pipe(data)):
        for target in (io.BytesIO(), io.BufferedRandom(io.BytesIO())):  # type: ignore[arg-type]
            densor.compress_file(source, target, threads=threads, verify=True)
            target.seek(0)
            packed = target.read()
            for again in (io.BytesIO(packed), through_pipe(packed)):
                restored = io.BytesIO()
                densor.decompress_file(again, restored, threads=threads)
                assert restored.getvalue() == data
            if not source.seekable():
                break
            source.seek(0)


def test_from_pipe_to_pipe() -> None:
    data = CONTENTS["model"] * 3
    read_end, write_end = os.pipe()

    def pack() -> None:
        with os.fdopen(write_end, "wb", buffering=0) as out:
            densor.compress_file(through_pipe(data), out, threads=2)

    packer = threading.Thread(target=pack)
    packer.start()
    restored = io.BytesIO()
    with os.fdopen(read_end, "rb", buffering=0) as source:
        densor.decompress_file(source, restored, threads=2)
    packer.join()
    assert restored.getvalue() == data


class Minimal:
    """No more than a method to read or to write."""

    def __init__(self, data: bytes = b"") -> None:
        self.data = data

    def read(self, count: int) -> bytes:
        piece, self.data = self.data[:count], self.data[count:]
        return piece


class MinimalOut:
    def __init__(self) -> None:
        self.data = b""

    def write(self, data: Any) -> int:
        piece = bytes(data)[:1000]  # like a pipe, it may take less
        self.data += piece
        return len(piece)

    def flush(self) -> None:
        pass


def test_the_least_that_a_file_object_must_have() -> None:
    packed, restored = MinimalOut(), MinimalOut()
    densor.compress_file(Minimal(model_file()), packed)  # type: ignore[arg-type]
    densor.decompress_file(Minimal(packed.data), restored)  # type: ignore[arg-type]
    assert restored.data == model_file()
    seekable = io.BytesIO()
    densor.compress_file(io.BytesIO(model_file()), seekable)
    assert REF in [frame.kind for frame in take_apart(seekable.getvalue())]
    restored = MinimalOut()
    densor.decompress_file(Minimal(seekable.getvalue()), restored)  # type: ignore[arg-type]
    assert restored.data == model_file()


def test_raw_files_that_have_only_read() -> None:
    class Raw(io.RawIOBase):
        inner = io.BytesIO(b"some bytes")

        def readable(self) -> bool:
            return True

        def read(self, size: int = -1) -> bytes:
            return self.inner.read(min(size, 3) if size >= 0 else size)

    packed, restored = io.BytesIO(), io.BytesIO()
    densor.compress_file(Raw(), packed)  # type: ignore[arg-type]
    packed.seek(0)
    densor.decompress_file(packed, restored)
    assert restored.getvalue() == b"some bytes"


@pytest.mark.parametrize("given", [5, -1])
def test_files_that_give_other_lengths_than_they_may(given: int) -> None:
    class Longer(io.BytesIO):
        def readinto(self, target: Any) -> int:
            found = super().readinto(target)
            return found + given if given > 0 else given

    class Read:
        def __init__(self, data: bytes) -> None:
            self._inner = io.BytesIO(data)

        def read(self, size: int) -> bytes:
            return self._inner.read(size) + b"x"

    packed = densor.compress(b"some bytes" * 100)
    for work, data in (
        (densor.compress_file, b"some bytes" * 100),
        (densor.decompress_file, packed),
    ):
        for file in (Longer(data), Read(data)):
            with pytest.raises(densor.FileError, match="cannot read: the file gave"):
                work(file, io.BytesIO())  # type: ignore[operator]


@pytest.mark.parametrize("taken", [0, -1])
def test_files_that_take_nothing(taken: int) -> None:
    class Full:
        def write(self, data: Any) -> int:
            return taken

    packed = densor.compress(b"some bytes" * 100)
    for work, data in ((densor.compress_file, b"some bytes"), (densor.decompress_file, packed)):
        with pytest.raises(densor.FileError, match="cannot write: the file took nothing"):
            work(io.BytesIO(data), Full())  # type: ignore[operator]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs POSIX")
def test_a_base_that_is_no_regular_file(tmp_path: Path) -> None:
    """Of which nothing could be read again, as if it were empty."""
    (tmp_path / "x").write_bytes(b"x")
    for base in ("/dev/zero", "/dev/null"):
        with pytest.raises(densor.FileError, match="no regular file"):
            densor.compress_file(tmp_path / "x", tmp_path / "y", base=base)
    assert not (tmp_path / "y").exists()


def test_an_archive_does_not_take_the_place_of_its_base(tmp_path: Path) -> None:
    base, file = tmp_path / "base", tmp_path / "file"
    base.write_bytes(bytes(range(256)) * 100)
    file.write_bytes(bytes(range(256)) * 101)
    for place in (base, f"{tmp_path}/./base"):
        with pytest.raises(densor.ArgumentError, match="is the base"):
            densor.compress_file(file, place, base=base, overwrite=True)
        with pytest.raises(densor.ArgumentError, match="is the base"):
            densor.pack([file], place, base=str(base), overwrite=True)
    assert base.read_bytes() == bytes(range(256)) * 100


def test_file_objects_that_do_not_begin_at_zero() -> None:
    packed = io.BytesIO(b"before")
    packed.seek(6)
    densor.compress_file(io.BytesIO(model_file()), packed, verify=True)
    assert packed.getvalue()[:6] == b"before"
    assert densor.load(packed.getvalue()[6:])
    packed.seek(6)
    restored = io.BytesIO(b"so far")
    restored.seek(6)
    densor.decompress_file(packed, restored)
    assert restored.getvalue() == b"so far" + model_file()


def test_append_mode(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"before")
    with path.open("ab") as file:
        densor.compress_file(io.BytesIO(model_file()), file)
    assert densor.load(path.read_bytes()[6:])


# Where output may go


def test_existing_files_are_kept_unless_told_otherwise(tmp_path: Path) -> None:
    plain, target = tmp_path / "plain", tmp_path / "target"
    plain.write_bytes(b"new")
    target.write_bytes(b"old")
    packed = io.BytesIO(densor.compress(b"new"))
    with pytest.raises(densor.FileError, match="already exists"):
        densor.compress_file(plain, target)
    with pytest.raises(densor.FileError, match="already exists"):
        densor.decompress_file(packed, target)
    with pytest.raises(densor.FileError, match="already exists"):
        densor.pack([plain], target)
    with pytest.raises(densor.FileError, match="already exists"):
        densor.Writer(target)
    assert target.read_bytes() == b"old"
    packed.seek(0)
    densor.decompress_file(packed, target, overwrite=True)
    assert target.read_bytes() == b"new"
    densor.compress_file(plain, target, overwrite=True)
    assert densor.decompress(target.read_bytes()) == b"new"
    assert left_in(tmp_path) == ["plain", "target"]


def test_paths_that_cannot_be_read_or_written(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_bytes(b"x")
    packed = tmp_path / "packed"
    densor.compress_file(plain, packed)
    for source, target in (
        (tmp_path / "missing", tmp_path / "out"),
        (tmp_path, tmp_path / "out"),
        (plain, tmp_path),
        (plain, tmp_path / "no" / "folder"),
        (plain, plain / "below a file"),
        (plain, tmp_path / ("x" * 300)),
        (tmp_path / ("x" * 300), tmp_path / "out"),
    ):
        good = packed if source == plain else source
        member = "missing" if source == tmp_path else source
        for action in (
            lambda s=source, t=target: densor.compress_file(s, t),
            lambda s=good, t=target: densor.decompress_file(s, t),
            lambda m=member, t=target: densor.pack([m], t),
        ):
            with pytest.raises(densor.FileError) as error:
                action()
            assert "\n" not in str(error.value)
    assert left_in(tmp_path) == ["packed", "plain"]


@pytest.mark.parametrize("name", ["x" * 255, "ü" * 127, "名" * 85, "🙂" * 63, "-", "a b", "'\""])
def test_file_names_as_long_as_the_system_allows(name: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"data")
    densor.compress_file(source, tmp_path / name)
    densor.decompress_file(tmp_path / name, source, overwrite=True)
    assert source.read_bytes() == b"data"
    assert left_in(tmp_path) == sorted([name, "source"])


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk() -> None:
    for name in CONTENTS:
        with pytest.raises(densor.FileError):
            densor.compress_file(io.BytesIO(CONTENTS[name]), "/dev/full")
        full = Path("/dev/full").open("wb")  # noqa: SIM115 (closing it fails too)
        with pytest.raises(densor.FileError):
            densor.compress_file(io.BytesIO(CONTENTS[name]), full)
        with pytest.raises(OSError, match="No space left"):
            full.close()
        if name != "nothing":
            packed = io.BytesIO(densor.compress(CONTENTS[name]))
            with pytest.raises(densor.FileError):
                densor.decompress_file(packed, "/dev/full")


def test_devices_can_be_written_to() -> None:
    densor.compress_file(io.BytesIO(NOISE), os.devnull)
    densor.decompress_file(io.BytesIO(densor.compress(NOISE)), os.devnull)


# Faults while reading and writing


FAULTS = (OSError(errno.EIO, "Input/output error"), OSError(errno.ENOSPC, "No space left"))


@pytest.mark.parametrize("threads", [1, 2])
def test_sources_that_fail_anywhere(threads: int, tmp_path: Path) -> None:
    rng = random_state("faults")
    for name in ("text", "model", "noise"):
        data = CONTENTS[name]
        packed = io.BytesIO()
        densor.compress_file(io.BytesIO(data), packed)
        for good in [0, 1, 7, 8, 9, *rng.integers(10, len(data) - 1, 10).tolist()]:
            faulty = FaultyFile(good, FAULTS[0], data)
            with pytest.raises(densor.FileError, match="Input/output error"):
                densor.compress_file(faulty, tmp_path / "out", threads=threads)  # type: ignore[arg-type]
            assert not left_in(tmp_path)
        blob = packed.getvalue()
        for good in [0, 1, 31, 32, *rng.integers(33, len(blob) - 1, 10).tolist()]:
            for action in (
                lambda file: densor.decompress_file(file, tmp_path / "out", threads=threads),
                lambda file: densor.verify_file(file, threads=threads),
            ):
                with pytest.raises(densor.FileError, match="Input/output error"):
                    action(FaultyFile(good, FAULTS[0], blob))
                assert not left_in(tmp_path)
            faulty = FaultyFile(good, FAULTS[0], blob)
            folder = tmp_path / f"{name}{good}"
            with pytest.raises(densor.FileError, match="Input/output error"):
                densor.extract(faulty, folder, threads=threads)  # type: ignore[arg-type]
            for path in folder.glob("*"):  # it may have been whole before the fault
                assert path.read_bytes() == data
            shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize("fault", FAULTS, ids=str)
@pytest.mark.parametrize("threads", [1, 2])
def test_targets_that_fail_anywhere(fault: OSError, threads: int) -> None:
    rng = random_state("faults")
    for name in ("text", "model", "noise"):
        data = CONTENTS[name]
        packed = io.BytesIO()
        densor.compress_file(io.BytesIO(data), packed)
        blob = packed.getvalue()
        for good in [0, 1, 31, 32, *rng.integers(33, len(blob) - 1, 10).tolist()]:
            with pytest.raises(densor.FileError, match=fault.strerror):
                densor.compress_file(io.BytesIO(data), FaultyFile(good, fault), threads=threads)  # type: ignore[arg-type]
            with pytest.raises(densor.FileError, match=fault.strerror):
                densor.save_file({"x": weights("fp32", 400, 99)}, FaultyFile(good, fault))  # type: ignore[arg-type]
        for good in [0, 1, *rng.integers(2, len(data) - 1, 10).tolist()]:
            with pytest.raises(densor.FileError, match=fault.strerror):
                densor.decompress_file(io.BytesIO(blob), FaultyFile(good, fault), threads=threads)  # type: ignore[arg-type]


class Flushing(io.BytesIO):
    """Takes everything, and fails when it should be passed on."""

    def flush(self) -> None:
        raise OSError(errno.ENOSPC, "No space left")


def test_a_target_that_fails_late() -> None:
    with pytest.raises(densor.FileError, match="No space left"):
        densor.compress_file(io.BytesIO(NOISE), Flushing())


@pytest.mark.parametrize("call", ["write", "fsync", "rename"])
def test_a_file_system_that_fails(call: str, tmp_path: Path, monkeypatch: Any) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left")

    plain = tmp_path / "plain"
    plain.write_bytes(model_file())
    packed = tmp_path / "packed"
    densor.compress_file(plain, packed)
    with monkeypatch.context() as patch:
        if call == "write":
            patch.setattr("densor.formats.container.writer.write_all", fail_as_file_error)
            patch.setattr("densor.formats.container.sinks.write_all", fail_as_file_error)
            patch.setattr("densor.formats.io.outputs.WholeFile.write_at", fail_as_file_error)
        elif call == "fsync":
            patch.setattr(os, "fsync", fail)
        else:
            patch.setattr(os, "link", fail)
            patch.setattr(Path, "replace", fail)
        for action in (
            lambda: densor.compress_file(plain, tmp_path / "out", sync=True),
            lambda: densor.decompress_file(packed, tmp_path / "out", sync=True),
            lambda: densor.pack([plain], tmp_path / "out", sync=True),
            lambda: densor.extract(packed, tmp_path / "folder", sync=True),
            lambda: densor.save_file({"x": np.arange(9)}, tmp_path / "out", sync=True),
        ):
            with pytest.raises(densor.FileError, match="No space left"):
                action()
    left = [path.name for path in tmp_path.rglob("*") if path.is_file()]
    assert sorted(left) == ["packed", "plain"]


def fail_as_file_error(*_: Any) -> None:
    raise densor.FileError("cannot write: No space left")


def test_a_source_that_changes_while_it_is_read(tmp_path: Path, monkeypatch: Any) -> None:
    from densor.files import new_archive

    plain = tmp_path / "plain"
    original = new_archive.plan_file

    def with_change(change: Callable[[], None]) -> Callable[..., Any]:
        def plan(*arguments: Any, **options: Any) -> Any:
            found = original(*arguments, **options)
            change()
            return found

        return plan

    def grow() -> None:
        plain.write_bytes(NOISE + b"more")

    def shrink() -> None:
        plain.write_bytes(NOISE[:50_000])

    def touch() -> None:
        os.utime(plain, ns=(1, 1))

    for change in (grow, shrink, touch):
        plain.write_bytes(NOISE)
        monkeypatch.setattr(new_archive, "plan_file", with_change(change))
        with pytest.raises(densor.FileError, match="change"):
            densor.compress_file(plain, tmp_path / "out")
        plain.write_bytes(NOISE)
        with pytest.raises(densor.FileError, match="change"):
            densor.pack([plain], tmp_path / "out")
        assert left_in(tmp_path) == ["plain"]


def test_verification_notices_what_was_written_wrong(tmp_path: Path, monkeypatch: Any) -> None:
    from densor.codec import chunks

    original = chunks.zstd_smallest

    def wrong(data: Any, level: int) -> bytes:
        return original(bytes(len(data)), level)

    plain = tmp_path / "plain"
    plain.write_bytes(CONTENTS["text"])
    monkeypatch.setattr(chunks, "zstd_smallest", wrong)
    with pytest.raises(densor.FileError, match="verification"):
        densor.compress_file(plain, tmp_path / "out", verify=True)
    assert left_in(tmp_path) == ["plain"]
    with pytest.raises(densor.ArgumentError):
        densor.compress_file(plain, MinimalOut(), verify=True)  # type: ignore[arg-type]


def test_progress_counts_every_byte() -> None:
    data = CONTENTS["model"]
    packed, seen = io.BytesIO(), []
    densor.compress_file(io.BytesIO(data), packed, progress=seen.append)
    assert sum(seen) == len(data)
    seen.clear()
    packed.seek(0)
    densor.decompress_file(packed, io.BytesIO(), progress=seen.append)
    assert sum(seen) == len(data)


# Permissions and times


def test_mode_and_time_are_kept(tmp_path: Path) -> None:
    plain, packed = tmp_path / "plain", tmp_path / "packed"
    plain.write_bytes(b"data")
    plain.chmod(0o640)
    os.utime(plain, ns=(1_234_567_890_123_456_789, 987_654_321_000_000_001))
    densor.compress_file(plain, packed)
    assert stat.S_IMODE(packed.stat().st_mode) == 0o640
    assert packed.stat().st_mtime_ns == plain.stat().st_mtime_ns
    densor.decompress_file(packed, tmp_path / "restored")
    densor.extract(packed, tmp_path / "folder")
    for path in (tmp_path / "restored", tmp_path / "folder" / "plain"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        assert path.stat().st_mtime_ns == 987_654_321_000_000_001


def test_times_before_1970(tmp_path: Path) -> None:
    plain, packed = tmp_path / "plain", tmp_path / "packed"
    plain.write_bytes(b"data")
    os.utime(plain, ns=(-(10**18), -(10**18)))
    densor.compress_file(plain, packed)
    assert container.decode(packed.read_bytes())[0].meta["mtime_ns"] == -(10**18)
    densor.decompress_file(packed, tmp_path / "restored")
    assert (tmp_path / "restored").stat().st_mtime_ns == -(10**18)


def test_new_files_have_the_usual_permissions(tmp_path: Path) -> None:
    (tmp_path / "usual").touch()
    densor.decompress_file(io.BytesIO(densor.compress(b"x")), tmp_path / "new")
    assert (tmp_path / "new").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_set_user_id_bits_are_not_restored(tmp_path: Path) -> None:
    plain, packed = tmp_path / "plain", tmp_path / "packed"
    plain.write_bytes(b"data")
    plain.chmod(0o4755)
    densor.compress_file(plain, packed)
    densor.decompress_file(packed, tmp_path / "restored")
    assert stat.S_IMODE((tmp_path / "restored").stat().st_mode) == 0o755


# Folders


def tree(folder: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(folder)): None if path.is_dir() else path.read_bytes()
        for path in folder.rglob("*")
    }


@pytest.mark.parametrize("threads", [1, 2])
def test_folders_come_back_identical(model_folder: Path, threads: int, tmp_path: Path) -> None:
    packed = tmp_path / "packed"
    sizes = densor.pack([model_folder], packed, threads=threads)
    assert sizes.stored == packed.stat().st_size
    names = densor.extract(packed, tmp_path / "out", threads=threads)
    assert tree(tmp_path / "out") == tree(model_folder)
    held = [name for name, data in tree(model_folder).items() if data is not None]
    assert sorted(names) == sorted(held)
    with densor.open(packed) as file:
        assert names == file.files()
    for name in tree(model_folder):
        assert (tmp_path / "out" / name).stat().st_mode == (model_folder / name).stat().st_mode
    assert sizes.original == sum(len(data) for data in tree(model_folder).values() if data)
    # The second shard repeats most of the first.
    assert packed.stat().st_size < len(model_file())
    entries = container.decode(packed.read_bytes())
    assert {entry.name: entry.data for entry in entries if entry.kind == "file"} == {
        name: data for name, data in tree(model_folder).items() if data is not None
    }


def test_tensors_of_all_shards_are_found(model_folder: Path, tmp_path: Path) -> None:
    densor.pack([model_folder], tmp_path / "packed")
    with densor.open(tmp_path / "packed") as file:
        assert "embed" in file.keys()  # noqa: SIM118
        assert file.read_file("config.json") == (model_folder / "config.json").read_bytes()


def test_some_files_only(model_folder: Path, tmp_path: Path) -> None:
    packed = tmp_path / "packed"
    densor.pack([model_folder], packed)
    wanted = ["config.json", "model-00002-of-00002.safetensors"]
    assert sorted(densor.extract(packed, tmp_path / "out", wanted)) == wanted
    for name in wanted:
        assert (tmp_path / "out" / name).read_bytes() == (model_folder / name).read_bytes()
    assert sorted(tree(tmp_path / "out")) == wanted
    with pytest.raises(densor.FileError, match=r"nowhere\.txt"):
        densor.extract(packed, tmp_path / "other", ["nowhere.txt", "config.json"])


def test_files_and_folders_together(model_folder: Path, model_path: Path, tmp_path: Path) -> None:
    packed = tmp_path / "packed"
    densor.pack([model_path, model_folder], packed)
    densor.extract(packed, tmp_path / "out")
    expected = tree(model_folder) | {model_path.name: model_path.read_bytes()}
    assert tree(tmp_path / "out") == expected
    with pytest.raises(densor.ArgumentError):
        densor.pack([model_path, model_path], tmp_path / "twice")
    assert not (tmp_path / "twice").exists()


def test_extraction_does_not_replace_files_unasked(model_folder: Path, tmp_path: Path) -> None:
    packed, out = tmp_path / "packed", tmp_path / "out"
    densor.pack([model_folder], packed)
    densor.extract(packed, out)
    (out / "config.json").write_bytes(b"mine")
    with pytest.raises(densor.FileError, match="already exists"):
        densor.extract(packed, out)
    assert (out / "config.json").read_bytes() == b"mine"
    densor.extract(packed, out, overwrite=True)
    assert tree(out) == tree(model_folder)


def test_symbolic_links(model_folder: Path, tmp_path: Path) -> None:
    (model_folder / "alias.json").symlink_to("config.json")
    densor.pack([model_folder], tmp_path / "packed")
    densor.extract(tmp_path / "packed", tmp_path / "out")
    assert tree(tmp_path / "out") == tree(model_folder)
    assert not (tmp_path / "out" / "alias.json").is_symlink()
    (model_folder / "loop").symlink_to(model_folder)
    with pytest.raises(densor.FileError, match="loop"):
        densor.pack([model_folder], tmp_path / "other")


def test_special_files_are_refused(model_folder: Path, tmp_path: Path) -> None:
    os.mkfifo(model_folder / "pipe")
    with pytest.raises(densor.FileError, match="pipe"):
        densor.pack([model_folder], tmp_path / "packed")
    assert not (tmp_path / "packed").exists()


def test_an_archive_of_several_files_is_not_one_file(model_folder: Path, tmp_path: Path) -> None:
    densor.pack([model_folder], tmp_path / "packed")
    with pytest.raises(densor.FormatError, match="extract"):
        densor.decompress_file(tmp_path / "packed", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(densor.FormatError):
        densor.decompress((tmp_path / "packed").read_bytes())


def test_tensors_are_not_extracted_as_files(tmp_path: Path) -> None:
    with pytest.raises(densor.FormatError, match="not a file"):
        densor.extract(io.BytesIO(archives.sample("tensors").archive), tmp_path / "out")


# Bombs: small archives that stand for much


def bomb(inner: list[Frame], size: int | None) -> bytes:
    return one_object({"name": "x", "kind": "file", "size": size}, inner, b"")


def constant_planes(size: int) -> list[Frame]:
    model = Frame(MODEL, bytes([2, 1, 0, 1, 1, 0, 0, 0, 0]))
    return [model, Frame(CHUNK, b"\1\1\0\0\0\0", size, 16)]


BOMBS = {
    "zstd": [Frame(CHUNK, zstandard.ZstdCompressor().compress(bytes(1 << 26)), 1 << 26, 1)],
    "constant": constant_planes(1 << 26),
    "references": [
        *constant_planes(1 << 26),
        *[Frame(REF, bytes(12), 1 << 26)] * 1000,
    ],
    "small chunks": constant_planes(1 << 20)[:1] + constant_planes(1 << 20)[1:] * 500,
}


@pytest.mark.parametrize("known", [True, False], ids=["size declared", "size not declared"])
@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_stopped_before_they_unfold(name: str, known: bool, tmp_path: Path) -> None:
    inner = BOMBS[name]
    total = sum(frame.original for frame in inner)
    archive = bomb(inner, total if known else None)
    limit = (1 << 26) - 1
    for action in (
        lambda: densor.decompress(archive, max_output_size=limit),
        lambda: densor.verify_file(io.BytesIO(archive), max_output_size=limit),
        lambda: densor.decompress_file(
            io.BytesIO(archive), tmp_path / "out", max_output_size=limit
        ),
        lambda: densor.extract(io.BytesIO(archive), tmp_path / "x", max_output_size=limit),
    ):
        with pytest.raises(densor.LimitError):
            action()
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_sizes_that_no_archive_of_this_length_can_have() -> None:
    for size in (1 << 40, (1 << 63) - 1):
        with pytest.raises(densor.LimitError):
            densor.decompress(bomb([Frame(CHUNK, b"x", 1)], size))


def test_a_zstandard_frame_that_gives_more_than_it_should() -> None:
    packed = zstandard.ZstdCompressor().compress(bytes(1 << 20))
    for frame in (Frame(CHUNK, packed, 1000, 1), Frame(CHUNK, packed, (1 << 20) + 1, 1)):
        with pytest.raises(densor.FormatError):
            densor.decompress(bomb([frame], None))
    wide = zstandard.ZstdCompressor(
        compression_params=zstandard.ZstdCompressionParameters(
            window_log=30, write_content_size=False
        )
    ).compress(bytes(2000))
    with pytest.raises(densor.DensorError):
        densor.decompress(bomb([Frame(CHUNK, wide, 2000, 1)], None))


def test_a_zstandard_plane_that_gives_more_than_it_should() -> None:
    packed = zstandard.ZstdCompressor().compress(bytes(1 << 20))
    payload = b"\2" + len(packed).to_bytes(4, "little") + packed
    model = Frame(MODEL, bytes([2, 1, 0, 1, 1, 0, 0, 0, 0]))
    with pytest.raises(densor.FormatError):
        densor.decompress(bomb([model, Frame(CHUNK, payload, 1000, 16)], None))
