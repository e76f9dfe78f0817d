"""Bits per byte and speed on text, beside classic compressors.

    python -m bench.text FILE... [--bytes N] [--codecs a,b] [--out DIR]

The first N bytes of each file are packed, and what Densor packs is restored and compared. KB/s is
of processor time in one thread, so that others at work on the machine count little; compilation
does not count. Peers are libraries or programs; those that are not there are left out. Writes
``text.csv`` and, with matplotlib, ``text.png`` into DIR.
"""

from __future__ import annotations

import argparse
import bz2
import csv
import gzip
import lzma
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from bench import machine

Pack = Callable[[bytes], int]  # from content to the size that it is packed to


class Row(NamedTuple):
    """What a codec made of a text."""

    text: str
    codec: str
    bytes: int
    packed: int
    seconds: float

    @property
    def bits(self) -> float:
        """Per byte."""
        return 8 * self.packed / self.bytes

    @property
    def speed(self) -> float:
        """KB/s."""
        return self.bytes / self.seconds / 1000


def _densor(level: int) -> Pack:
    densor = import_module("densor")

    def pack(data: bytes) -> int:
        return len(densor.compress(data, level, threads=1))

    pack(b"".join(b"some text, number %d; " % i for i in range(1000)))  # compiles
    return pack


def _length(compress: Callable[[bytes], bytes]) -> Pack:
    return lambda data: len(compress(data))


def _zstd() -> Pack:
    zstandard = import_module("zstandard")
    parameters = zstandard.ZstdCompressionParameters.from_level(22, enable_ldm=True, window_log=27)
    return _length(zstandard.ZstdCompressor(compression_params=parameters).compress)


def _xz() -> Pack:
    return _length(lambda data: lzma.compress(data, preset=9 | lzma.PRESET_EXTREME))


def _brotli() -> Pack:
    return _length(partial(import_module("brotli").compress, quality=11, lgwin=24))


def _ppmd() -> Pack:
    pyppmd: Any = import_module("pyppmd")
    return lambda data: len(pyppmd.compress(data, max_order=16, mem_size=256 << 20, variant="H"))


def _kanzi() -> Pack:
    kanzi: Any = import_module("kanzi")
    return lambda data: len(kanzi.compress(data, level=9))


def _program(*command: str) -> Pack:
    """A program that makes the file `packed` of the file `text`."""
    if shutil.which(command[0]) is None:
        raise ImportError(f"{command[0]} is not installed")

    def pack(data: bytes) -> int:
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "text").write_bytes(data)
            subprocess.run(command, cwd=folder, check=True, capture_output=True)
            return next(Path(folder).glob("packed*")).stat().st_size

    return pack


CODECS: dict[str, Callable[[], Pack]] = {
    "densor -9": partial(_densor, 9),
    "densor -5": partial(_densor, 5),
    "gzip -9": lambda: _length(partial(gzip.compress, compresslevel=9)),
    "bzip2 -9": lambda: _length(bz2.compress),
    "xz -9e": _xz,
    "zstd -22 --long": _zstd,
    "brotli 11": _brotli,
    "ppmd H -o16": _ppmd,
    "kanzi 9": _kanzi,
    "lrzip -z": partial(_program, "lrzip", "-z", "-L9", "-p1", "-o", "packed", "text"),
    "zpaq -m5": partial(_program, "zpaq", "a", "packed.zpaq", "text", "-m5", "-t1"),
}


def _seconds() -> float:
    """Processor time of this process and of programs that have ended."""
    usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def measure(texts: Sequence[tuple[str, bytes]], names: Sequence[str]) -> Iterator[Row]:
    """One row per text and codec."""
    for name in names:
        try:
            pack = CODECS[name]()
        except ImportError as error:
            print(f"{name}: {error}", file=sys.stderr)
            continue
        for text, data in texts:
            begin = _seconds()
            packed = pack(data)
            row = Row(text, name, len(data), packed, max(_seconds() - begin, 1e-3))
            print(f"{text:14} {name:18} {row.bits:.4f} {row.speed:8.0f} KB/s", file=sys.stderr)
            yield row


def check(texts: Sequence[tuple[str, bytes]]) -> None:
    """Restores what Densor packs."""
    densor = import_module("densor")
    for name, data in texts:
        if densor.decompress(densor.compress(data, 9, threads=1), threads=1) != data:
            sys.exit(f"{name}: wrong bytes")


def plot(rows: Sequence[Row], path: Path) -> None:
    """Mean bits per byte against speed, both over all texts."""
    matplotlib = import_module("matplotlib")
    matplotlib.use("Agg")
    figure, axes = import_module("matplotlib.pyplot").subplots(figsize=(8, 5))
    for name in dict.fromkeys(row.codec for row in rows):
        mine = [row for row in rows if row.codec == name]
        speed = sum(row.bytes for row in mine) / sum(row.seconds for row in mine) / 1000
        bits = sum(row.bits for row in mine) / len(mine)
        color = "tab:red" if name.startswith("densor") else "tab:blue"
        axes.scatter(speed, bits, color=color)
        axes.annotate(name, (speed, bits), xytext=(5, 4), textcoords="offset points")
    axes.set_xscale("log")
    axes.set_xlabel("KB/s of processor time, packing")
    axes.set_ylabel("bits per byte, mean of the texts")
    axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Command line: see the module's text."""
    parser = argparse.ArgumentParser(prog="python -m bench.text")
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--bytes", type=int, default=10_000_000, metavar="N")
    parser.add_argument("--codecs", default=",".join(CODECS), metavar="a,b")
    parser.add_argument("--out", type=Path, default=Path("bench-results"), metavar="DIR")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0; what is absent is said on stderr."""
    args = parse_arguments(argv)
    machine.pin_to_one_core()
    texts = [(path.name, path.read_bytes()[: args.bytes]) for path in args.files]
    rows = list(measure(texts, args.codecs.split(",")))
    args.out.mkdir(parents=True, exist_ok=True)
    with (args.out / "text.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "codec", "bytes", "bits_per_byte", "KB_per_s"])
        for row in rows:
            line = [row.text, row.codec, row.bytes, f"{row.bits:.4f}", f"{row.speed:.0f}"]
            writer.writerow(line)
    plot(rows, args.out / "text.png")
    check(texts)
    return 0


if __name__ == "__main__":
    sys.exit(main())
