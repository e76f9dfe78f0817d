"""Where published tensors go in a model: in place, or by a copy where they look different there."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from densor import arrays
from densor.errors import ArgumentError, LimitError
from densor.formats.io.sources import Bytes
from densor.sync.weights import (
    Described,
    Table,
    check_strided,
    copy_from,
    dtype_of,
    memory_of,
    named_tensors,
    places_of,
)


class _Target(NamedTuple):
    """A tensor of the model, or a part of one, that takes a published one, or a part of it."""

    tensor: Any
    dim: int | None = None
    begin: int = 0


class Receivers:
    """`data[i]`: the bytes of published tensor i, those of the model itself where that can be."""

    def __init__(
        self,
        model: Any,
        table: Table,
        fused: Mapping[str, Sequence[str]],
        shards: Mapping[str, tuple[int, int]],
    ) -> None:
        self._table = table
        self._model = model
        targets: dict[str, list[_Target]] = {tensor.name: [] for tensor in table.tensors}
        if model is not None:
            _find_targets(named_tensors(model), table, fused, shards, targets)
        self.data: list[Bytes] = []
        self._copied: dict[int, list[_Target]] = {}
        for i, described in enumerate(table.tensors):
            found = targets[described.name]
            memory = _only_memory(found, described)
            if memory is None:
                memory = _new_memory(described)
                self._copied[i] = found
            self.data.append(memory)
        self._places = {} if model is None else places_of(model)

    @property
    def moved(self) -> bool:
        """Whether tensors of the model are elsewhere by now, such as after `model.to`."""
        if self._model is None:
            return False
        places = places_of(self._model)
        return any(places.get(name) != place for name, place in self._places.items())

    def deliver(self, changed: Sequence[int]) -> None:
        """Copies tensors that changed to where they are not changed in place."""
        for i in changed:
            for target in self._copied.get(i, ()):
                _deliver(self.data[i], self._table.tensors[i], target)


def _new_memory(described: Described) -> Bytes:
    try:
        return np.zeros(described.size, np.uint8)
    except MemoryError:
        text = f"{described.name!r:.200}: there is no memory for {described.size} bytes"
        raise LimitError(text) from None


def _only_memory(targets: Sequence[_Target], described: Described) -> Bytes | None:
    """The memory of the only target, where it holds just the bytes of the tensor."""
    if len(targets) != 1 or targets[0].dim is not None:
        return None
    return memory_of(targets[0].tensor, described)


def _find_targets(
    named: dict[str, Any],
    table: Table,
    fused: Mapping[str, Sequence[str]],
    shards: Mapping[str, tuple[int, int]],
    targets: dict[str, list[_Target]],
) -> None:
    """Fills `targets`, by the name of the published tensor; ArgumentError where names or shapes do
    not fit."""
    described = {tensor.name: tensor for tensor in table.tensors}
    published = {name: name for name in described} | dict(table.aliases)
    seen: set[tuple[Any, ...]] = set()
    for name, tensor in named.items():
        if name in fused:
            _add_fused(name, tensor, fused[name], described, published, targets)
            continue
        source = published.get(name)
        if source is None:
            raise ArgumentError(f"{name!r:.200}: is not published")
        _check_target(name, tensor, described[source])
        key = (source, _address(tensor))
        if key in seen:  # two names of the same memory
            continue
        seen.add(key)
        if name in shards:
            dim, begin = shards[name]
            _check_shard(name, tensor, described[source].shape, dim, begin)
            targets[source].append(_Target(tensor, dim, begin))
            continue
        _check_shape(name, tuple(tensor.shape), described[source].shape)
        targets[source].append(_Target(tensor))
    missing = [name for name, found in targets.items() if not found]
    if missing:
        raise ArgumentError(f"{missing[0]!r:.200}: is published, but not in the model")


def _add_fused(
    name: str,
    tensor: Any,
    parts: Sequence[str],
    described: Mapping[str, Described],
    published: Mapping[str, str],
    targets: dict[str, list[_Target]],
) -> None:
    at = 0
    for part in parts:
        source = published.get(part)
        if source is None:
            raise ArgumentError(f"{part!r:.200}: is not published, as a part of {name!r:.200}")
        shape = described[source].shape
        _check_target(name, tensor, described[source])
        view = tensor.detach() if arrays.is_torch(tensor) else tensor
        piece = view[at : at + shape[0]] if shape else view
        _check_shape(part, tuple(piece.shape), shape)
        targets[source].append(_Target(piece))
        at += shape[0] if shape else 1
    if at != tensor.shape[0]:
        raise ArgumentError(f"{name!r:.200}: is made of more than {', '.join(parts):.200}")


def _check_target(name: str, tensor: Any, described: Described) -> None:
    """ArgumentError for a tensor of a model that what is published cannot be copied to."""
    if arrays.is_torch(tensor):
        check_strided(name, tensor)
    if not all(tensor.shape):
        return
    strides = tensor.stride() if arrays.is_torch(tensor) else tensor.strides
    if any(size > 1 and not stride for size, stride in zip(tensor.shape, strides, strict=True)):
        raise ArgumentError(f"{name!r:.200}: has elements in the same memory")
    if arrays.is_torch(tensor):
        return
    if not tensor.flags.writeable:
        raise ArgumentError(f"{name!r:.200}: is read-only")
    own = dtype_of(name, tensor)
    if own != described.dtype:
        text = f"{name!r:.200}: is {own}, published is {described.dtype}"
        raise ArgumentError(f"{text}; only torch tensors are cast")


def _address(tensor: Any) -> object:
    return tensor.data_ptr() if arrays.is_torch(tensor) else tensor.ctypes.data


def _check_shape(name: str, found: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    if found != wanted:
        raise ArgumentError(f"{name!r:.200}: has the shape {found}, published is {wanted}")


def _check_shard(name: str, tensor: Any, whole: tuple[int, ...], dim: int, begin: int) -> None:
    shape = tuple(tensor.shape)
    fits = len(shape) == len(whole) and 0 <= dim < len(shape) and begin >= 0
    if not fits or begin + shape[dim] > whole[dim]:
        raise ArgumentError(f"{name!r:.200}: {shape} is no part of the published {whole}")
    _check_shape(name, (*shape[:dim], whole[dim], *shape[dim + 1 :]), whole)


def _deliver(data: Bytes, described: Described, target: _Target) -> None:
    if target.dim is None:
        copy_from(data, described, target.tensor)
        return
    length = int(target.tensor.shape[target.dim])
    if arrays.is_torch(target.tensor):
        whole = arrays.to_torch(described.dtype, described.shape, data)
        target.tensor.detach().copy_(whole.narrow(target.dim, target.begin, length))
        return
    array = data.view(target.tensor.dtype).reshape(described.shape)
    part = [slice(None)] * array.ndim
    part[target.dim] = slice(target.begin, target.begin + length)
    target.tensor[...] = array[tuple(part)]
