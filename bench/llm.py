"""Bits per byte and speed of text under a language model, beside the embedded model.

    python -m bench.llm FILE... [--bytes N] [--llm MODEL] [--slots B] [--out DIR]

The first N bytes of each file are packed and restored in one thread. Speeds are in bytes of text
per second of processor time, without loading the model and compiling. The digest is that of the
packed text: it must be the same on every machine. Writes ``llm.csv`` into DIR.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bench import machine
from densor import compress
from densor.codec.language_model import encoder as coding
from densor.codec.language_model import params as wire
from densor.codec.language_model.decoder import LanguageModelDecoder
from densor.codec.language_model.encoder import LanguageModelEncoder
from densor.codec.language_model.session import Session
from densor.runtime.workers import Workers


class Row(NamedTuple):
    """What a model made of a text; speeds in bytes per second."""

    text: str
    model: str
    slots: int
    bytes: int
    packed: int
    alone: int  # bytes that the embedded model takes
    packing: float
    restoring: float
    digest: str


def measure(name: str, data: bytes, llm: str) -> Row:
    """Packs and restores a text."""
    content = np.frombuffer(data, np.uint8).copy()
    session = Session(llm)
    session.weights()
    begin = time.process_time()
    coder = LanguageModelEncoder(content, session, Workers(1))
    chunks = coder.encode().result().chunks
    packing = time.process_time() - begin
    model = wire.parse(coder.model())
    begin, at = time.process_time(), 0
    for _, payload, size in chunks:
        out = np.zeros(size, np.uint8)
        LanguageModelDecoder(model, session).decode(np.frombuffer(payload, np.uint8), out)
        if not np.array_equal(out, content[at : at + size]):
            sys.exit(f"{name}: wrong bytes")
        at += size
    restoring = time.process_time() - begin
    whole = coder.model() + b"".join(bytes(chunk.payload) for chunk in chunks)
    digest = hashlib.sha256(whole).hexdigest()[:16]
    alone = len(compress(data, 9, threads=1))
    return Row(
        name, llm, model.slots, len(data), len(whole), alone,
        len(data) / packing, len(data) / restoring, digest,
    )  # fmt: skip


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Command line: see the module's text."""
    parser = argparse.ArgumentParser(prog="python -m bench.llm")
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--bytes", type=int, default=100_000, metavar="N")
    parser.add_argument("--llm", default="smollm2", metavar="MODEL")
    parser.add_argument("--slots", type=int, metavar="B", help="segments; default: by size")
    parser.add_argument("--out", type=Path, default=Path("bench-results"), metavar="DIR")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0, or a message where a text does not come back."""
    args = parse_arguments(argv)
    machine.pin_to_one_core()
    settings: Any = coding
    if args.slots:
        settings._SLOTS = ((0, args.slots),)
    measure("warm", b"A text, to compile what is needed. " * 3, args.llm)
    rows = []
    for path in args.files:
        row = measure(path.name, path.read_bytes()[: args.bytes], args.llm)
        rows.append(row)
        print(
            f"{row.text:14} B={row.slots:<2} {row.bytes:8} bytes  {8 * row.packed / row.bytes:.4f} "
            f"bits per byte (embedded model {8 * row.alone / row.bytes:.4f})  packed at "
            f"{row.packing:.0f} B/s, restored at {row.restoring:.0f} B/s  {row.digest}",
            flush=True,
        )
    args.out.mkdir(parents=True, exist_ok=True)
    with (args.out / "llm.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*Row._fields[:6], "packing_B_per_s", "restoring_B_per_s", "digest"])
        for row in rows:
            speeds = (f"{row.packing:.0f}", f"{row.restoring:.0f}")
            writer.writerow([*row[:6], *speeds, row.digest])
    return 0


if __name__ == "__main__":
    sys.exit(main())
