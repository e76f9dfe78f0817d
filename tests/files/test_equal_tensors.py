"""Equal tensors that would share chunks with others are coded once."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import densor
from densor.formats.io.sources import Pieces

RNG = np.random.default_rng(20)
LEVELS = (1, 3, 6, 9)


def mask(size: int, dtype: type = bool, share: float = 0.5) -> np.ndarray:
    return (RNG.random(size) < share).astype(dtype)


def packed_size(tensors: dict[str, np.ndarray], folder: Path, level: int) -> int:
    """Bytes of the archive of a file, which comes back from it."""
    plain, archive, back = (folder / name for name in ("m.safetensors", "m.densor", "back"))
    save_file(tensors, plain)
    densor.compress_file(plain, archive, level=level, overwrite=True)
    densor.decompress_file(archive, back, overwrite=True)
    assert back.read_bytes() == plain.read_bytes()
    for name, tensor in densor.load_file(archive).items():
        assert np.array_equal(tensor, tensors[name])
    return archive.stat().st_size


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dtype", [bool, np.uint8, np.uint16])
@pytest.mark.parametrize("size", [1 << 14, 1 << 16, 1 << 18])
def test_second_mask_takes_no_more_than_frames(
    tmp_path: Path, level: int, dtype: type, size: int
) -> None:
    one, other = mask(size, dtype), mask(size, dtype)
    apart = packed_size({"a": one, "b": other}, tmp_path, level)
    assert packed_size({"a": one, "b": other, "c": one}, tmp_path, level) < apart + 512


@pytest.mark.parametrize("level", LEVELS)
def test_those_of_other_groups_are_found(tmp_path: Path, level: int) -> None:
    one = mask(1 << 16)
    others = {f"b{i:02}": mask(1 << 16) for i in range(20)}  # more than a group holds
    apart = packed_size({"a": one, **others}, tmp_path, level)
    assert packed_size({"a": one, **others, "c": one}, tmp_path, level) < apart + 512


def test_saved_from_memory(tmp_path: Path) -> None:
    one = mask(1 << 16)
    sizes = []
    for tensors in ({"a": one}, {"a": one, "b": one.copy()}):
        packed = densor.save(tensors, level=3)
        assert all(np.array_equal(t, tensors[n]) for n, t in densor.load(packed).items())
        sizes.append(len(packed))
    assert sizes[1] < sizes[0] + 512


@pytest.mark.parametrize("level", LEVELS)
def test_what_takes_little_stays_with_others(tmp_path: Path, level: int) -> None:
    """Biases of zeros are equal, and cutting around them would take more than it saves."""
    tensors = {}
    for i in range(16):
        tensors[f"{i:02}.bias"] = np.zeros(2048, np.float32)
        tensors[f"{i:02}.weight"] = RNG.normal(size=2048).astype(np.float32)
    equal = packed_size(tensors, tmp_path, level)
    for i in range(16):
        tensors[f"{i:02}.bias"][i] = 1  # so that none is equal to another
    assert equal <= packed_size(tensors, tmp_path, level)


def test_of_one_size_with_equal_heads_that_differ_later(tmp_path: Path) -> None:
    one = mask(1 << 16)
    other = one.copy()
    other[-1] ^= True
    assert packed_size({"a": one, "b": other}, tmp_path, 3) > 0


def test_pieces_are_read_in_order_and_anywhere() -> None:
    whole = np.arange(100, dtype=np.uint8)
    pieces = [whole[:3], whole[3:3], whole[3:50], whole[50:]]
    source = Pieces(pieces)
    for begin in range(101):
        for count in (0, 1, 3, 60, 200):
            assert np.array_equal(source.read_at(begin, count), whole[begin : begin + count])
    taken = [source.take(count) for count in (2, 2, 50, 100, 5)]
    assert np.array_equal(np.concatenate(taken), whole)
    assert taken[-1].size == 0
