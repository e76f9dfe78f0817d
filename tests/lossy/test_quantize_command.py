"""`densor quantize`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import densor


@pytest.fixture
def model(tmp_path: Path) -> Path:
    weights = np.random.default_rng(2).normal(size=(80, 60)).astype("f4")
    path = tmp_path / "model.safetensors"
    save_file({"w": weights, "v": weights[:9], "bias": weights[0]}, path)
    return path


def run(*argv: object) -> int:
    from densor.cli.dispatch import dispatch

    return dispatch([str(arg) for arg in argv])


def test_files_and_archives(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = model.with_name("out.densor")
    assert run("quantize", model, "--size", "0.2", "-o", out, "--keep", "v") == 0
    assert ", lossy" in capsys.readouterr().err
    with densor.open(out) as file:
        assert file.lossy == ["model.safetensors"]
        assert len(np.unique(file.get_tensor("w"))) < 100
        assert len(np.unique(file.get_tensor("v"))) == 540
    assert out.stat().st_size <= 0.2 * 4 * 60 * 90
    assert run("quantize", model, "--size", "0.2", "-o", out) == 1
    densor.compress_file(model, model.with_name("model.densor"))
    packed = model.with_name("model.densor")
    assert run("quantize", packed, "--size", "0.2", "-o", out, "--keep", "v", "-f", "-q") == 0
    assert not capsys.readouterr().err.endswith("lossy\n")


def test_metadata_stay(model: Path) -> None:
    save_file({"w": np.random.default_rng(2).normal(size=(80, 60))}, model, {"author": "x"})
    packed = model.with_name("model.densor")
    densor.compress_file(model, packed)
    for source in (model, packed):
        out = model.with_name("out.densor")
        assert run("quantize", source, "--size", "0.2", "-o", out, "-f") == 0
        with densor.open(out) as file:
            found = file.metadata() or {}
        assert found["author"] == "x" and found["lossy"] == "true"


def test_bfloat16(model: Path) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file as save

    save({"w": torch.randn(80, 60).bfloat16(), "b": torch.ones(3)}, model)
    out = model.with_name("out.densor")
    assert run("quantize", model, "--size", "0.3", "-o", out, "-q") == 0
    read: Any = densor.load_file(out, "torch")
    assert read["w"].dtype == torch.bfloat16 and len(read["w"].unique()) < 100


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda path: path.write_bytes(b"text" * 99), "holds no tensors"),
        (lambda path: path.unlink(), "o such file"),
        (lambda path: path.write_bytes(path.read_bytes()[:-10]), "by themselves"),
        (lambda path: save_file({"w": np.full((80, 60), np.nan, "f4")}, path), "no numbers"),
    ],
)
def test_what_cannot_be_quantised(
    model: Path,
    change: Callable[[Path], object],
    text: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    change(model)
    out = model.with_name("out.densor")
    assert run("quantize", model, "--size", "0.2", "-o", out) == 1
    assert text in capsys.readouterr().err
    assert not out.exists()
