"""PyTorch: packed files of tensors. Nothing is imported before it is used.

`load_file`, `save_file` and `safe_open` are called like those of safetensors.
"""

import importlib
from typing import TYPE_CHECKING, Any

from densor.errors import UnsupportedError

if TYPE_CHECKING:
    from densor.torch.safetensors import load_file, safe_open, save_file

_LAZY = {
    "load_file": "densor.torch.safetensors",
    "safe_open": "densor.torch.safetensors",
    "save_file": "densor.torch.safetensors",
}

__all__ = ["load_file", "safe_open", "save_file"]


def __getattr__(name: str) -> Any:
    module = _LAZY.get(name)
    if module is None:
        raise AttributeError(f"module 'densor.torch' has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(module), name)
    except ImportError as error:
        raise UnsupportedError(
            f'densor.torch.{name} needs torch: pip install "densor[torch]" ({error})'
        ) from error


def __dir__() -> list[str]:
    return sorted(__all__)
