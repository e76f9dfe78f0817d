"""Fresh memory in huge pages, where the system has them."""

import mmap
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch_tools import assert_same, weight

import densor.torch
from densor.files import tensor_bytes
from densor.formats.packed.reader import PackedFile
from densor.runtime import huge_pages
from densor.runtime.huge_pages import HugePages
from densor.torch import blob

PAGE = 1 << 21
needs_them = pytest.mark.skipif(not huge_pages._at_hand(), reason="the system has none")


@needs_them
def test_memory_can_be_written_and_goes_back_with_its_last_view(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(huge_pages, "_FAIR", 1 << 40)  # however long they take
    pages = HugePages()
    memory = pages.take(2 * PAGE + 5)
    assert memory is not None and memory.size == 2 * PAGE + 5 and memory.flags.writeable
    assert memory.ctypes.data % PAGE == 0 and not memory.any()
    other = pages.take(PAGE)
    assert other is not None and not np.shares_memory(memory, other)
    memory[:] = 7
    assert not other.any()
    end = memory[-5:]
    del memory
    assert len(pages._live) == 2 and (end == 7).all()
    del end
    assert len(pages._live) == 1


@needs_them
def test_after_a_slow_page_no_more_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huge_pages, "_FAIR", 0)
    monkeypatch.setattr(huge_pages, "_HICCUP", -1)
    now = [100.0]
    monkeypatch.setattr(huge_pages.time, "monotonic", lambda: now[0])
    pages = HugePages()
    first = pages.take(3 * PAGE + 1)
    assert first is not None
    first[:] = 3  # the rest is filled with small pages
    assert (first == 3).all()
    assert pages.take(PAGE) is None
    now[0] += 61
    assert pages.take(PAGE) is not None


def test_small_memory_and_too_many_mappings(monkeypatch: pytest.MonkeyPatch) -> None:
    assert HugePages().take(PAGE - 1) is None and HugePages().take(0) is None
    monkeypatch.setattr(huge_pages, "_MOST", 0)
    assert HugePages().take(PAGE) is None


def test_systems_that_have_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(huge_pages, "_setting", huge_pages._setting.__wrapped__)
    for text in ("always madvise [never]\n", None):
        setting = tmp_path / ("enabled" if text else "none")
        if text:
            setting.write_text(text)
        monkeypatch.setattr(huge_pages, "_SETTING", setting)
        assert HugePages().take(PAGE) is None


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of Linux")
def test_no_room_for_a_mapping(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args: object, **kwargs: object) -> None:
        raise OSError(12, "no memory")

    monkeypatch.setattr(huge_pages.mmap, "mmap", fails)
    pages = HugePages()
    assert pages.take(PAGE) is None
    assert pages.take(PAGE) is None  # no lock is held


def test_what_claims_to_be_far_larger_than_it_is_gets_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They would be filled before decoding shows that the claim is false."""
    asked: list[int] = []
    monkeypatch.setattr(tensor_bytes.HUGE_PAGES, "take", asked.append)
    tensors = {"zeros": torch.zeros(PAGE), "weight": weight(64, 96)}
    densor.torch.save_packed_file(tensors, tmp_path / "model.safetensors")
    file = PackedFile(tmp_path / "model.safetensors")
    for name, tensor in tensors.items():
        assert_same(blob.read_tensor(file, name), tensor)
    assert asked == [tensors["weight"].nbytes]


def small_pages(size: int) -> np.ndarray:
    mapped = mmap.mmap(-1, size + PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return np.frombuffer(mapped, np.uint8)


@needs_them
@pytest.mark.parametrize("quick", [True, False])
def test_memory_of_others_is_filled(monkeypatch: pytest.MonkeyPatch, quick: bool) -> None:
    monkeypatch.setattr(huge_pages, "_setting", lambda: "always [madvise] never")
    monkeypatch.setattr(huge_pages, "_FAIR", 1 << 40 if quick else 0)
    monkeypatch.setattr(huge_pages, "_HICCUP", -1)
    filled: list[tuple[int, int]] = []
    original = huge_pages._populated
    monkeypatch.setattr(
        huge_pages,
        "_populated",
        lambda memory: filled.append((memory.ctypes.data, memory.size)) or original(memory),
    )
    pages = HugePages()
    around = small_pages(9 * PAGE)[11:-13]
    first = around.ctypes.data
    content = np.random.default_rng(0).integers(0, 256, around.size, np.uint8)
    around[:] = content
    for begin, end in ((0, PAGE * 3 // 2), (PAGE * 5 // 2, 6 * PAGE), (8 * PAGE, around.size)):
        pages.fill(around[begin:end], around)
    assert (around == content).all()
    assert len(filled) == (3 if quick else 1)  # none after a slow one
    for at, size in filled:
        assert at % PAGE == 0 and size % PAGE == 0
        assert first <= at and at + size <= first + around.size
    pages.fill(around[:100], around)
    pages.fill(around[:PAGE], around[:PAGE])  # no whole page of its own, if not by chance
    monkeypatch.setattr(huge_pages, "_setting", lambda: "[always] madvise never")
    count = len(filled)
    HugePages().fill(around, around)
    monkeypatch.setattr(huge_pages, "_setting", lambda: "always [madvise] never")
    monkeypatch.setattr(huge_pages, "_MOST", 0)
    HugePages().fill(around, around)
    assert len(filled) == count
