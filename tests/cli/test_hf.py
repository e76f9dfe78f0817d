"""`densor hf-pack` and `densor hf-unpack`."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import safetensors_bytes, weights

from .conftest import Ran


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder of a model."""
    folder = tmp_path / "model"
    folder.mkdir()
    tensors = {"w": ("BF16", (40, 300), weights("bf16", 40, 300).tobytes())}
    (folder / "model.safetensors").write_bytes(safetensors_bytes(tensors))
    (folder / "config.json").write_text("{}")
    return folder


def test_packs_and_unpacks(cli: Callable[..., Ran], model: Path) -> None:
    before = {path.name: path.read_bytes() for path in model.iterdir()}
    ran = cli("hf-pack", "model", "out", "--level", "1")
    assert ran.code == 0
    assert ran.said(
        "out: *% (24.1 kB => * kB)",
        'out: to load it, import densor.hf before from_pretrained (pip install "densor[hf]")',
        "out: without it transformers refuses the shapes, and with ignore_mismatched_sizes=True it",
        "out: would go on with RANDOM weights; the model card says so too",
    )
    assert json.loads((model.parent / "out" / "config.json").read_text())["quantization_config"]
    assert cli("hf-pack", "-q", "-6", "--base", "model", "model", "against").said()
    assert cli("hf-unpack", "out", "back").said("back: * kB => 24.1 kB")
    assert cli("hf-unpack", "-q", "--base", "model", "against", "again").said()
    for name in ("back", "again"):
        found = {path.name: path.read_bytes() for path in (model.parent / name).iterdir()}
        assert found == before


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("hf-pack none out", "none: no such folder"),
        ("hf-unpack none out", "none: no such folder"),
        ("hf-pack model model", "model: already exists; use -f (overwrite=True) to replace it"),
        ("hf-pack -f model model", "model: lies in model, or the other way round"),
        ("hf-unpack model out", "model: is no packed model, since originals.densor is missing"),
        ("hf-pack model out --base none", "*none: no folder of safetensors files"),
        ("hf-pack model none/out", "none/out: No such file or directory"),
    ],
)
def test_faults(cli: Callable[..., Ran], model: Path, argv: str, message: str) -> None:
    ran = cli(*argv.split())
    assert ran.code == 1
    lines = ran.err.splitlines()
    assert len(lines) == 1
    assert message.lstrip("*") in lines[0]
    assert sorted(path.name for path in model.parent.iterdir()) == ["model"]


@pytest.mark.parametrize("argv", ["hf-pack model", "hf-pack model out --level 10", "hf-unpack"])
def test_usage(cli: Callable[..., Ran], argv: str) -> None:
    assert cli(*argv.split()).code == 2
