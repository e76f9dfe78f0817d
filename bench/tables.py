"""Bytes and speed on tables as text, beside general and tabular compressors.

    python -m bench.tables FILE... [--levels 1,3,5,7,9] [--peers a,b] [--out DIR]

Each CSV file is packed, restored and compared by every codec, one after the other. MB/s is of
processor time in one thread, so that others at work on the machine count little; small files are
packed several times, and compilation does not count. Peers that are not installed are left out:
`brotli`, `zpaq`, `kanzi`, `polypress`, `pyarrow`. Parquet keeps the values, not the bytes. Writes
``tables.csv`` and, with matplotlib, ``tables.png`` into DIR.
"""

from __future__ import annotations

import argparse
import csv
import importlib
import io
import lzma
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import zstandard

import densor

PEERS = ("zstd 19 long", "xz 9", "brotli 11", "kanzi 9", "zpaq 5", "polypress", "parquet zstd 19")
_ENOUGH, _MOST_RUNS = 0.5, 4  # seconds of processor time, and runs


class Codec(NamedTuple):
    """A way to pack a file; `unpack` is given what `pack` returns."""

    name: str
    pack: Callable[[Path], bytes]
    unpack: Callable[[bytes], bytes]
    exact: bool = True


class Row(NamedTuple):
    """What a codec made of a file; MB/s."""

    file: str
    codec: str
    size: int
    packed: int
    pack_speed: float
    unpack_speed: float


def own(level: int) -> Codec:
    """densor at a level, in one thread."""

    def pack(path: Path) -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            densor.pack([path], Path(folder) / "a", level=level, threads=1)
            return (Path(folder) / "a").read_bytes()

    def unpack(packed: bytes) -> bytes:
        with densor.open(packed, threads=1) as file:
            return file.read_file(file.files()[0])

    return Codec(f"densor -{level}", pack, unpack)


def peer(name: str) -> Codec:
    """Another compressor by its name; ImportError where it is not installed."""
    kind, _, level = name.partition(" ")
    if kind == "zstd":
        settings = zstandard.ZstdCompressionParameters.from_level(
            19, enable_ldm=True, window_log=27
        )
        coder = zstandard.ZstdCompressor(compression_params=settings)
        decoder = zstandard.ZstdDecompressor(max_window_size=1 << 27)
        return Codec(name, lambda path: coder.compress(path.read_bytes()), decoder.decompress)
    if kind == "xz":
        return Codec(name, lambda path: lzma.compress(path.read_bytes(), preset=9), lzma.decompress)
    if kind == "polypress":
        return _polypress(importlib.import_module(kind).program())
    if kind == "parquet":
        return _parquet(name)
    library: Any = importlib.import_module(kind)
    if kind == "brotli":
        settings_ = {"quality": 11, "lgwin": 24}
        return Codec(name, lambda path: library.compress(path.read_bytes(), **settings_),
                     library.decompress)  # fmt: skip
    if kind == "zpaq":
        return Codec(name, lambda path: library.compress(path.read_bytes(), 5, 1),
                     library.decompress)  # fmt: skip
    return Codec(name, lambda path: library.compress(path.read_bytes(), int(level)),
                 library.decompress)  # fmt: skip


def _polypress(program: str) -> Codec:
    def run(verb: str, data: bytes, source: str, target: str) -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / source).write_bytes(data)
            command = [program, verb, source, "-o", target]
            subprocess.run(command, cwd=folder, check=True, capture_output=True)
            return (Path(folder) / target).read_bytes()

    return Codec(
        "polypress",
        lambda path: run("compress", path.read_bytes(), "a.csv", "a.ppz"),
        lambda data: run("restore", data, "a.ppz", "a.csv"),
        exact=False,  # quotes and line ends are written anew
    )


def _parquet(name: str) -> Codec:
    table: Any = importlib.import_module("pyarrow.csv")
    parquet: Any = importlib.import_module("pyarrow.parquet")

    def pack(path: Path) -> bytes:
        out = io.BytesIO()
        found = table.read_csv(path, read_options=table.ReadOptions(use_threads=False))
        parquet.write_table(found, out, compression="zstd", compression_level=19)
        return out.getvalue()

    def unpack(data: bytes) -> bytes:
        parquet.read_table(io.BytesIO(data), use_threads=False)
        return b""

    return Codec(name, pack, unpack, exact=False)


def _spent() -> float:
    """Seconds of processor time of this process and those it has waited for."""
    return time.process_time() + sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])


def _timed(run: Callable[[], bytes]) -> tuple[bytes, float]:
    """A result, and the least processor time of several runs."""
    best = total = 0.0
    result = b""
    for number in range(_MOST_RUNS):
        begin = _spent()
        result = run()
        took = _spent() - begin
        best = took if not number else min(best, took)
        total += took
        if total > _ENOUGH:
            break
    return result, max(best, 1e-9)


def measured(path: Path, codec: Codec) -> Row:
    """What a codec makes of a file, which must come back."""
    size = path.stat().st_size
    packed, pack_time = _timed(lambda: codec.pack(path))
    back, unpack_time = _timed(lambda: codec.unpack(packed))
    if codec.exact and back != path.read_bytes():
        raise SystemExit(f"{codec.name}: {path} did not come back")
    speeds = (size / 1e6 / seconds for seconds in (pack_time, unpack_time))
    return Row(path.stem, codec.name, size, len(packed), *speeds)


def _codecs(levels: Sequence[int], peers: Sequence[str]) -> Iterator[Codec]:
    for level in levels:
        yield own(level)
    for name in peers:
        try:
            yield peer(name)
        except ImportError as error:
            print(f"{name}: {error}", file=sys.stderr)


def _draw(rows: Sequence[Row], path: Path) -> None:
    """Bytes against speed on the largest file."""
    pyplot: Any = importlib.import_module("matplotlib.pyplot")
    largest = max(rows, key=lambda row: row.size).file
    figure, axes = pyplot.subplots(figsize=(7, 4.5))
    for row in rows:
        if row.file == largest:
            ours = row.codec.startswith("densor")
            axes.scatter(row.pack_speed, row.packed / 1e6, color="C3" if ours else "C0")
            axes.annotate(row.codec, (row.pack_speed, row.packed / 1e6), fontsize=8,
                          xytext=(4, 4), textcoords="offset points")  # fmt: skip
    axes.set_xscale("log")
    axes.set_xlabel("MB/s, packing, one thread")
    axes.set_ylabel("MB")
    axes.set_ylim(bottom=0)
    axes.set_title(f"{largest}.csv")
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--levels", default="1,3,5,7,9")
    parser.add_argument("--peers", default=",".join(PEERS))
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    levels = [int(level) for level in args.levels.split(",") if level]
    peers = [name for name in args.peers.split(",") if name]
    codecs = list(_codecs(levels, peers))
    for codec in codecs[: len(levels)]:  # compiles kernels
        codec.unpack(codec.pack(args.files[-1]))
    rows = []
    for path in args.files:
        for codec in codecs:
            row = measured(path, codec)
            rows.append(row)
            print(f"{row.file:12} {row.codec:16} {row.size:9} {row.packed:9} "
                  f"{row.pack_speed:8.2f} {row.unpack_speed:8.2f}", flush=True)  # fmt: skip
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
        with (args.out / "tables.csv").open("w", newline="") as file:
            csv.writer(file).writerows([Row._fields, *rows])
        _draw(rows, args.out / "tables.png")


if __name__ == "__main__":
    main()
