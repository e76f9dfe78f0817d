"""Densor for PyTorch: weights that stay packed, training with them, checkpoints.

Nothing is imported until it is used.
"""

import importlib
from typing import Any

_LAZY = {
    "PackCheckpoints": "densor.torch.callback",
    "PackedOptimizer": "densor.torch.training",
    "PackedReader": "densor.torch.checkpoint",
    "PackedTensor": "densor.torch.packed",
    "PackedWriter": "densor.torch.checkpoint",
    "from_packed": "densor.torch.packed",
    "memory_of": "densor.torch.resident",
    "pack": "densor.torch.packed",
    "pack_module": "densor.torch.resident",
    "pack_tensors": "densor.torch.cache",
    "unpack_module": "densor.torch.resident",
    "unpack_tensors": "densor.torch.cache",
    "unpacked": "densor.torch.packed",
}

__all__ = sorted(_LAZY)


def __getattr__(name: str) -> Any:
    module = _LAZY.get(name)
    if module is None:
        raise AttributeError(f"module 'densor.torch' has no attribute {name!r}")
    return getattr(importlib.import_module(module), name)


def __dir__() -> list[str]:
    return sorted(__all__)
