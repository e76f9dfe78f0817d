"""Densor for PyTorch: weights that stay packed, training with them, checkpoints.

Nothing is imported until it is used.
"""

import importlib
from typing import Any

_LAZY = {
    "PackedOptimizer": "densor.torch.training",
    "PackedTensor": "densor.torch.packed",
    "from_packed": "densor.torch.packed",
    "pack": "densor.torch.packed",
    "pack_module": "densor.torch.resident",
}

__all__ = sorted(_LAZY)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    module = _LAZY.get(name)
    if module is None:
        raise AttributeError(f"module 'densor.torch' has no attribute {name!r}")
    return getattr(importlib.import_module(module), name)


def __dir__() -> list[str]:
    return sorted(__all__)
