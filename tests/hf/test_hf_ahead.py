"""Weights that are decoded before transformers asks for them."""

import os
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch_tools import assert_same, weight

import densor.torch
from densor.errors import ChecksumError, DensorError
from densor.files import ahead, tensor_bytes
from densor.files.ahead import Ahead, natural
from densor.formats.packed.reader import PackedFile
from densor.torch.blob import as_tensor


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
                tensor = as_tensor(found, packed.info(name))
                assert_same(tensor, weight(64, 96, seed=int(name.split(".")[1])))
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
    assert not any(thread.is_alive() for thread in decoded._threads) and not decoded._done


def test_heads_come_last_and_what_is_forgotten_is_let_go(tmp_path: Path) -> None:
    names = ["lm_head.weight", "model.embed.weight", "model.layers.0.w", "model.layers.1.w"]
    tensors = {name: weight(64, 96, seed=i) for i, name in enumerate(names)}
    densor.torch.save_packed_file(tensors, tmp_path / "model.safetensors")
    file = PackedFile(tmp_path / "model.safetensors")
    decoded = Ahead([file], none)  # type: ignore[arg-type]
    assert [name for _, name in decoded._order] == [*names[1:], names[0]]
    for _ in range(1000):
        if len(decoded._done) == len(names):
            break
        threading.Event().wait(0.01)
    assert decoded._bytes == sum(tensor.nbytes for tensor in tensors.values())
    decoded.forget({names[0]})
    assert decoded._bytes == sum(tensors[name].nbytes for name in names[1:])
    assert decoded.take(file, names[0]) is None  # whoever wants it decodes it
    found = decoded.take(file, names[1])
    assert found is not None
    assert_same(as_tensor(found, file.info(names[1])), tensors[names[1]])
    decoded.close()


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


def test_resident_products(tmp_path: Path) -> None:
    """From a packed folder to a model that computes with packed weights; the same logits as the
    same loop over the plain model."""
    transformers = pytest.importorskip("transformers")
    import densor.hf
    from densor.errors import ArgumentError
    from densor.torch.products import packed_parts

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=160,
        hidden_size=128,
        intermediate_size=192,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
    )
    plain = transformers.LlamaForCausalLM(config).to(torch.bfloat16)
    plain.save_pretrained(tmp_path / "plain")
    densor.hf.pack_model(tmp_path / "plain", tmp_path / "packed")
    found = densor.hf.from_pretrained(tmp_path / "packed", resident="product")
    assert len(list(packed_parts(found))) == 16
    loaded = densor.hf.from_pretrained(tmp_path / "plain")
    loop = densor.torch.pack_module(loaded, mode="plain_product")
    ids = torch.tensor([[3, 7, 9]])
    assert_same(found(ids).logits, loop(ids).logits)
    with pytest.raises(ArgumentError, match="resident"):
        densor.hf.from_pretrained(tmp_path / "packed", resident="other")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("huge", [True, False])
def test_children_write_to_copies_of_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, huge: bool
) -> None:
    densor.torch.save_packed_file({"w": weight(1024, 1024)}, tmp_path / "model.safetensors")
    if not huge:
        monkeypatch.setattr(tensor_bytes.HUGE_PAGES, "take", lambda _: None)
    found = tensor_bytes.read_bytes(PackedFile(tmp_path / "model.safetensors"), "w", 1)
    before = found.copy()
    child = os.fork()
    if child == 0:
        found[:] = 0
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert np.array_equal(found, before)


def test_another_working_directory_meanwhile(
    packed: PackedFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(packed.path.parent)
    relative = PackedFile("model.safetensors")
    begun, changed = threading.Event(), threading.Event()
    original = ahead.read_bytes

    def slowly(*args: Any) -> Any:
        begun.set()
        changed.wait(60)
        return original(*args)

    monkeypatch.setattr(ahead, "read_bytes", slowly)
    decoded = Ahead([relative], none)  # type: ignore[arg-type]
    assert begun.wait(60)
    monkeypatch.chdir("/")
    changed.set()
    taker = threading.Thread(
        target=lambda: taken.append(decoded.take(packed, "layers.0.weight")), daemon=True
    )
    taken: list[Any] = []
    taker.start()
    taker.join(60)
    assert taken and taken[0] is not None
    decoded.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_forks_while_threads_decode(packed: PackedFile) -> None:
    """As a DataLoader of another thread does them: children decode for themselves, and end."""
    for _ in range(10):
        decoding = Ahead([packed], none)  # type: ignore[arg-type]
        child = os.fork()
        if child == 0:
            code = 1
            try:
                signal.alarm(60)
                again = Ahead([packed], none)  # type: ignore[arg-type]
                for name in packed:
                    again.take(packed, name)
                again.close()
                code = 0
            finally:
                os._exit(code)
        for name in packed:
            decoding.take(packed, name)
        decoding.close()
        assert os.waitpid(child, 0)[1] == 0
