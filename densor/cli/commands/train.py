"""`densor train`: learns a model from the user's own data."""

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from densor.cli import checks, console, frame
from densor.cli.arguments import Parser, add_flags, count
from densor.errors import UnsupportedError

if TYPE_CHECKING:
    from densor.codec.ardm.model import Network
    from densor.codec.circuit.model import Circuit
    from densor.files.image_models import Images

_HOLD_OUT = 10  # for a network, which is measured in any case


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
        "--kind",
        dest="model_kind",
        choices=["circuit", "ardm"],
        default="circuit",
        help="ardm: a network, by torch, kept if smaller than a circuit (%(default)s)",
    )
    parser.add_argument(
        "--calls",
        type=count,
        default=50,
        metavar="N",
        help="of the network for an image, at most (%(default)s)",
    )
    parser.add_argument(
        "--states", type=count, default=4, metavar="N", help="of each hidden variable (%(default)s)"
    )
    parser.add_argument(
        "--leaves", type=count, default=256, metavar="N", help="contexts of samples (%(default)s)"
    )
    parser.add_argument(
        "--rounds",
        type=count,
        default=0,
        metavar="N",
        help="over all images (circuit 20, ardm 12)",
    )
    parser.add_argument(
        "--hold-out",
        type=count,
        default=0,
        metavar="N",
        help=f"measure by every Nth image, which is not learned from (ardm {_HOLD_OUT})",
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

    from densor.codec.circuit.training.learn import Settings
    from densor.files.image_models import Images, read_images

    settings = Settings(args.states, args.leaves, args.rounds or Settings.rounds)
    settings.check()
    size, samples = read_images(args.set)
    held = np.zeros(len(samples), np.bool_)
    network = args.model_kind == "ardm"
    if args.hold_out or (network and len(samples) > 1):
        held[:: args.hold_out or _HOLD_OUT] = True
    learned = Images(size, samples[~held])
    shown = Images(size, samples[held]) if held.any() else learned
    circuit = _circuit(args, settings, learned)
    model: Circuit | Network = circuit
    text = ""
    if network:
        model, text = _smaller(circuit, _network(args, learned), shown, len(samples))
    return _saved(args, model, shown, "held out" if held.any() else "learned from") + text


def _circuit(args: argparse.Namespace, settings: Any, images: "Images") -> "Circuit":
    from densor.codec.circuit.training.learn import learn

    total = images.samples.size * settings.rounds
    with frame.moving(args, args.set, lambda: total) as moved:
        return learn(images.samples, images.size, settings, moved)


def _network(args: argparse.Namespace, images: "Images") -> "Network":
    try:
        from densor.torch.image_networks import Settings, learn
    except ImportError as error:
        text = f'--kind ardm needs torch: pip install "densor[torch]" ({error})'
        raise UnsupportedError(text) from error
    settings = Settings(args.calls, args.rounds or Settings.rounds)
    total = images.samples.size * settings.rounds
    with frame.moving(args, args.set, lambda: total) as moved:
        return learn(images.samples, images.size, settings, moved)


def _smaller(
    circuit: "Circuit", network: "Network", held: "Images", count: int
) -> tuple["Circuit | Network", str]:
    """The model under which `count` images would take less, itself included, and a line on both."""
    from densor.files.image_models import file_bytes

    def bits(model: "Circuit | Network") -> float:
        own = file_bytes(model) / (count * held.size.samples)
        return 8 * (own + _coded(model)(held.samples) / held.samples.size)

    both = bits(circuit), bits(network)
    text = f"\nwith the model's own bytes {both[1]:.3f} (circuit {both[0]:.3f})"
    if both[1] < both[0]:
        return network, f"{text}; an autoregressive network, {_calls(network)} calls an image"
    return circuit, f"{text}; the circuit is kept"


def _calls(network: "Network") -> int:
    from densor.codec.ardm.model import tables_of

    return tables_of(network).geometry.calls.size - 1


def _coded(model: "Circuit | Network") -> Callable[[Any], int]:
    """What says how many bytes images take under a model."""
    from densor.codec.circuit.coding import bytes_of
    from densor.codec.circuit.loading import load

    tables = load(model)
    return lambda samples: bytes_of(tables, samples)


def _saved(args: argparse.Namespace, model: "Circuit | Network", shown: "Images", what: str) -> str:
    from densor.codec.circuit.loading import load
    from densor.files.image_models import save

    stored = save(model, args.output, args.overwrite)
    bits = 8 * _coded(model)(shown.samples) / shown.samples.size
    return (
        f"{args.output}: {console.size(stored)}, model {load(model).digest.hex()}; "
        f"{bits:.3f} bits per sample of those {what}"
    )
