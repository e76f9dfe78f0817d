"""Blobs held in torch tensors: one uint8 dimension, an archive of one tensor."""

from collections.abc import Callable
from typing import Any

import torch

from densor import arrays, dtypes
from densor.errors import DensorError, FormatError
from densor.formats.container import tensor_blob, wire
from densor.formats.container.base import GivenBase
from densor.formats.packed.reader import PackedFile
from densor.runtime.buffers import BufferPool
from densor.runtime.huge_pages import HUGE_PAGES
from densor.runtime.workers import thread_count

_LARGE = 1 << 25  # bytes
_MOST_TIMES = 16  # as large as what is stored


def may_be_blob(tensor: Any) -> bool:
    """Whether a tensor, or a slice of an open safetensors file, begins as blobs do."""
    if hasattr(tensor, "get_dtype"):
        if tensor.get_dtype() != "U8" or len(tensor.get_shape()) != 1:
            return False
    elif tensor.dtype != torch.uint8 or tensor.ndim != 1:
        return False
    return wire.begins_archive(tensor[: len(wire.MAGIC)].cpu().numpy())


def threads_of(size: int, threads: int, total: int = 0) -> int:
    """How many threads decode a tensor where each of so many has one: all of them a large one.

    `total`: bytes of all tensors, where they are known. One is large then only if the others might
    be done before it: more threads than processors wait for one another.
    """
    enough = total // (2 * thread_count(threads))
    return threads if size >= max(_LARGE, enough) else 1


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
    info = file.info(name)
    if file.is_blob(name):
        wire.check_possible(info.size, file.stored(name).size)
    if pool is None:
        memory = _memory(info.size, file.stored(name).size)
    else:
        memory = torch.from_numpy(pool.take_until_dropped(info.size))
    out = memory.numpy()
    data = file.read(name, threads, base_of, out)
    if data is not out:  # a plain tensor
        out[:] = data
    return _as(memory, info)


def _memory(size: int, stored: int) -> torch.Tensor:
    """Fresh memory: in huge pages if they are quick, else torch's, since numpy asks for huge ones
    however long they take.

    Huge pages are filled at once, before what is `stored` has shown that it is worth so much.
    """
    found = HUGE_PAGES.take(size) if size <= _MOST_TIMES * stored else None
    if found is not None:
        return torch.from_numpy(found)
    return torch.empty(size, dtype=torch.uint8, device="cpu")


def _as(memory: torch.Tensor, info: tensor_blob.Tensor) -> torch.Tensor:
    """The tensor over these bytes."""
    if not info.size:
        empty: torch.Tensor = arrays.to_torch(info.dtype, info.shape, memory.numpy())
        return empty
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
