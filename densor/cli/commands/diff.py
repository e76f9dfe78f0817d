"""`densor diff`: how the tensors of two checkpoints differ."""

import argparse
from typing import TYPE_CHECKING, Any

from densor.cli import checks, console, table
from densor.cli.arguments import Parser, add_base, add_max_size, add_threads

if TYPE_CHECKING:
    from densor.codec.delta.compare import Changes
    from densor.files.diff import Difference

_HEADER = ["name", "type", "shape", "original", "changed", "bits", "furthest", "delta"]


def parser() -> argparse.ArgumentParser:
    """The parser of `densor diff`."""
    found = Parser(
        "diff",
        description="Shows how the tensors of checkpoint B differ from those of A: how many\n"
        "numbers and bits have changed, by how many steps in numeric order at most, and\n"
        "what B takes coded against A (densor --base A B), estimated from samples.",
    )
    found.add_argument("old", metavar="A", help="file with tensors, or archive of one")
    found.add_argument("new", metavar="B", help="likewise")
    found.add_argument("--json", action="store_true", help="write JSON, sizes in bytes")
    add_threads(found)
    add_base(found)
    add_max_size(found)
    return found


def run(args: argparse.Namespace) -> int:
    """Prints the table or the JSON."""

    def show(new: str) -> None:
        _show(args.old, new, args)

    return console.each([args.new], lambda new: [new, args.old], show)


def _show(old: str, new: str, args: argparse.Namespace) -> None:
    checks.source_file(old)
    checks.source_file(new)
    from densor.codec.delta.compare import NOTHING
    from densor.files.diff import differences

    found = list(differences(old, new, args.threads, base=args.base, max_output_size=args.max_size))
    total = NOTHING
    for one in found:
        total += one.changes or NOTHING
    compared = sum(one.size for one in found if one.changes is not None)
    if args.json:
        import json

        tensors = [_described(one) for one in found]
        whole = {"old": old, "new": new, **_numbers(total, compared), "tensors": tensors}
        console.put(json.dumps(whole, indent=1))
        return
    rows = [_row(one) for one in found]
    rows.append(["total", "", "", console.size(compared), *_cells(total, compared)])
    console.put(table.render(_HEADER, rows, left=(0, 1, 2)))


def _row(one: "Difference") -> list[str]:
    shape = "x".join(str(size) for size in one.shape)
    head = [console.escape(one.name), one.dtype, shape, console.size(one.size)]
    if one.changes is None:
        return [*head, f"only {'A' if one.only == 'old' else 'B'}", "", "", ""]
    return [*head, *_cells(one.changes, one.size)]


def _cells(changes: "Changes", size: int) -> list[str]:
    changed = console.percent(changes.changed, changes.numbers)
    bits = console.percent(changes.bits, 8 * size)
    return [changed, bits, str(changes.distance), console.percent(round(changes.coded), size)]


def _described(one: "Difference") -> dict[str, Any]:
    head = {"name": one.name, "dtype": one.dtype, "shape": list(one.shape), "size": one.size}
    if one.changes is None:
        return {**head, "only": one.only}
    return {**head, **_numbers(one.changes, one.size)}


def _numbers(changes: "Changes", size: int) -> dict[str, Any]:
    return {
        "numbers": changes.numbers,
        "identical": changes.numbers - changes.changed,
        "changed": changes.changed,
        "bits": changes.bits,
        "furthest": changes.distance,
        "delta": round(changes.coded / size, 5) if size else None,
    }
