"""Saves tensors, reads one of them and some rows of another, and shows what was saved.

python examples/tensors.py [FOLDER]
"""

import sys
import tempfile
from pathlib import Path

import numpy as np

import densor


def main(folder: Path) -> None:
    """Everything in one folder."""
    rng = np.random.default_rng(0)
    weights = {
        f"layers.{i}.weight": rng.normal(0, 0.02, (512, 512)).astype(np.float32) for i in range(4)
    }
    path = folder / "model.densor"
    densor.save_file(weights, path, level=6)
    plain = sum(each.nbytes for each in weights.values())
    print(f"{plain} bytes as {path.stat().st_size}")

    with densor.open(path) as file:
        whole = file.get_tensor("layers.2.weight")
        rows = file.get_slice("layers.3.weight")[100:110]
    assert np.array_equal(whole.view(np.uint32), weights["layers.2.weight"].view(np.uint32))
    assert np.array_equal(rows, weights["layers.3.weight"][100:110])


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        main(Path(sys.argv[1] if len(sys.argv) > 1 else name))
