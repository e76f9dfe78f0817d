"""Keeps the checkpoints of a run in one archive, each coded against the one before.

python examples/checkpoints.py [FOLDER]
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

import densor


def main(folder: Path) -> None:
    """Three steps of a run that changes one weight in fifty."""
    rng = np.random.default_rng(0)
    weights = rng.normal(0, 0.02, (256, 1024)).astype(np.float16)
    run = folder / "run.densor"
    for step in range(3):
        path = folder / f"step{step}.safetensors"
        save_file({"weight": weights}, path)
        if step == 0:
            densor.pack([path], run)
        else:
            densor.append(run, path)
        print(f"step {step}: the archive has {run.stat().st_size} bytes")
        changed = rng.random(weights.shape) < 0.02
        weights = np.where(changed, weights * np.float16(1.01), weights)

    restored = folder / "restored"
    densor.extract(run, restored)
    for step in range(3):
        name = f"step{step}.safetensors"
        assert (restored / name).read_bytes() == (folder / name).read_bytes()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        main(Path(sys.argv[1] if len(sys.argv) > 1 else name))
