"""`densor hf-pack`: a HuggingFace model's folder, packed so that transformers still loads it."""

import argparse
import os

from densor.cli import frame
from densor.cli.arguments import Parser, add_flags, write_options
from densor.errors import FileError
from densor.options import DEFAULT_LEVEL

_CLOSING = """\
{folder}: to load it, import densor.hf before from_pretrained (pip install "densor[hf]")
{folder}: without it transformers refuses the shapes, and with ignore_mismatched_sizes=True it
{folder}: would go on with RANDOM weights; the model card says so too"""

_PIPELINE = """\
{folder}: to load it, import densor.integrations.diffusers before from_pretrained"""

_QUANTISED = """\
{folder}: quantised with {method}: vLLM loads it where densor is installed; transformers does not,
{folder}: and needs the original, which densor hf-unpack restores"""


def parser() -> argparse.ArgumentParser:
    """The parser of `densor hf-pack`."""
    parser = Parser(
        "hf-pack",
        description="Writes a packed copy of a model's folder. Its weights are valid safetensors\n"
        "files, and transformers loads it after `import densor.hf`. Of a diffusers\n"
        "pipeline every model is packed.",
    )
    parser.add_argument(
        "model", metavar="MODEL_DIR", help="folder with config.json and weights, or of a pipeline"
    )
    parser.add_argument("out", metavar="OUT_DIR", help="the folder to be made")
    add_flags(parser, "level")
    parser.add_argument("--level", type=int, choices=range(1, 10), metavar="1-9", help="same as -#")
    add_flags(
        parser,
        "base",
        metavar="DIR",
        help="folder of the model that this one was made from: code only what differs,\n"
        "which loading then needs too",
    )
    add_flags(parser, "gpu_index", "threads", "overwrite", "quiet")
    add_flags(parser, "max_output_size", help="give up on a base whose weights have more bytes")
    parser.set_defaults(level=DEFAULT_LEVEL)
    return parser


def run(args: argparse.Namespace) -> int:
    """Writes the folder."""
    return frame.subject(args, [args.model, args.out], _pack)


def _pack(args: argparse.Namespace) -> str:
    if not os.path.isdir(args.model):
        raise FileError("no such folder")
    from densor.files.model_folder import pack_model
    from densor.files.pipeline_folder import all_weight_files, is_pipeline, pack_pipeline

    def total() -> int:
        return sum(os.path.getsize(path) for path in all_weight_files(args.model))

    pipeline = is_pipeline(args.model)
    pack = pack_pipeline if pipeline else pack_model
    with frame.moving(args, args.model, total) as moved:
        done = pack(args.model, args.out, options=write_options(args, moved))
    if pipeline:
        return f"{args.out}: {frame.packed(done.sizes)}\n{_PIPELINE.format(folder=args.out)}"
    closing = _CLOSING if done.method is None else _QUANTISED
    closing = closing.format(folder=args.out, method=done.method)
    return f"{args.out}: {frame.packed(done.sizes)}\n{closing}"
