"""`densor diff`: how the tensors of two checkpoints differ."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from densor.cli import checks, console, frame, table
from densor.cli.arguments import Parser, add_flags, read_options
from densor.errors import ArgumentError

if TYPE_CHECKING:
    from densor.codec.delta.compare import Changes
    from densor.files.diff import Difference

_NOT_COMPARED = {"old": "only A", "new": "only B", "both": "not compared"}
_HEADER = ["name", "type", "shape", "original", "changed", "bits", "max-ulp", "delta"]
_TREE = ["file", "against", "changed", "bits", "max-ulp", "delta"]


def parser() -> argparse.ArgumentParser:
    """The parser of `densor diff`."""
    parser = Parser(
        "diff",
        description="Shows how the tensors of checkpoint B differ from those of A: how many\n"
        "numbers and bits have changed, by how many steps in numeric order at most, and\n"
        "what B takes coded against A (densor --base A B), estimated from samples. Of an\n"
        "archive alone: how each file in it differs from the one that it is coded against.",
    )
    parser.add_argument("old", metavar="A", help="file with tensors, or archive of one")
    parser.add_argument("new", metavar="B", nargs="?", help="likewise")
    parser.add_argument("--html", metavar="FILE", help="write a page with a map of the changes")
    add_flags(parser, "json", "threads", "base", "max_output_size", "overwrite")
    return parser


def run(args: argparse.Namespace) -> int:
    """Prints the table or the JSON."""
    if args.new is None:
        return frame.subject(args, [args.old], _show_tree)
    return frame.subject(args, [args.new, args.old], _show)


def _show_tree(args: argparse.Namespace) -> None:
    checks.source_file(args.old)
    if args.html:
        raise ArgumentError("--html needs two checkpoints")
    from densor.codec.delta.compare import NOTHING
    from densor.files.diff import branches

    rows: list[list[str]] = []
    files: list[dict[str, Any]] = []
    for branch in branches(args.old, options=read_options(args)):
        total = sum((one.changes or NOTHING for one in branch.tensors), NOTHING)
        size = sum(one.size for one in branch.tensors if one.changes is not None)
        files.append({"name": branch.name, "base": branch.base, **_counts(total, size)})
        cells = ["", "", "", "", ""]
        if branch.base is not None:
            cells = [console.escape(branch.base), *_cells(total, size)]
        rows.append(["  " * branch.depth + console.escape(branch.name), *cells])
    if args.json:
        frame.as_json({"archive": args.old, "files": files})
        return
    console.put(table.render(_TREE, rows, left=(0, 1)))


def _show(args: argparse.Namespace) -> None:
    old, new = args.old, args.new
    checks.source_file(old)
    checks.source_file(new)
    from densor.codec.delta.compare import NOTHING
    from densor.files.diff import differences, is_lossy

    if args.html:
        checks.target_file(args.html, args.overwrite, new)
    pairs = list(differences(old, new, options=read_options(args)))
    lossy = {name: is_lossy(name, read_options(args)) for name in (old, new)}
    if args.html:
        _write_page(args, pairs, [Path(name).name for name in lossy if lossy[name]])
        return
    total = NOTHING
    for one in pairs:
        total += one.changes or NOTHING
    compared = sum(one.size for one in pairs if one.changes is not None)
    if args.json:
        tensors = [_described(one) for one in pairs]
        marks = {"lossy": {"old": lossy[old], "new": lossy[new]}}
        frame.as_json(
            {"old": old, "new": new, **marks, **_counts(total, compared), "tensors": tensors}
        )
        return
    rows = [_row(one) for one in pairs]
    rows.append(["total", "", "", console.size(compared), *_cells(total, compared)])
    console.put(table.render(_HEADER, rows, left=(0, 1, 2)))
    for name in (name for name in lossy if lossy[name]):
        console.put(f"{console.escape(name)} is lossy: it only approximates another model")


def _write_page(args: argparse.Namespace, pairs: "list[Difference]", lossy: list[str]) -> None:
    from densor.cli import diff_page
    from densor.files.opened import open_output
    from densor.formats.io.outputs import write_all

    text = diff_page.page(Path(args.old).name, Path(args.new).name, pairs, lossy)
    with open_output(args.html, args.overwrite) as target:
        write_all(target, text.encode())
    console.say(f"{console.escape(args.html)}: {console.size(len(text.encode()))}")


def _row(one: "Difference") -> list[str]:
    shape = "x".join(str(size) for size in one.shape)
    head = [console.escape(one.name), one.dtype, shape, console.size(one.size)]
    if one.changes is None:
        return [*head, _NOT_COMPARED[one.only or "both"], "", "", ""]
    return [*head, *_cells(one.changes, one.size)]


def _cells(changes: "Changes", size: int) -> list[str]:
    changed = console.percent(changes.changed, changes.numbers)
    bits = console.percent(changes.bits, 8 * size)
    return [changed, bits, str(changes.distance), console.percent(round(changes.coded), size)]


def _described(one: "Difference") -> dict[str, Any]:
    head = {"name": one.name, "dtype": one.dtype, "shape": list(one.shape), "size": one.size}
    if one.changes is None:
        return {**head, "only": one.only}
    return {**head, **_counts(one.changes, one.size)}


def _counts(changes: "Changes", size: int) -> dict[str, Any]:
    return {
        "elements": changes.numbers,
        "identical": changes.numbers - changes.changed,
        "changed": changes.changed,
        "bits": changes.bits,
        "max_ulp_distance": changes.distance,
        "delta": round(changes.coded / size, 5) if size else None,
    }
