"""`densor gpu-check`: whether the GPU decodes just what the CPU does, and how fast."""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from densor.cli import console, frame
from densor.cli.arguments import Parser, add_flags, count
from densor.errors import ChecksumError, DensorError

if TYPE_CHECKING:
    from densor.cli.gpu_check import Result
    from densor.gpu import Backend


def parser() -> argparse.ArgumentParser:
    """The parser of `densor gpu-check`."""
    parser = Parser(
        "gpu-check",
        description="Decodes generated weights of every type by every GPU kernel, compares bit\n"
        "for bit with the CPU, damages packed bytes, and times decoding. Prints a table.",
    )
    parser.add_argument("--emulate", action="store_true", help="run the kernels on the CPU")
    parser.add_argument("--json", metavar="FILE", help="write all results here")
    parser.add_argument("--markdown", metavar="FILE", help="write a table here")
    parser.add_argument("--elements", type=count, metavar="N", help="of the large tensors")
    add_flags(parser, "quiet")
    return parser


def run(args: argparse.Namespace) -> int:
    """Prints the table; 1 if anything is wrong."""
    return frame.subject(args, ["gpu-check"], _check)


def _check(args: argparse.Namespace) -> None:
    from densor.cli import gpu_check
    from densor.gpu import backend

    on = backend("emulate" if args.emulate else "cuda")
    elements = args.elements or (gpu_check.SMALL if args.emulate else gpu_check.LARGE)
    machine = gpu_check.machine(on)
    results = _results(on, elements, not args.emulate)
    text = gpu_check.markdown(machine, results)
    if args.json:
        rows = [asdict(result) for result in results]
        report = {"machine": machine, "results": rows}
        Path(args.json).write_text(json.dumps(report, indent=1) + "\n")
    if args.markdown:
        Path(args.markdown).write_text(text)
    console.put(text)
    wrong = sum(not result.right for result in results)
    if wrong:
        raise ChecksumError(f"{wrong} of {len(results)} checks failed")


def _results(on: "Backend", elements: int, timed: bool) -> "list[Result]":
    """The results of all checks, up to the first that ends them."""
    from densor.cli.gpu_check import Result
    from densor.cli.gpu_check import run as checks

    results: list[Result] = []
    try:
        for result in checks(on, elements, timed):
            results.append(result)
            if not result.right:
                console.say(f"WRONG: {result}")
    except DensorError as error:
        console.say(f"stopped: {error}")
        results.append(Result("stopped", "", 0, False, note=str(error)))
    return results
