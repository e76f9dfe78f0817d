"""Weights that are decoded before transformers asks for them."""

import threading
from pathlib import Path

import pytest
import torch
from torch_tools import assert_same, weight

import densor.torch
from densor.errors import ChecksumError, DensorError
from densor.formats.packed.reader import PackedFile
from densor.hf import ahead
from densor.hf.ahead import Ahead, natural


@pytest.fixture
def packed(tmp_path: Path) -> PackedFile:
    tensors = {f"layers.{i}.weight": weight(64, 96, seed=i) for i in range(12)}
    tensors["small"] = torch.arange(3)
    densor.torch.save_packed_file(tensors, tmp_path / "model.safetensors")
    return PackedFile(tmp_path / "model.safetensors")


def none(tensor: object) -> None:
    raise AssertionError


def test_all_is_handed_out_once_in_any_order(packed: PackedFile) -> None:
    for names in (sorted(packed), sorted(packed, reverse=True), sorted(packed, key=natural)):
        decoded = Ahead([packed], none)  # type: ignore[arg-type]
        for name in names:
            found = decoded.take(packed, name)
            if found is not None:
                assert name != "small"
                assert_same(found, weight(64, 96, seed=int(name.split(".")[1])))
            assert decoded.take(packed, name) is None
        decoded.close()


def test_no_more_waits_than_there_is_room_for(
    packed: PackedFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ahead, "_WINDOW", 1)
    decoded = Ahead([packed], none)  # type: ignore[arg-type]
    for _ in range(1000):
        if decoded._done:
            break
        threading.Event().wait(0.01)
    assert len(decoded._done) == 1
    assert decoded.take(packed, "layers.11.weight") is None  # nobody waits for what has not begun
    assert decoded.take(packed, "layers.0.weight") is not None
    decoded.close()
    assert not decoded._thread.is_alive() and not decoded._done


def test_damage_is_raised_where_it_is_taken(packed: PackedFile) -> None:
    data = bytearray(packed.path.read_bytes())
    data[-40] ^= 1
    packed.path.write_bytes(data)
    file = PackedFile(packed.path)
    decoded = Ahead([file], none)  # type: ignore[arg-type]
    failed = []
    for name in sorted(file, key=natural):
        try:
            if decoded.take(file, name) is None and file.is_blob(name):
                file.read(name)
        except DensorError as error:
            failed.append(error)
    decoded.close()
    assert len(failed) == 1 and isinstance(failed[0], ChecksumError)
    assert "model.safetensors: tensor 'layers." in str(failed[0])
