"""Makes `circuit/` and `ardm/`: models of images, and archives that were coded under them.

Files are added and never changed. Run by hand: python tests/golden/make_circuits.py
"""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "support")]

import numpy as np  # noqa: E402
from circuits import any_circuit, any_network, likely_images  # noqa: E402
from helpers import random_state  # noqa: E402

import densor  # noqa: E402
from densor.codec.circuit.coding import decode_images  # noqa: E402
from densor.codec.circuit.model import Size, tables_of  # noqa: E402
from densor.files.image_models import save  # noqa: E402

SETS = {"grey": (Size(12, 9, 1), False), "colour": (Size(8, 8, 3), True)}


def main() -> None:
    folder = HERE / "circuit"
    folder.mkdir(exist_ok=True)
    for name, (size, residual) in SETS.items():
        circuit = any_circuit(size, 4, 12, 20, residual=residual, seed="golden")
        if not (folder / f"{name}-model.densor").exists():
            save(circuit, folder / f"{name}-model.densor")
            rng = random_state("golden circuits", name)
            shape = (12, size.height, size.width, *([3] if size.channels == 3 else []))
            streams = rng.integers(1, 256, (12, 40), np.uint8).ravel()  # of likely images
            images = np.zeros(shape, np.uint8)
            decode_images(tables_of(circuit), streams, np.full(12, 40), images.reshape(-1))
            packed = densor.compress(images, image_model=circuit)
            (folder / f"{name}.densor").write_bytes(packed)
    folder = HERE / "ardm"
    folder.mkdir(exist_ok=True)
    if not (folder / "grey-model.densor").exists():
        network = any_network(Size(12, 9, 1), 8, seed="golden")
        save(network, folder / "grey-model.densor")
        images = likely_images(network, 12).reshape(12, 12, 9)
        (folder / "grey.densor").write_bytes(densor.compress(images, image_model=network))


if __name__ == "__main__":
    main()
