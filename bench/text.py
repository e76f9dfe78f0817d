"""Bits per byte and speed on text, beside classic compressors.

    python -m bench.text FILE... [--bytes N] [--codecs a,b] [--out DIR]

The first N bytes of each file are packed, restored and compared. KB/s is
of processor time in one thread, so that others at work on the machine count little; compilation
does not count. Peers are libraries or programs; those that are not there are left out. Writes
``text.csv`` and, with matplotlib, ``text.png`` into DIR.
"""

from __future__ import annotations

import argparse
import csv
import resource
import sys
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bench import machine
from bench.codecs import FILES, load_codecs
from densor.compare.codec import Item, file_item
from densor.compare.timing import Slow, measure, timed_round

CODECS = (
    *("densor -9", "densor -5", "gzip -9", "bzip2 -9", "xz -9e", "zstd -22 --long", "brotli 11"),
    *("ppmd H -o16", "kanzi 9", "lrzip -z", "zpaq -m5"),
)
_SOME_TEXT = b"".join(b"some text, number %d; " % i for i in range(1000))


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


def _seconds() -> float:
    """Processor time of this process and of programs that have ended."""
    usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def rows(texts: Sequence[tuple[str, bytes]], names: Sequence[str]) -> Iterator[Row]:
    """One row per text and codec that is there; what fails is said on stderr."""
    codecs, absent = load_codecs(names, FILES)
    for name, reason in absent.items():
        print(f"{name}: {reason}", file=sys.stderr)
    for codec in codecs:
        if codec.compiles:
            timed_round(codec, [_item("warm-up", _SOME_TEXT)], 1)
        for text, data in texts:
            once = Slow(0.0, 0, compiled=True)
            (result,) = measure([codec], [_item(text, data)], 1, 1, slow=once, clock=_seconds)
            if not result.ok:
                if codec.package == "densor":
                    sys.exit(f"{text}: {codec.name}: {result.error}")
                print(f"{text:14} {codec.name:18} {result.error}", file=sys.stderr)
                continue
            seconds = max(result.first_compress_s, 1e-3)
            row = Row(text, codec.name, len(data), int(result.compressed), seconds)
            print(f"{text:14} {row.codec:18} {row.bits:.4f} {row.speed:8.0f} KB/s", file=sys.stderr)
            yield row


def _item(name: str, data: bytes) -> Item:
    return file_item(name, np.frombuffer(data, np.uint8))


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
    """Exit status 0 unless Densor fails; what is absent, or fails, is said on stderr."""
    args = parse_arguments(argv)
    machine.pin_to_one_core()
    texts = [(path.name, path.read_bytes()[: args.bytes]) for path in args.files]
    measured = list(rows(texts, args.codecs.split(",")))
    args.out.mkdir(parents=True, exist_ok=True)
    with (args.out / "text.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "codec", "bytes", "bits_per_byte", "KB_per_s"])
        for row in measured:
            line = [row.text, row.codec, row.bytes, f"{row.bits:.4f}", f"{row.speed:.0f}"]
            writer.writerow(line)
    plot(measured, args.out / "text.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
