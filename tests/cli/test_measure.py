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
from densor.compare import timing
from densor.compare.adapters import DensorFiles, Memcpy, Zstd
from densor.compare.codec import Codec, Item, file_item
from densor.errors import ArgumentError, ChecksumError, FileError

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
def files(rng: np.random.Generator) -> list[Item]:
    """A model and an empty file in memory."""
    data = np.frombuffer(model_file(), np.uint8)
    return [file_item("m", data), file_item("e", data[:0])]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("codec", [DensorFiles("ours", 3), Zstd("zstd", 3), Memcpy("memcpy")])
def test_measure(codec: Codec, threads: int, files: list[Item]) -> None:
    (row,) = timing.measure([codec], files, threads, 2)
    assert row.ok and len(row.compress_s) == len(row.decompress_s) == 2
    assert row.original == len(model_file())
    assert 0 < row.ratio <= 1.2
    assert row.compress_mb_s > 0 and row.decompress_mb_s > 0
    assert row.version and row.first_compress_s > 0


def test_codecs_take_turns(files: list[Item]) -> None:
    turns: list[str] = []
    codecs = [Memcpy("a"), Memcpy("b")]
    results = timing.measure(codecs, files, 1, 3, doing=turns.append)
    assert turns == ["a", "b", "a", "b", "b", "a", "a", "b"]
    assert [len(result.compress_s) for result in results] == [3, 3]


@pytest.mark.parametrize(("repeats", "note"), [(0, "1 repeat only"), (2, "2 repeat only")])
def test_slow_codecs_run_less_often(repeats: int, note: str, files: list[Item]) -> None:
    (row,) = timing.measure([Memcpy("m")], files, 1, 5, slow=timing.Slow(0.0, repeats))
    assert row.ok and len(row.compress_s) == max(repeats, 1) and row.note.startswith(note)


class Compiling(Memcpy):
    """A codec of which a first call takes longer."""

    compiles = True


@pytest.mark.parametrize("compiled", [False, True])
def test_what_may_have_compiled_is_no_speed(compiled: bool, files: list[Item]) -> None:
    turns: list[str] = []
    slow = timing.Slow(0.0, 0, compiled)
    (row,) = timing.measure([Compiling("c")], files, 1, 5, slow=slow, doing=turns.append)
    assert row.ok and len(row.compress_s) == len(row.decompress_s) == 1
    assert len(turns) == (1 if compiled else 2)
    assert (row.compress_s == [row.first_compress_s]) == compiled


class Forgetful(Memcpy):
    """A codec that gets a byte wrong."""

    def decompress(self, state: Any, threads: int) -> list[Any]:
        restored = [there.copy() for _, there, _ in state]
        restored[0][-1] ^= 1
        return restored


class Failing(Memcpy):
    """A codec that raises."""

    def compress(self, prepared: Any, threads: int) -> Any:
        raise FileError("no")


def test_wrong_round_trips_are_found(files: list[Item]) -> None:
    codec = Forgetful("memcpy")
    with pytest.raises(ChecksumError, match="memcpy: round trip changed 1 of 2 items, first m"):
        measure.rows(files, [codec], 1, 1, None, lambda name: None)
    with pytest.raises(ChecksumError, match="m: restored with SHA-256 "):
        measure.proof(codec, files, 1)
    wrong, failed = timing.measure([codec, Failing("f")], files, 1, 2)
    assert (wrong.ok, failed.ok) == (False, False) and "changed 1" in wrong.error
    assert failed.error == "FileError: no"
    with pytest.raises(FileError, match="no"):
        timing.measure([Failing("f")], files, 1, 1, strict=True)


def test_a_codec_that_writes_into_its_input_is_found(files: list[Item]) -> None:
    class Overwriting(Memcpy):
        def compress(self, prepared: Any, threads: int) -> Any:
            prepared[0][0][-1] ^= 1
            return super().compress(prepared, threads)

    mine = [file_item(item.name, item.data.copy()) for item in files]
    with pytest.raises(RuntimeError, match="wrote into its input"):
        timing.measure([Overwriting("m")], mine, 1, 1)


def test_what_a_codec_does_not_take_is_noted(files: list[Item]) -> None:
    class OfNumbers(Memcpy):
        dtypes = {"F32": None}  # noqa: RUF012

    (row,) = timing.measure([OfNumbers("m")], files, 1, 1)
    assert row.note == "does not take files" and not row.ok and not row.error


def test_bound_of_files(files: list[Item]) -> None:
    row = measure.bound(files)
    assert 0 < row.ratio < 1 and not row.ok
    assert measure.bound(files[1:]).ratio == 1.0
    odd = [file_item("odd", np.zeros(1001, np.uint8))]
    assert measure.bound(odd, "BF16").compressed == 1


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A small sample and no other model."""
    sample = [file_item("model.safetensors", np.frombuffer(model_file(), np.uint8))]
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
    rows = [
        timing.Result("a", 100, 50.0, compress_s=[1e-6], decompress_s=[1e-6]),
        timing.Result("b", 100, 100.0),
    ]
    monkeypatch.setenv("COLUMNS", "40")
    text = report.bars(rows)
    assert text.isascii() and "a  ##############                50.00%" in text
