"""Runs the benchmark of checkpoints coded against another one.

    python -m bench.delta NEW.safetensors BASE.safetensors [--repeat 5] [--out DIR]

Tensors of both files are matched by name. Writes ``delta.csv`` and ``delta.md`` into DIR and prints
the latter. Runs on one core, helper threads included.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bench import machine
from bench.codecs import load_codecs
from bench.codecs.against_base import load_peers
from bench.report import InputReport, markdown, write_csv
from bench.tensors import read_safetensors
from densor.compare.timing import measure


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Command line: see the module's text."""
    parser = argparse.ArgumentParser(prog="python -m bench.delta")
    parser.add_argument("new", type=Path, metavar="NEW")
    parser.add_argument("base", type=Path, metavar="BASE")
    parser.add_argument("--repeat", type=int, default=5, metavar="N", help="timed rounds")
    parser.add_argument("--out", type=Path, default=Path("bench-results"), metavar="DIR")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 1 if any codec failed; an absent one is no failure."""
    args = parse_arguments(argv)
    machine.pin_to_one_core()
    about = machine.describe()
    base = {t.name: t for t in read_safetensors(args.base)}
    tensors = [t for t in read_safetensors(args.new) if t.data.nbytes and t.name in base]
    if not tensors:
        raise SystemExit("the files share no tensors")
    for tensor in (*tensors, *base.values()):
        tensor.data.flags.writeable = False
    peers, absent = load_peers(base)
    memcpy, _ = load_codecs(["memcpy"])
    results = measure([*memcpy, *peers], tensors, 1, args.repeat)
    dtypes = sorted({t.dtype for t in tensors})
    title = f"{args.new.stem} against {args.base.stem}"
    reports = [InputReport(title, len(tensors), dtypes, None, results)]
    args.out.mkdir(parents=True, exist_ok=True)
    write_csv(args.out / "delta.csv", reports)
    about["load average at end"] = machine.load_average()
    text = markdown(reports, about, absent)
    (args.out / "delta.md").write_text(text)
    print(text)
    return int(any(r.error for r in results))


if __name__ == "__main__":
    sys.exit(main())
