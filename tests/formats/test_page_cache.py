"""Parts of files that are read before a memory map of them is."""

import os
import threading
from pathlib import Path

import pytest
import torch
from torch_tools import assert_same, weight

import densor.torch
from densor.errors import FileError
from densor.formats.packed import page_cache
from densor.formats.packed.page_cache import Fetching, PageCache
from densor.formats.packed.reader import PackedFile

needs_preadv = pytest.mark.skipif(not hasattr(os, "preadv"), reason="the system has no preadv")


@needs_preadv
def test_what_is_not_there_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(10_000_000))
    cache = PageCache(path)
    read: list[tuple[int, int]] = []

    def preadv(number: int, buffers: list[memoryview], at: int, flags: int = 0) -> int:
        if flags:
            raise BlockingIOError
        read.append((at, len(buffers[0])))
        return len(buffers[0])

    monkeypatch.setattr(page_cache.os, "preadv", preadv)
    assert not cache.holds(0, 100)
    cache.fetch(5, 9_000_005)
    assert read == [(5, 1 << 22), (5 + (1 << 22), 1 << 22), (5 + (2 << 22), 9_000_000 - (2 << 22))]
    monkeypatch.setattr(page_cache.os, "preadv", lambda *_: 1)
    cache.fetch(0, 100)  # is there
    assert len(read) == 3
    if hasattr(os, "RWF_NOWAIT"):
        assert cache.holds(0, 10_000_000)


@needs_preadv
def test_failures_are_left_to_the_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"1234")
    cache = PageCache(path)

    def preadv(*_: object) -> int:
        raise OSError(5, "input/output error")

    monkeypatch.setattr(page_cache.os, "preadv", preadv)
    assert not cache.holds(0, 4)
    cache.fetch(0, 4)
    with pytest.raises(FileError):
        PageCache(tmp_path / "none")


def test_fetching_goes_in_order_and_not_too_far_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_cache, "_AHEAD", 20)
    done: list[int] = []
    changed = threading.Semaphore(0)

    def fetch(number: int) -> None:
        done.append(number)
        changed.release()

    fetching = Fetching([10, 5, 5, 10, 0, 7], fetch)
    for _ in range(3):
        assert changed.acquire(timeout=10)
    assert not changed.acquire(timeout=0.05)  # 20 bytes are ahead
    fetching.reached(2)  # which begins at 15
    for _ in range(3):
        assert changed.acquire(timeout=10)
    fetching.close()
    assert done == [0, 1, 2, 3, 4, 5] and not fetching._thread.is_alive()
    fetching.reached(5)


def test_fetching_that_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_cache, "_AHEAD", 1)
    done: list[int] = []
    fetching = Fetching([10] * 9, done.append)
    fetching.close()
    assert done in ([], [0])


def test_files_where_the_system_cannot_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = {f"w{i}": weight(64, 96, seed=i) for i in range(3)} | {"small": torch.arange(3)}
    densor.torch.save_packed_file(tensors, tmp_path / "model.safetensors")
    monkeypatch.setattr(page_cache, "_POSSIBLE", False)
    file = PackedFile(tmp_path / "model.safetensors")
    file.fetch_heads()
    for name, tensor in tensors.items():
        assert_same(densor.torch.load_file(tmp_path / "model.safetensors")[name], tensor)
