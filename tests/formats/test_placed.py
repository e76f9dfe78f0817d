"""Files of which whoever needs some bytes reads or writes them: sources and outputs by place."""

import os
import threading
from pathlib import Path

import numpy as np
import pytest
from helpers import random_state, safetensors_bytes

import densor
from densor.formats.io import outputs
from densor.formats.io.outputs import WholeFile, whole_file
from densor.formats.io.sources import FileRandomSource, PlacedSource

CONTENT = random_state("placed").integers(0, 256, 300_000, np.uint8)


def placed(path: Path) -> PlacedSource:
    path.write_bytes(CONTENT.tobytes())
    return PlacedSource(FileRandomSource(path.open("rb")))


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_what_is_left_out_is_not_missing(tmp_path: Path) -> None:
    rng = random_state("steps")
    source = placed(tmp_path / "file")
    at = 0
    while at < CONTENT.size:
        count = int(rng.choice([1, 28, 500, 5000, 40_000]))
        if rng.integers(2):
            piece = source.take(count)
            assert (piece == CONTENT[at : at + count]).all()
            at += piece.size
        elif source.skip(count) is None:
            assert at + count > CONTENT.size
            break
        else:
            at += count
        assert source.at == at
    source.take(CONTENT.size)
    assert not source.take(1).size
    assert source.skip(1) is None


def test_parts_written_in_any_order(tmp_path: Path) -> None:
    path = tmp_path / "out"
    with whole_file(path, False) as file:
        file.expect(10 * CONTENT.size)
        parts = [(at, CONTENT[at : at + 50_000]) for at in range(0, CONTENT.size, 50_000)]
        threads = [
            threading.Thread(target=file.write_at, args=(part, at)) for at, part in parts[::-1]
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert path.read_bytes() == CONTENT.tobytes()
    assert os.stat(path).st_blocks * 512 < 2 * CONTENT.size  # what was asked for is given back


@pytest.mark.parametrize("works", [True, False])
def test_room_that_cannot_be_had_ahead(
    works: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then it is asked for by writing, which tells whether there is any."""
    asked: list[int] = []

    def allocate(number: int, offset: int, size: int) -> bool:
        asked.append(size)
        return works

    monkeypatch.setattr(outputs, "_allocate", allocate)
    monkeypatch.setattr(WholeFile, "_can_allocate", True)
    with whole_file(tmp_path / "out", False) as file:
        for size in (1 << 20, 1 << 21, 1 << 30):
            file.expect(size)
    assert len(asked) == (3 if works else 1)
    assert not (tmp_path / "out").stat().st_size


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_archives_come_back_from_files(threads: int, tmp_path: Path) -> None:
    """Of tensors of many sizes, with repetitions, and with what other codecs take."""
    rng = random_state("archive")
    weights = (rng.normal(size=(3000, 900)).astype(np.float32).view(np.uint32) >> 16).astype("u2")
    tensors = {
        f"{i}": ("BF16", (rows, 900), weights[:rows].tobytes())
        for i, rows in enumerate((3000, 1, 700, 2, 1500, 3000))
    }
    tensors["text"] = ("U8", (90_000,), b"some words " * 8181 + b"and end  ")
    plain, packed, back = (tmp_path / name for name in ("plain", "packed", "back"))
    plain.write_bytes(safetensors_bytes(tensors))
    for level in (1, 6):
        densor.compress_file(plain, packed, level, threads, overwrite=True)
        densor.decompress_file(packed, back, threads, overwrite=True)
        assert back.read_bytes() == plain.read_bytes()
    damaged = bytearray(packed.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    packed.write_bytes(damaged)
    back.unlink()
    with pytest.raises(densor.DensorError):
        densor.decompress_file(packed, back, threads)
    packed.write_bytes(damaged[: len(damaged) // 3])
    with pytest.raises(densor.DensorError):
        densor.decompress_file(packed, back, threads)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["packed", "plain"]
