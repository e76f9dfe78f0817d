"""The mark of files that only approximate others: archives keep it, and every listing shows it."""

import json
from pathlib import Path

import numpy as np
import pytest

import densor
from densor.cli.dispatch import dispatch
from densor.formats.container.entry import EntryMeta, parse
from densor.torch import save_packed_file

TENSORS = {"a": np.arange(40000, dtype="f4").reshape(200, 200)}


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    paths = tmp_path / "lossy.densor", tmp_path / "plain.densor"
    densor.save_file(TENSORS, paths[0], {"lossy": "true"}, overwrite=True)
    densor.save_file(TENSORS, paths[1], {"lossy": "false"}, overwrite=True)
    return paths


def shown(capsys: pytest.CaptureFixture[str], *argv: object) -> str:
    assert dispatch([str(arg) for arg in argv]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("count", [4, 40000], ids=["short form", "frames"])
def test_archives_keep_it(count: int, tmp_path: Path) -> None:
    tensors = {"a": np.arange(count, dtype="f4")}
    packed = densor.save(tensors, {"lossy": "true"})
    with densor.open(packed) as file:
        assert file.lossy == ["model.safetensors"]
        plain = file.read_file("model.safetensors")
    (tmp_path / "again.safetensors").write_bytes(plain)
    densor.pack([tmp_path / "again.safetensors"], tmp_path / "all.densor")
    with densor.open(tmp_path / "all.densor") as file:
        assert file.lossy == ["again.safetensors"]
        assert file.read_file("again.safetensors") == plain
    assert densor.open(densor.save(tensors)).lossy == []


def test_packed_files_keep_it(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    path = tmp_path / "packed.safetensors"
    save_packed_file({"a": torch.arange(40000.0)}, path, {"lossy": "true"})
    assert densor.open(path).lossy == ["packed.safetensors"]


def test_listings_show_it(
    pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    lossy, plain = pair
    for path, wanted in ((lossy, True), (plain, False)):
        assert ("safetensors, lossy" in shown(capsys, "list", path)) == wanted
        assert json.loads(shown(capsys, "list", "--json", path))["entries"][0].get("lossy") == (
            wanted or None
        )
        assert ("\nlossy " in shown(capsys, "info", path)) == wanted
        assert ("xxh3-128,lossy" in shown(capsys, "-l", path)) == wanted
        assert (" is lossy" in shown(capsys, "diff", path, plain)) == wanted
        marks = json.loads(shown(capsys, "diff", "--json", path, plain))["lossy"]
        assert marks == {"old": wanted, "new": False}
        page = tmp_path / f"{path.name}.html"
        shown(capsys, "report", path, "-o", page)
        assert ('"lossy.safetensors","lossy"]' in page.read_text().replace(", ", ",")) == wanted
        shown(capsys, "diff", path, plain, "--html", page, "-f")
        assert ('"lossy.densor","lossy"]' in page.read_text().replace(", ", ",")) == wanted


def test_plain_files_tell_diff(
    pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    restored = tmp_path / "restored.safetensors"
    densor.decompress_file(pair[0], restored)
    assert f"{restored} is lossy" in shown(capsys, "diff", pair[1], restored)


def test_descriptions() -> None:
    meta = EntryMeta("a", "file", 1, lossy=True)
    assert parse(meta.to_json()).lossy is True
    assert parse({"name": "a", "kind": "file", "size": 1, "lossy": False}).lossy is None
    assert parse({"name": "a", "kind": "bytes", "size": 1, "lossy": True}).lossy is None
    for odd in ({"lossy": 1}, {"lossy": "true"}):
        with pytest.raises(densor.FormatError):
            parse({"name": "a", "kind": "file", "size": 1} | odd)
