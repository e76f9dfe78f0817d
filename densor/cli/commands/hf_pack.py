"""`densor hf-pack`: a HuggingFace model's folder, packed so that transformers still loads it."""

import argparse
import os

from densor.cli import console
from densor.cli.arguments import (
    Parser,
    add_force,
    add_gpu_index,
    add_levels,
    add_quiet,
    add_threads,
)
from densor.errors import FileError

_CLOSING = """\
{folder}: to load it, import densor.hf before from_pretrained (pip install "densor[hf]")
{folder}: without it transformers refuses the shapes, and with ignore_mismatched_sizes=True it
{folder}: would go on with RANDOM weights; the model card says so too"""


def parser() -> argparse.ArgumentParser:
    """The parser of `densor hf-pack`."""
    found = Parser(
        "hf-pack",
        description="Writes a packed copy of a model's folder. Its weights are valid safetensors\n"
        "files, and transformers loads it after `import densor.hf`.",
    )
    found.add_argument("model", metavar="MODEL_DIR", help="folder with config.json and weights")
    found.add_argument("out", metavar="OUT_DIR", help="the folder to be made")
    add_levels(found)
    found.add_argument("--level", type=int, choices=range(1, 10), metavar="1-9", help="same as -#")
    found.add_argument(
        "--base",
        metavar="DIR",
        help="folder of the model that this one was made from: code only what differs,\n"
        "which loading then needs too",
    )
    add_gpu_index(found)
    add_threads(found)
    add_force(found)
    add_quiet(found)
    found.set_defaults(level=3)
    return found


def run(args: argparse.Namespace) -> int:
    """Writes the folder."""
    return console.each([args], lambda args: [args.model, args.out], _pack)


def _pack(args: argparse.Namespace) -> None:
    if not os.path.isdir(args.model):
        raise FileError("no such folder")
    from densor.files.model_folder import pack_model, weight_files

    def total() -> int:
        return sum(os.path.getsize(path) for path in weight_files(args.model))

    with console.progress(args.model, total, args.quiet) as moved:
        done = pack_model(
            args.model,
            args.out,
            args.level,
            args.threads,
            base=args.base,
            overwrite=args.force,
            gpu_index=args.gpu_index,
            progress=moved,
        )
    if not args.quiet:
        ratio = console.percent(done.sizes.stored, done.sizes.original)
        change = f"{console.size(done.sizes.original)} => {console.size(done.sizes.stored)}"
        console.say(f"{args.out}: {ratio} ({change})")
        for line in _CLOSING.format(folder=args.out).splitlines():
            console.say(line)
