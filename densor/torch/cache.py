"""Tensors in any structure, packed together: key-value caches that are set aside, for one."""

from typing import Any

import torch
from torch.utils._pytree import tree_map_only

import densor
from densor.torch.packed import DEFAULT_LEVEL


class Packed:
    """A packed tensor within the structure that `pack_tensors` gives; holds only bytes."""

    __slots__ = ("blob", "device", "requires_grad")

    def __init__(self, blob: bytes, device: torch.device, requires_grad: bool) -> None:
        self.blob = blob
        self.device = device
        self.requires_grad = requires_grad

    def __repr__(self) -> str:
        return f"Packed({len(self.blob)} bytes)"


def pack_tensors(tensors: Any, level: int = DEFAULT_LEVEL, threads: int = 0) -> Any:
    """Packs all tensors in nested tuples, lists and dicts, e.g. past keys and values.

    Returns the same structure with `Packed` objects in their place, in main memory, which may be
    pickled. What is no tensor stays. `threads`: 0 for all processors.
    """

    def packed(tensor: torch.Tensor) -> Packed:
        blob = densor.compress(tensor, level, threads)
        return Packed(blob, tensor.device, tensor.requires_grad and tensor.is_leaf)

    return tree_map_only(torch.Tensor, packed, tensors)


def unpack_tensors(tensors: Any, threads: int = 0) -> Any:
    """Undoes `pack_tensors`: the same bits, on the same devices. Checksums are verified."""

    def unpacked(packed: Packed) -> torch.Tensor:
        tensor: torch.Tensor = densor.decompress(packed.blob, threads)
        return tensor.to(packed.device).requires_grad_(packed.requires_grad)

    return tree_map_only(Packed, unpacked, tensors)
