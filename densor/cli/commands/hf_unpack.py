"""`densor hf-unpack`: the original folder of a packed model."""

import argparse
import os

from densor.cli import console
from densor.cli.arguments import Parser, add_force, add_quiet, add_threads
from densor.errors import FileError


def parser() -> argparse.ArgumentParser:
    """The parser of `densor hf-unpack`."""
    found = Parser(
        "hf-unpack",
        description="Restores the folder that densor hf-pack was given, byte for byte.",
    )
    found.add_argument("model", metavar="DIR", help="the packed folder")
    found.add_argument("out", metavar="OUT_DIR", help="the folder to be made")
    found.add_argument("--base", metavar="DIR", help="folder of the model it was packed against")
    add_threads(found)
    add_force(found)
    add_quiet(found)
    return found


def run(args: argparse.Namespace) -> int:
    """Writes the folder."""
    return console.each([args], lambda args: [args.model, args.out], _unpack)


def _unpack(args: argparse.Namespace) -> None:
    if not os.path.isdir(args.model):
        raise FileError("no such folder")
    from densor.files.model_folder import unpack_model, weight_files
    from densor.formats.packed.reader import PackedFile

    def total() -> int:
        return sum(PackedFile(path).size for path in weight_files(args.model))

    with console.progress(args.model, total, args.quiet) as moved:
        sizes = unpack_model(
            args.model,
            args.out,
            args.threads,
            base=args.base,
            overwrite=args.force,
            progress=moved,
        )
    if not args.quiet:
        change = f"{console.size(sizes.stored)} => {console.size(sizes.original)}"
        console.say(f"{args.out}: {change}")
