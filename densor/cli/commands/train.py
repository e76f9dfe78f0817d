"""`densor train`: learns a model from the user's own data."""

import argparse

from densor.cli import checks, console, frame
from densor.cli.arguments import Parser, add_flags, count


def parser() -> argparse.ArgumentParser:
    """The parser of `densor train`."""
    parser = Parser(
        "train",
        description="Learns a model of images of one size, under which each of them is coded by\n"
        "itself, so that any one can be had alone: a hidden Chow-Liu tree. Takes minutes.\n"
        "SET: an IDX file, plain or in gzip, a .npy file of uint8, or a folder of images.\n"
        "Then: densor --image-model MODEL SET",
    )
    parser.add_argument("kind", choices=["images"], help="what is learned from")
    parser.add_argument("set", metavar="SET", help="the images, of one size")
    parser.add_argument("-o", "--output", required=True, metavar="MODEL", help="the model")
    parser.add_argument(
        "--states", type=count, default=4, metavar="N", help="of each hidden variable (%(default)s)"
    )
    parser.add_argument(
        "--leaves", type=count, default=256, metavar="N", help="contexts of samples (%(default)s)"
    )
    parser.add_argument(
        "--rounds", type=count, default=20, metavar="N", help="over all images (%(default)s)"
    )
    parser.add_argument(
        "--hold-out",
        type=count,
        default=0,
        metavar="N",
        help="measure by every Nth image, which is not learned from",
    )
    add_flags(parser, "overwrite", "quiet")
    return parser


def run(args: argparse.Namespace) -> int:
    """Learns the model and writes it."""
    return frame.archive(args, args.output, _train)


def _train(args: argparse.Namespace) -> str:
    checks.existing(args.set)
    checks.target_file(args.output, args.overwrite)
    import numpy as np

    from densor.codec.circuit.coding import bytes_of
    from densor.codec.circuit.model import tables_of
    from densor.codec.circuit.training.learn import Settings, learn
    from densor.files.image_models import read_images, save

    settings = Settings(args.states, args.leaves, args.rounds)
    settings.check()
    size, samples = read_images(args.set)
    held = np.zeros(len(samples), np.bool_)
    if args.hold_out:
        held[:: args.hold_out] = True
    with frame.moving(
        args, args.set, lambda: int((~held).sum()) * size.samples * args.rounds
    ) as moved:
        circuit = learn(samples[~held], size, settings, moved)
    stored = save(circuit, args.output, args.overwrite)
    tables = tables_of(circuit)
    shown = samples[held] if held.any() else samples
    what = "held out" if held.any() else "learned from"
    return (
        f"{args.output}: {console.size(stored)}, model {tables.digest.hex()}; "
        f"{8 * bytes_of(tables, shown) / shown.size:.3f} bits per sample of those {what}"
    )
