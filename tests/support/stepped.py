"""Checkpoints that are one step of Adam apart, as safetensors files."""

from collections.abc import Mapping

import numpy as np
from helpers import safetensors_bytes

SHAPES = {"0": (96, 128), "layer.1": (70,)}
W, B2, A = np.float32(1 - 0.9), np.float32(0.999), np.float32(1 - 0.999)


def checkpoints(
    count: int = 3,
    factor: float = 1.0,
    distinct: int = 1 << 15,
    *,
    numbered: bool = True,
    shapes: Mapping[str, tuple[int, ...]] = SHAPES,
) -> list[bytes]:
    """Files of steps in a row. `distinct`: gradients there are; `numbered`: they have `step`s."""
    rng = np.random.default_rng(3)
    drawn = rng.normal(0, 1e-3, distinct).astype(np.float32).view(np.uint32) & 0xFFFF0000
    drawn[0] = 0
    state = {n: [np.zeros(s, np.float32), np.zeros(s, np.float32)] for n, s in shapes.items()}
    files = []
    for number in range(1, count + 1):
        tensors = {}
        for name, (m, v) in state.items():
            g = drawn[rng.integers(0, distinct, m.shape)].view(np.float32) * np.float32(factor)
            m, v = W * (g - m) + m, B2 * v + (g * g) * A
            state[name] = [m, v]
            stem = f"state.{name}"
            if numbered:
                step = np.float32(number).tobytes()
                tensors[f"{stem}.step"] = ("F32", (), step)
            tensors[f"{stem}.exp_avg"] = ("F32", m.shape, m.tobytes())
            tensors[f"{stem}.exp_avg_sq"] = ("F32", v.shape, v.tobytes())
        tensors["weights"] = ("F32", (64,), rng.normal(0, 1, 64).astype("<f4").tobytes())
        files.append(safetensors_bytes(tensors))
    return files
