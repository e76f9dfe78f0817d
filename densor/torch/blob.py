"""Blobs held in torch tensors: one uint8 dimension, an archive of one tensor."""

from collections.abc import Callable
from typing import Any

import torch

from densor import arrays, dtypes
from densor.errors import DensorError, FormatError
from densor.files.tensor_bytes import read_bytes
from densor.formats.container import tensor_blob, wire
from densor.formats.container.base import GivenBase
from densor.formats.io.sources import Bytes
from densor.formats.packed.reader import PackedFile
from densor.runtime.buffers import BufferPool


def may_be_blob(tensor: Any) -> bool:
    """Whether a tensor, or a slice of an open safetensors file, begins as blobs do."""
    if hasattr(tensor, "get_dtype"):
        if tensor.get_dtype() != "U8" or len(tensor.get_shape()) != 1:
            return False
    elif tensor.dtype != torch.uint8 or tensor.ndim != 1:
        return False
    return wire.begins_archive(tensor[: len(wire.MAGIC)].cpu().numpy())


def read_tensor(
    file: PackedFile,
    name: str,
    threads: int = 0,
    base_of: Callable[[tensor_blob.Tensor], GivenBase] | None = None,
    pool: BufferPool | None = None,
) -> torch.Tensor:
    """A tensor of a file, in memory of its own.

    With a `pool` it is from there, and goes back when the tensor and all its views are gone.
    """
    return as_tensor(read_bytes(file, name, threads, base_of, pool), file.info(name))


def as_tensor(data: Bytes, info: tensor_blob.Tensor) -> torch.Tensor:
    """The tensor over these bytes."""
    if not info.size:
        empty: torch.Tensor = arrays.to_torch(info.dtype, info.shape, data)
        return empty
    return _as(torch.from_numpy(data), info)


def _as(memory: torch.Tensor, info: tensor_blob.Tensor) -> torch.Tensor:
    dtype, shape = dtypes.for_torch(info.dtype, info.shape)
    return memory.view(dtypes.to_torch(dtype)).reshape(shape)


def decoded(
    tensor: torch.Tensor,
    name: str,
    threads: int = 0,
    base_of: Callable[[tensor_blob.Tensor], GivenBase] | None = None,
) -> torch.Tensor:
    """The tensor in the blob `tensor`; any other tensor as it is.

    `name`: what the blob must be of, in front of which there may be a prefix. A DensorError for
    bad input names the tensor.
    """
    if not may_be_blob(tensor):
        return tensor
    data = tensor.cpu().numpy()
    try:
        described = tensor_blob.describe(data)
        if not name.endswith(described.name):
            raise FormatError(f"blob is of {described.name!r:.200}")
        wire.check_possible(described.size, data.size)
        memory = torch.empty(described.size, dtype=torch.uint8, device="cpu")
        tensor_blob.decode(data, described, threads, base_of, memory.numpy())
        return _as(memory, described).to(tensor.device)
    except DensorError as error:
        raise type(error)(f"tensor {name!r:.200}: {error}") from error
