"""Tables of the latent variable model itself: bytes beside the entropy that bounds them.

    python -m bench.latents [--shapes 1000x1000x3x2,...] [--out DIR]

Each row has a class of `classes`, each column too, all alike likely, and a cell is drawn from the
shares of `symbols` that belong to both, which are drawn from Dirichlet's distribution with 1/2
(Montanari and Weiner, 2023, section 2). The bound is H(cells | classes) + H(classes) - 2 log2
classes!, as classes follow from the cells but for their numbers. Writes ``latents.csv`` and, with
matplotlib, ``latents.png`` into DIR.
"""

from __future__ import annotations

import argparse
import csv
import importlib
import io
import lzma
import math
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import zstandard

import densor

SHAPES = "1000x1000x3x2,4000x1000x3x3"


class Row(NamedTuple):
    """What a way made of a table; `over`: percent above the bound."""

    table: str
    way: str
    size: int
    bound: int
    over: float


def drawn(rows: int, columns: int, classes: int, symbols: int) -> tuple[bytes, float]:
    """A table as CSV, and the bound in bytes."""
    rng = np.random.default_rng(rows + columns)
    u, v = rng.integers(0, classes, rows), rng.integers(0, classes, columns)
    shares = rng.dirichlet([0.5] * symbols, (classes, classes))
    ends = np.cumsum(shares, axis=2)[:, v]
    entropy = -(shares * np.log2(shares + 1e-300)).sum(axis=2)[u][:, v].sum()
    out = io.BytesIO()
    for row in range(rows):
        cells = (rng.random((columns, 1)) > ends[u[row]]).sum(axis=1).clip(0, symbols - 1)
        out.write(b",".join([b"%c" % (97 + cell) for cell in cells.tolist()]) + b"\n")
    of_classes = (rows + columns) * math.log2(classes) - 2 * math.log2(math.factorial(classes))
    return out.getvalue(), float(entropy + of_classes) / 8


def _densor(level: int, latents: bool) -> Callable[[bytes], int]:
    def size(text: bytes) -> int:
        with tempfile.TemporaryDirectory() as folder:
            path, packed = Path(folder) / "a.csv", Path(folder) / "a"
            path.write_bytes(text)
            densor.pack([path], packed, level=level, table_latents=latents)
            with densor.open(packed) as file:
                if file.read_file(file.files()[0]) != text:
                    raise SystemExit("a table did not come back")
            return packed.stat().st_size

    return size


def _transposed(text: bytes) -> bytes:
    """The cells alone, column by column."""
    lines = np.frombuffer(text.replace(b",", b""), np.uint8)
    return lines.reshape(text.count(b"\n"), -1)[:, :-1].T.tobytes()


WAYS: dict[str, Callable[[bytes], int]] = {
    "densor -3 --table-latents": _densor(3, True),
    "densor -5": _densor(5, False),
    "zstd 19": lambda text: len(zstandard.compress(text, 19)),
    "zstd 19 by columns": lambda text: len(zstandard.compress(_transposed(text), 19)),
    "xz 9": lambda text: len(lzma.compress(text, preset=9)),
}


def _draw(rows: Sequence[Row], path: Path) -> None:
    pyplot: Any = importlib.import_module("matplotlib.pyplot")
    tables = list(dict.fromkeys(row.table for row in rows))
    figure, axes = pyplot.subplots(figsize=(7, 4))
    width = 0.8 / len(WAYS)
    for i, way in enumerate(WAYS):
        over = [100 + row.over for row in rows if row.way == way]
        axes.bar(np.arange(len(tables)) + i * width, over, width, label=way)
    axes.axhline(100, color="black", linewidth=0.8)
    axes.set_xticks(np.arange(len(tables)) + 0.4 - width / 2, tables)
    axes.set_ylabel("bytes, percent of the entropy bound")
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--shapes", default=SHAPES, help="ROWSxCOLUMNSxCLASSESxSYMBOLS, ...")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    rows = []
    for shape in args.shapes.split(","):
        text, bound = drawn(*map(int, shape.split("x")))
        for way, size_of in WAYS.items():
            size = size_of(text)
            rows.append(Row(shape, way, size, round(bound), 100 * (size / bound - 1)))
            print(f"{shape:16} {way:26} {size:9} {bound:11.0f} {rows[-1].over:8.3f} %", flush=True)
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
        with (args.out / "latents.csv").open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([Row._fields, *rows])
        _draw(rows, args.out / "latents.png")


if __name__ == "__main__":
    main()
