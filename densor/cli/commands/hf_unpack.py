"""`densor hf-unpack`: the original folder of a packed model."""

import argparse
import os

from densor.cli import frame
from densor.cli.arguments import Parser, add_flags, read_options
from densor.errors import FileError


def parser() -> argparse.ArgumentParser:
    """The parser of `densor hf-unpack`."""
    parser = Parser(
        "hf-unpack",
        description="Restores the folder that densor hf-pack was given, byte for byte.",
    )
    parser.add_argument("model", metavar="DIR", help="the packed folder")
    parser.add_argument("out", metavar="OUT_DIR", help="the folder to be made")
    add_flags(parser, "base", metavar="DIR", help="folder of the model it was packed against")
    add_flags(parser, "threads", "overwrite", "quiet", "max_output_size")
    return parser


def run(args: argparse.Namespace) -> int:
    """Writes the folder."""
    return frame.subject(args, [args.model, args.out], _unpack)


def _unpack(args: argparse.Namespace) -> str:
    if not os.path.isdir(args.model):
        raise FileError("no such folder")
    from densor.files.model_folder import unpack_model
    from densor.files.pipeline_folder import all_weight_files, is_pipeline, unpack_pipeline
    from densor.formats.packed.reader import PackedFile

    def total() -> int:
        return sum(PackedFile(path).size for path in all_weight_files(args.model))

    unpack = unpack_pipeline if is_pipeline(args.model) else unpack_model
    with frame.moving(args, args.model, total) as moved:
        options = read_options(args, moved)
        sizes = unpack(args.model, args.out, overwrite=args.overwrite, options=options)
    return f"{args.out}: {frame.unpacked(sizes)}"
