"""The weights of a model as named stretches of bytes, and what they hash to."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import xxhash

from densor import arrays, dtypes
from densor.errors import ArgumentError
from densor.formats.io.sources import Bytes
from densor.runtime.workers import Workers, settle, thread_count

_ALIGN = 64
_MIN_SHARED = 1 << 24  # bytes of a copy from which threads are worth waiting for
_MOST_COPYING = 4  # threads, which memory keeps busy


class Described(NamedTuple):
    """A tensor as messages have it; `dtype` by its safetensors name."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Bytes."""
        return math.prod(self.shape) * dtypes.SIZES[self.dtype]


@dataclass(frozen=True, eq=False)
class Table:
    """The tensors of a model in the order of messages, and names that share one of these."""

    tensors: tuple[Described, ...]
    aliases: Mapping[str, str]

    @property
    def size(self) -> int:
        """Bytes that a `Copy` takes."""
        return sum(_aligned(tensor.size) for tensor in self.tensors)


class Copy:
    """Memory for all tensors of a table: `data[i]` the bytes of tensor i."""

    def __init__(self, table: Table, memory: Bytes | None = None) -> None:
        self.memory = np.zeros(table.size, np.uint8) if memory is None else memory
        self.data: list[Bytes] = []
        at = 0
        for tensor in table.tensors:
            self.data.append(self.memory[at : at + tensor.size])
            at += _aligned(tensor.size)


def _aligned(size: int) -> int:
    return -(-size // _ALIGN) * _ALIGN


def digest_of(data: Bytes) -> bytes:
    """XXH3-128 of the bytes of a tensor."""
    return xxhash.xxh3_128(data).digest()


def digest_of_all(table: Table, digests: Sequence[bytes]) -> bytes:
    """XXH3-128 of names, dtypes, shapes and of the digests of all tensors."""
    hasher = xxhash.xxh3_128()
    for tensor, digest in zip(table.tensors, digests, strict=True):
        shape = ",".join(str(size) for size in tensor.shape)
        name = tensor.name.encode("utf-8", "surrogatepass")
        hasher.update(b"%d:%s:%s:%s:" % (len(name), name, tensor.dtype.encode(), shape.encode()))
        hasher.update(digest)
    return hasher.digest()


def named_tensors(model: Any) -> dict[str, Any]:
    """Tensors by name: the state of a module, or a mapping as it is."""
    is_module = hasattr(model, "state_dict") and not isinstance(model, type)
    found = model.state_dict() if is_module and not isinstance(model, Mapping) else model
    if not isinstance(found, Mapping):
        raise ArgumentError(f"{type(model).__name__} has no tensors by name")
    named = {
        str(name): value
        for name, value in found.items()
        if arrays.is_torch(value) or isinstance(value, np.ndarray)
    }
    if not named:
        raise ArgumentError("there are no tensors to follow")
    return named


def check_strided(name: str, tensor: Any) -> None:
    """ArgumentError for a torch tensor whose elements have no places in memory."""
    if tensor.is_nested:
        raise ArgumentError(
            f"{name}: a nested tensor, only the tensors that it is made of are taken"
        )
    if str(tensor.layout) != "torch.strided" or tensor.is_meta:
        raise ArgumentError(f"{name}: {tensor.layout} tensors on {tensor.device} have no memory")


def dtype_of(name: str, tensor: Any) -> str:
    """The safetensors name of a dtype; ArgumentError if there is none."""
    is_torch = arrays.is_torch(tensor)
    if is_torch:
        check_strided(name, tensor)
    try:
        arrays.check_whole(tensor)
    except ArgumentError as error:
        raise ArgumentError(f"{name}: {error}") from None
    found = dtypes.from_torch(tensor.dtype) if is_torch else None
    if not arrays.is_torch(tensor) and tensor.dtype.isnative:
        found = dtypes.from_numpy(tensor.dtype)
    shape = tuple(int(size) for size in tensor.shape)
    if found is None or dtypes.in_safetensors(found, shape) != (found, shape):
        raise ArgumentError(f"{name}: tensors of {tensor.dtype} cannot be published")
    return found


def table_of(named: Mapping[str, Any], dtype: str | None = None) -> Table:
    """How tensors are published: sorted by dtype and name, each once where several names share one.

    `dtype`: of floats, which are cast to it; None leaves them.
    """
    tensors, aliases = [], {}
    seen: dict[tuple[Any, ...], str] = {}
    for name in sorted(named):
        tensor = named[name]
        own = dtype_of(name, tensor)
        place = _place(tensor)
        if place is not None and place in seen:
            aliases[name] = seen[place]
            continue
        if place is not None:
            seen[place] = name
        shape = tuple(int(size) for size in tensor.shape)
        tensors.append(Described(name, dtype if dtype and _is_float(own) else own, shape))
    tensors.sort(key=lambda tensor: (tensor.dtype, tensor.name))
    return Table(tuple(tensors), aliases)


def _is_float(dtype: str) -> bool:
    return dtype in ("F64", "F32", "F16", "BF16")


def places_of(model: Any) -> dict[str, tuple[Any, ...] | None]:
    """Where each tensor has its elements; ArgumentError for one whose elements have no places."""
    named = named_tensors(model)
    for name, tensor in named.items():
        if arrays.is_torch(tensor):
            check_strided(name, tensor)
    return {name: _place(tensor) for name, tensor in named.items()}


def _place(tensor: Any) -> tuple[Any, ...] | None:
    """Where the elements of a tensor are, equal for those that share all of them."""
    if not all(tensor.shape):
        return None
    if arrays.is_torch(tensor):
        at = tensor.data_ptr()
        form = tensor.dtype, tuple(tensor.shape), tuple(tensor.stride())
        return (str(tensor.device), at, *form, tensor.is_conj(), tensor.is_neg())
    return (tensor.ctypes.data, tensor.dtype.str, tensor.shape, tensor.strides)


def _copy_as(tensor: Any, wanted: Described, target: Bytes) -> None:
    """Copies a tensor whose memory does not look as wanted: of another dtype, order or device."""
    if arrays.is_torch(tensor):
        if tensor.device.type == "cpu":
            arrays.check_memory(tensor)
        view = arrays.to_torch(wanted.dtype, wanted.shape, target)
        view.copy_(tensor.detach())
        return
    if dtypes.from_numpy(tensor.dtype) != wanted.dtype:
        raise ArgumentError(f"{wanted.name}: only torch tensors can be cast")
    target.view(tensor.dtype).reshape(wanted.shape)[...] = tensor


def copy_all(parts: Sequence[tuple[Any, Described, Bytes]]) -> None:
    """Copies tensors, cast where their dtypes are others, to their bytes in C order.

    By several threads, where that is many bytes to copy as they are.
    """
    copies = []
    for tensor, described, target in parts:
        if not target.size:
            continue
        memory = memory_of(tensor, described)
        if memory is None:
            _copy_as(tensor, described, target)
        else:
            copies.append((target, memory))
    total = sum(target.size for target, _ in copies)
    threads = min(thread_count(0), _MOST_COPYING, 1 + total // _MIN_SHARED)
    shares = _shares(copies, -(-total // threads))
    workers = Workers(threads)
    tasks = [workers.submit(_copy_bytes, share) for share in shares[1:]]
    try:
        _copy_bytes(shares[0])
        for task in tasks:
            task.result()
    finally:
        settle(tasks)


def _shares(copies: Sequence[tuple[Bytes, Bytes]], size: int) -> list[list[tuple[Bytes, Bytes]]]:
    """What is to be copied, in shares of `size` bytes; the last may have less."""
    shares: list[list[tuple[Bytes, Bytes]]] = [[]]
    left = size
    for target, source in copies:
        while target.size > left:
            shares[-1].append((target[:left], source[:left]))
            target, source = target[left:], source[left:]
            shares.append([])
            left = size
        shares[-1].append((target, source))
        left -= target.size
    return shares


def _copy_bytes(share: Sequence[tuple[Bytes, Bytes]]) -> None:
    for target, source in share:
        target[:] = source


def copy_from(data: Bytes, described: Described, target: Any) -> None:
    """Copies the bytes of a tensor to another one of its shape, cast where it differs."""
    if not data.size:
        return
    if arrays.is_torch(target):
        target.detach().copy_(arrays.to_torch(described.dtype, described.shape, data))
        return
    target[...] = data.view(target.dtype).reshape(described.shape)


def memory_of(tensor: Any, described: Described) -> Bytes | None:
    """The bytes of a tensor in main memory, to be changed in place; None where they differ from
    those of messages."""
    if dtype_of(described.name, tensor) != described.dtype:
        return None
    if arrays.is_torch(tensor):
        lazy = tensor.is_conj() or tensor.is_neg()
        if lazy or tensor.device.type != "cpu" or not tensor.is_contiguous():
            return None
    elif not tensor.flags.c_contiguous or not tensor.flags.writeable:
        return None
    return arrays.memory_of(tensor, described.size)
