"""`densor pack`: files and folders into one archive."""

import argparse

from densor.cli import checks, console, frame, streams
from densor.cli.arguments import (
    Parser,
    add_flags,
    add_no_verify,
    add_writing,
    canonical_dtype,
    write_options,
)
from densor.cli.streams import DASH


def parser() -> argparse.ArgumentParser:
    """The parser of `densor pack`."""
    parser = Parser(
        "pack",
        description="Packs files and folders into one archive. What a folder holds is named\n"
        "relative to it; densor extract restores it all.",
    )
    parser.add_argument(
        "archive", metavar="OUT.densor", help="the archive to be made, - for stdout"
    )
    parser.add_argument("paths", metavar="PATH", nargs="+", help="file or folder to be packed")
    add_flags(parser, "threads", "overwrite", "quiet")
    add_writing(parser)
    add_flags(parser, "language_model", "image_model")
    add_no_verify(parser)
    add_flags(parser, "base", "max_output_size")
    parser.add_argument(
        "--derive",
        action="store_true",
        help="GGUF files that were quantised from safetensors files among the PATHs are\n"
        "coded against what the quantiser gives",
    )
    parser.add_argument(
        "--derive-small",
        action="store_true",
        help="likewise, without the scales of K types, which are searched for again as one\n"
        "is restored: smaller by 9 %%, and takes two to three times as long",
    )
    return parser


def run(args: argparse.Namespace) -> int:
    """Writes the archive."""
    args.dtype = canonical_dtype(args)
    left_out: list[str] = []
    status = frame.archive(args, args.archive, lambda args: _pack(args, left_out), "stdout")
    for reason in left_out:
        console.say(f"densor: {reason}; left out")
    return status or (1 if left_out else 0)


def _pack(args: argparse.Namespace, left_out: list[str]) -> str | None:
    archive = args.archive
    checks.target_file(archive, args.overwrite)
    target = streams.stdout(args.overwrite, archive=True) if archive == DASH else archive
    from densor.files.folder import members, pack

    def total() -> int:
        found = members(args.paths, lambda error: None)
        return sum(streams.regular_size(str(m.path)) or 0 for m in found)

    with frame.moving(args, archive, total) as moved:
        options = write_options(args, moved)
        sizes = pack(
            args.paths,
            target,
            left_out=lambda e: left_out.append(str(e)),
            derive="small" if args.derive_small else args.derive,
            options=options,
        )
    if isinstance(target, str):
        return f"{archive}: {frame.packed(sizes)}"
    target.flush()
    return None
