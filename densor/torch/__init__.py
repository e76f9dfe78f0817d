"""PyTorch: packed files of tensors, weights that stay packed, training with them, checkpoints.

`load_file`, `save_packed_file` and `safe_open` are called like those of safetensors. Nothing is
imported before it is used.
"""

import importlib
from typing import TYPE_CHECKING, Any

from densor.errors import UnsupportedError
from densor.former import former_name

if TYPE_CHECKING:
    from densor.torch.activations import pack_activations
    from densor.torch.adam.packing import pack_state
    from densor.torch.adam.restoring import unpack_state
    from densor.torch.cache import pack_tensors, unpack_tensors
    from densor.torch.callback import BackgroundCheckpoints, PackCheckpoints
    from densor.torch.checkpoint import PackedReader, PackedWriter, dcp_to_torch_save
    from densor.torch.gradients import PackedReduce, PackedReduceScatter, packed_hook
    from densor.torch.offloading import offload, offloaded
    from densor.torch.packed import PackedTensor, from_packed, pack_tensor, unpacked
    from densor.torch.pages import PagedCache, pack_page, unpack_page
    from densor.torch.products import plain_product
    from densor.torch.rank_parity import RankParity
    from densor.torch.resident import check_module, memory_of, pack_module, unpack_module
    from densor.torch.safetensors import load_file, safe_open, save_packed_file
    from densor.torch.saving import AsyncCheckpoints
    from densor.torch.snapshot_bytes import pack_snapshot, unpack_snapshot
    from densor.torch.snapshots import Snapshots
    from densor.torch.training import PackedOptimizer

_LAZY = {
    "RankParity": "densor.torch.rank_parity",
    "Snapshots": "densor.torch.snapshots",
    "pack_snapshot": "densor.torch.snapshot_bytes",
    "unpack_snapshot": "densor.torch.snapshot_bytes",
    "AsyncCheckpoints": "densor.torch.saving",
    "BackgroundCheckpoints": "densor.torch.callback",
    "PackCheckpoints": "densor.torch.callback",
    "PackedOptimizer": "densor.torch.training",
    "PackedReader": "densor.torch.checkpoint",
    "PackedTensor": "densor.torch.packed",
    "PagedCache": "densor.torch.pages",
    "pack_page": "densor.torch.pages",
    "unpack_page": "densor.torch.pages",
    "PackedWriter": "densor.torch.checkpoint",
    "pack_activations": "densor.torch.activations",
    "PackedReduce": "densor.torch.gradients",
    "PackedReduceScatter": "densor.torch.gradients",
    "packed_hook": "densor.torch.gradients",
    "dcp_to_torch_save": "densor.torch.checkpoint",
    "check_module": "densor.torch.resident",
    "from_packed": "densor.torch.packed",
    "offload": "densor.torch.offloading",
    "offloaded": "densor.torch.offloading",
    "load_file": "densor.torch.safetensors",
    "memory_of": "densor.torch.resident",
    "pack_module": "densor.torch.resident",
    "pack_state": "densor.torch.adam.packing",
    "pack_tensor": "densor.torch.packed",
    "pack_tensors": "densor.torch.cache",
    "plain_product": "densor.torch.products",
    "safe_open": "densor.torch.safetensors",
    "save_file": "densor.torch.safetensors",  # the former name of what comes next
    "save_packed_file": "densor.torch.safetensors",
    "unpack_module": "densor.torch.resident",
    "unpack_state": "densor.torch.adam.restoring",
    "unpack_tensors": "densor.torch.cache",
    "unpacked": "densor.torch.packed",
}
_FORMER = {
    "pack": "densor.torch.pack_tensor",
}

__all__ = [
    "AsyncCheckpoints",
    "BackgroundCheckpoints",
    "PackCheckpoints",
    "PackedOptimizer",
    "PackedReader",
    "PackedReduce",
    "PackedReduceScatter",
    "PackedTensor",
    "PackedWriter",
    "PagedCache",
    "RankParity",
    "Snapshots",
    "check_module",
    "dcp_to_torch_save",
    "from_packed",
    "load_file",
    "memory_of",
    "offload",
    "offloaded",
    "pack_activations",
    "pack_module",
    "pack_page",
    "pack_snapshot",
    "pack_state",
    "pack_tensor",
    "pack_tensors",
    "packed_hook",
    "plain_product",
    "safe_open",
    "save_packed_file",
    "unpack_module",
    "unpack_page",
    "unpack_snapshot",
    "unpack_state",
    "unpack_tensors",
    "unpacked",
]


def __getattr__(name: str) -> Any:
    if name in _FORMER:
        return former_name("densor.torch", name, _FORMER[name])
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
