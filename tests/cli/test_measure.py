"""The order-0 bound, the measuring, demo and bench."""

import builtins
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import model_file

from densor.cli import measure, report
from densor.cli.commands import demo
from densor.codec.bound import order0_bytes
from densor.codec.planes.layout import layout_for
from densor.errors import ArgumentError, ChecksumError

from .conftest import Ran


def entropy_bytes(plane: np.ndarray[Any, Any]) -> float:
    """Elements times order-0 entropy, the slow way."""
    shares = np.unique(plane, return_counts=True)[1] / max(plane.size, 1)
    return float(-(shares * np.log2(shares)).sum() * plane.size / 8)


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32", "F64", "C64", "I32", "U8", "F8_E4M3"])
def test_bound_is_that_of_the_planes(dtype: str, rng: np.random.Generator) -> None:
    layout = layout_for(dtype)
    assert layout is not None
    width = {"BF16": 4, "C64": 4}.get(dtype, layout.size)
    numbers = rng.standard_normal(300_000)
    if dtype == "BF16":
        data = (numbers.astype("<f4").view("<u4") >> 16).astype("<u2").view(np.uint8)
    elif dtype[0] in "FC" and width > 1:
        data = numbers.astype(f"<f{width}").view(np.uint8)
    else:
        data = (numbers * 1000).astype("<i4").view(np.uint8)
    planes = np.empty(data.size, np.uint8)
    layout.split(data, planes)
    expected = sum(map(entropy_bytes, planes.reshape(layout.size, -1)))
    assert order0_bytes(data, dtype) == pytest.approx(expected, rel=1e-9)


def test_bound_of_little() -> None:
    assert order0_bytes(np.empty(0, np.uint8), "F32") == 0
    assert order0_bytes(np.full(4000, 7, np.uint8), "F32") == 0
    assert order0_bytes(np.arange(256, dtype=np.uint8), "VOID") == 256
    with pytest.raises(ArgumentError, match="not whole elements"):
        order0_bytes(np.empty(3, np.uint8), "BF16")
    with pytest.raises(ArgumentError, match="unknown dtype"):
        order0_bytes(np.empty(4, np.uint8), "F12")


@pytest.fixture
def files(rng: np.random.Generator) -> list[measure.Named]:
    """A model and an empty file in memory."""
    data = np.frombuffer(model_file(), np.uint8)
    return [measure.Named("m", data), measure.Named("e", data[:0])]


@pytest.mark.parametrize(
    "codec", [measure.Densor(3, 1), measure.Densor(1, 2), measure.Zstd(3, 1), measure.Memcpy()]
)
def test_measure(codec: measure.Codec, files: list[measure.Named]) -> None:
    row = measure.measure(codec, files, 2)
    assert len(row.compress_s) == len(row.decompress_s) == 2
    assert row.original == len(model_file())
    assert 0 < row.ratio <= 1.2
    assert row.compress_speed and row.decompress_speed


def test_slow_codecs_run_once(files: list[measure.Named], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "_SLOW", 0.0)
    assert len(measure.measure(measure.Memcpy(), files, 5).compress_s) == 1


class Forgetful(measure.Memcpy):
    """A codec that gets a byte wrong."""

    def decompress(self, packed: measure.Packed, files: Any) -> list[Any]:
        restored = [blob.copy() for blob in packed.blobs]
        restored[0][-1] ^= 1
        return restored


def test_wrong_round_trips_are_found(files: list[measure.Named]) -> None:
    with pytest.raises(ChecksumError, match="memcpy did not restore m"):
        measure.measure(Forgetful(), files, 1)
    with pytest.raises(ChecksumError, match="m: restored with SHA-256 "):
        measure.proof(Forgetful(), files)


def test_bound_of_files(files: list[measure.Named]) -> None:
    row = measure.bound(files)
    assert 0 < row.ratio < 1 and row.compress_speed is None
    assert measure.bound(files[1:]).ratio == 1.0
    odd = [measure.Named("odd", np.zeros(1001, np.uint8))]
    assert measure.bound(odd, "BF16").stored == 1


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A small sample and no other model."""
    sample = [measure.Named("model.safetensors", np.frombuffer(model_file(), np.uint8))]
    monkeypatch.setattr(demo, "_sample", lambda: sample)
    monkeypatch.setattr(demo, "_minilm", lambda: None)
    monkeypatch.setenv("COLUMNS", "80")
    yield


CODECS = ["densor -1", "densor -3", "densor -9", "zstd -3", "zstd -19", "memcpy", "order-0 bound"]


@pytest.mark.usefixtures("installed")
def test_demo(cli: Callable[..., Ran], model_folder: Path) -> None:
    ran = cli("demo", "--model", "model")
    assert ran.code == 0 and ran.said()
    lines = ran.text.splitlines()
    assert lines[0].startswith("embedded sample: ") and lines[0].endswith(" tensors")
    assert lines[1].startswith("  model.safetensors: SHA-256 ")
    assert lines[1].endswith(", identical")
    before, after = lines[1].split("SHA-256 ")[1].removesuffix(", identical").split(" => ")
    assert before == after and len(before) == 16
    assert lines[3].split() == ["codec", "ratio", "compress", "MB/s", "decompress", "MB/s"]
    assert [line.split("  ")[0] for line in lines[4:11]] == CODECS
    assert any(line.startswith("model: ") for line in lines)
    assert ran.text.count(", identical") == 1 + 5
    assert "█" in ran.text
    assert all(len(line) <= 80 for line in lines if "SHA-256" not in line)


@pytest.mark.usefixtures("installed")
def test_demo_plot(cli: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    assert cli("demo", "--plot", "x.png").said("charts => x.png")
    assert Path("x.png").read_bytes().startswith(b"\x89PNG")
    ran = cli("demo", "--plot", "x.png")
    assert ran.said("densor: x.png: already exists; use -f to overwrite it") and ran.code == 1


def test_plot_without_matplotlib(cli: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def missing(name: str, *rest: Any) -> Any:
        if name == "matplotlib":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    ran = cli("demo", "--plot", "x.png")
    assert ran.said("densor: --plot needs matplotlib: pip install densor[plot]")
    assert (ran.code, ran.out) == (1, b"")


def test_demo_of_nothing(cli: Callable[..., Ran], tmp_path: Path) -> None:
    ran = cli("demo", "--model", "nosuch")
    assert ran.code == 1 and ran.said("densor: nosuch: no such file or folder")


def test_embedded_sample_is_a_model() -> None:
    (sample,) = demo._sample()
    assert sample.data.size <= 4 << 20
    assert measure.tensor_count([sample]) > 10


def test_minilm_is_known_by_its_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(demo, "_MINILM", ("fake_minilm", "model.safetensors", "0"))
    assert demo._minilm() is None
    package = tmp_path / "fake_minilm"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "model.safetensors").write_bytes(model_file())
    (demo._minilm() is None) or pytest.fail("wrong hash")
    monkeypatch.setattr(demo, "_MINILM", ("fake_minilm", "model.safetensors", ""))
    assert demo._minilm() == package / "model.safetensors"


def test_bench(cli: Callable[..., Ran], model_path: Path) -> None:
    ran = cli("bench", "model.safetensors", "--level", "1,6", "--repeat", "1", "-T2")
    lines = ran.text.splitlines()
    assert ran.code == 0 and ran.said()
    assert lines[0].startswith("model.safetensors: ") and lines[0].endswith(", threads: 2")
    found = [line.split("  ")[0] for line in lines[2:]]
    assert found == ["densor -1", "densor -6", "zstd -3", "zstd -19", "memcpy", "order-0 bound"]
    for line in lines[2:-1]:
        assert all(float(cell) >= 0 for cell in line.replace("%", "").split()[-3:])


def test_bench_of_raw_numbers(cli: Callable[..., Ran], rng: np.random.Generator) -> None:
    Path("raw").write_bytes(rng.standard_normal(10_000).astype("<f4").tobytes())
    with_type = cli("bench", "raw", "--dtype", "f32", "--level", "3", "--repeat", "1")
    assert with_type.code == 0
    bound = with_type.text.splitlines()[-1].split()
    assert bound[:2] == ["order-0", "bound"] and bound[2] < "90"
    assert cli("bench", "nosuch").said("densor: nosuch: no such file or folder")


def test_bars_without_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "_shows_blocks", lambda: False)
    rows = [measure.Row("a", 100, 50.0, [1e-6], [1e-6]), measure.Row("b", 100, 100.0)]
    monkeypatch.setenv("COLUMNS", "40")
    text = report.bars(rows)
    assert text.isascii() and "a  ##############                50.00%" in text
