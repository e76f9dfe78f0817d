"""Runs the benchmark.

    python -m bench.run INPUT... [--codecs a,b] [--threads 1] [--repeat 5] [--out DIR]

Each INPUT is a safetensors file. Writes ``results.csv`` and ``results.md`` into DIR and prints the
latter. With one thread the process pins itself to one core, helper threads included.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bench import machine
from bench.codecs import TENSORS, load_codecs
from bench.report import InputReport, markdown, write_csv
from bench.tensors import read_safetensors
from densor.codec.bound import order0_bytes
from densor.compare.codec import Codec
from densor.compare.timing import measure


def codec_names(text: str) -> list[str]:
    """Splits a comma-separated list of codec names and checks each."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in TENSORS]
    if unknown or not names:
        known = ", ".join(TENSORS)
        raise argparse.ArgumentTypeError(f"unknown codec {', '.join(unknown)}; known: {known}")
    return names


def thread_count(text: str) -> int:
    """A positive number, or "all" for every core that may be used."""
    count = len(machine.usable_cores()) if text == "all" else int(text)
    if count < 1:
        raise argparse.ArgumentTypeError("threads must be at least 1")
    return count


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Command line: see the module's text."""
    parser = argparse.ArgumentParser(prog="python -m bench.run")
    parser.add_argument("inputs", nargs="+", type=Path, metavar="INPUT")
    parser.add_argument("--codecs", type=codec_names, default=list(TENSORS), metavar="a,b")
    parser.add_argument("--threads", type=thread_count, default=1, metavar="N", help='or "all"')
    parser.add_argument("--repeat", type=int, default=5, metavar="N", help="timed rounds")
    parser.add_argument("--out", type=Path, default=Path("bench-results"), metavar="DIR")
    args = parser.parse_args(argv)
    if args.repeat < 1:
        parser.error("--repeat must be at least 1")
    return args


def run_input(path: Path, codecs: Sequence[Codec], threads: int, repeat: int) -> InputReport:
    """Measures all codecs on one file."""
    tensors = [t for t in read_safetensors(path) if t.data.nbytes]
    if not tensors:
        raise SystemExit(f"{path}: no tensor data")
    for t in tensors:
        t.data.flags.writeable = False
    dtypes = sorted({t.dtype for t in tensors})
    bound = sum(order0_bytes(t.data, t.dtype) for t in tensors)
    results = measure(codecs, tensors, threads, repeat)
    return InputReport(path.stem, len(tensors), dtypes, bound, results)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 1 if any codec failed on an input; an absent or unsuited one is no failure."""
    args = parse_arguments(argv)
    if args.threads == 1:
        machine.pin_to_one_core()
    about = machine.describe()
    codecs, absent = load_codecs(args.codecs)
    if not codecs:
        raise SystemExit(f"no codec can be loaded: {absent}")
    reports = []
    args.out.mkdir(parents=True, exist_ok=True)
    for path in args.inputs:
        print(f"measuring {path.name} with {len(codecs)} codecs", file=sys.stderr)
        reports.append(run_input(path, codecs, args.threads, args.repeat))
        write_csv(args.out / "results.csv", reports)
    about["load average at end"] = machine.load_average()
    text = markdown(reports, about, absent)
    (args.out / "results.md").write_text(text)
    print(text)
    return int(any(r.error for report in reports for r in report.results))


if __name__ == "__main__":
    sys.exit(main())
