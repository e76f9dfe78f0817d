"""`densor hub`: many models, found to be families, and packed as such."""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from densor.cli import console, frame, table
from densor.cli.arguments import Parser, add_flags, write_options
from densor.errors import FileError
from densor.options import DEFAULT_LEVEL

if TYPE_CHECKING:
    from densor.files.families import Family


def parser() -> argparse.ArgumentParser:
    """The parser of `densor hub`."""
    parser = Parser(
        "hub",
        description="Finds the models in and below folders (those with config.json and weights),\n"
        "which were made from which, and what packing saves if the others of a family are coded\n"
        "against one of it. Sizes are estimated from samples. --apply packs them, so that\n"
        "transformers loads them; a base has to lie beside what needs it.",
    )
    parser.add_argument("action", choices=["plan"], help="what to do")
    parser.add_argument("folders", metavar="FOLDER", nargs="+")
    parser.add_argument(
        "--apply", metavar="OUT_DIR", help="pack all models into folders in OUT_DIR"
    )
    parser.add_argument("--json", action="store_true", help="the plan as JSON")
    add_flags(parser, "level", "threads", "overwrite", "quiet")
    parser.set_defaults(level=DEFAULT_LEVEL)
    return parser


def run(args: argparse.Namespace) -> int:
    """Prints the plan, and does it if asked to."""
    return frame.subject(args, args.folders, _plan)


def _plan(args: argparse.Namespace) -> str | None:
    from densor.files.families import find_families, find_models, pack_families

    models = find_models(args.folders)
    if not models:
        raise FileError("no folder with config.json and model*.safetensors")
    families = find_families(models, write_options(args))
    if args.json:
        frame.as_json([_described(family) for family in families])
    else:
        console.put(_rendered(families))
    if args.apply is None:
        return None
    done = pack_families(families, args.apply, write_options(args))
    stored = sum(packed.sizes.stored for _, packed in done)
    original = sum(packed.sizes.original for _, packed in done)
    change = f"{console.size(original)} => {console.size(stored)}"
    return f"{args.apply}: {len(done)} models, {console.percent(stored, original)} ({change})"


def _described(family: "Family") -> dict[str, Any]:
    return {
        "base": str(family.base.path),
        "models": [
            {
                "path": str(member.model.path),
                "size": member.model.size,
                "alone": round(member.alone),
                "packed": round(member.packed),
            }
            for member in family.members
        ],
    }


def _rendered(families: Sequence["Family"]) -> str:
    rows = []
    for family in families:
        for member in family.members:
            path = console.escape(member.model.path.name)
            name = path if member.model is family.base else f"  {path}"
            rows.append([name, *map(_size, (member.model.size, member.alone, member.packed))])
    members = [member for family in families for member in family.members]
    sums = (
        sum(member.model.size for member in members),
        sum(member.alone for member in members),
        sum(member.packed for member in members),
    )
    rows.append([f"{len(members)} models, {len(families)} without a base", *map(_size, sums)])
    return table.render(["model (below the one that it needs)", "plain", "alone", "packed"], rows)


def _size(size: float) -> str:
    return console.size(round(size))
