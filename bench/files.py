"""Sizes of whole files packed by Densor and by codecs that take any file.

    python -m bench.files FILE... [--dtype f16] [--levels 3,6,9] [--out DIR]

Every file is packed and restored; a codec that does not give the same bytes is an error. `--dtype`
is told to the codecs that must be told what a file's bytes are. Writes ``files.md`` into DIR.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bench import machine
from bench.codecs import FILES, load_codecs
from bench.report import markdown_table, one_line
from densor.compare.codec import Codec, Item, file_item
from densor.compare.timing import Slow, measure
from densor.dtypes import SIZES

TOLD = ("zipnn", "z4ai")  # codecs that must be told what a file's bytes are
PEERS = ("zstd-19", "xz -9", "zipnn", "lmzip", "glyd", "z4ai")


def measured(path: Path, codec: Codec, dtype: str | None) -> tuple[str, str, str]:
    """Ratio and speeds in MB/s, or what went wrong."""
    data = np.fromfile(path, np.uint8)
    item = file_item(path.name, data)
    if codec.name in TOLD and dtype is not None:
        item = Item(path.name, dtype.upper(), (data.size // SIZES[dtype.upper()],), data)
    (result,) = measure([codec], [item], 1, 1, slow=Slow(0.0, 0))
    if not result.ok:
        return one_line(result.error or result.note)[:80], "", ""
    speeds = f"{result.compress_mb_s:.1f}", f"{result.decompress_mb_s:.1f}"
    return (f"{result.ratio:.4f}", *speeds)


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Command line: see the module's text."""
    parser = argparse.ArgumentParser(prog="python -m bench.files")
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--dtype", choices=("f16", "f32", "bf16"))
    parser.add_argument("--levels", default="3,6,9", metavar="a,b")
    parser.add_argument("--out", type=Path, default=Path("bench-results"), metavar="DIR")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0; what failed is in the table."""
    args = parse_arguments(argv)
    machine.pin_to_one_core()
    ours = [f"densor -{level}" for level in args.levels.split(",")]
    codecs, absent = load_codecs([*ours, *PEERS], FILES)
    parts = ["# Whole files", ""]
    parts.append(
        "Ratio is packed ÷ original size; MB/s of one run in memory, compilation included."
    )
    for path in args.files:
        print(f"measuring {path.name}", file=sys.stderr)
        lines = [[codec.name, *measured(path, codec, args.dtype)] for codec in codecs]
        lines += [[name, one_line(reason)[:80], "", ""] for name, reason in absent.items()]
        lines.sort(key=lambda line: line[1])
        parts += ["", f"## {path.name}, {path.stat().st_size / 1e6:.1f} MB", ""]
        parts.append(markdown_table(["codec", "ratio", "pack MB/s", "unpack MB/s"], lines))
    parts += [
        "",
        "## Machine",
        "",
        markdown_table(["what", "value"], list(machine.describe().items()), 2),
    ]
    text = "\n".join(parts) + "\n"
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "files.md").write_text(text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
