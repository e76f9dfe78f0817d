"""What a file of PyTorch holds, from its storages and what its pickle tells of the tensors."""

import math
from collections.abc import Iterator

from densor.dtypes import SIZES, coding_of
from densor.formats.parsers.contents import Contents, Stretch
from densor.formats.parsers.torch_pickle import Found, Opaque, Tensor
from densor.formats.parsers.zip_members import Member
from densor.formats.tensors import TensorInfo, span


def contents_of(storages: dict[str, Member], found: Found, little: bool = True) -> Contents:
    """The tensors and stretches of a file; `storages`: where they are, by key.

    A storage is coded once, whoever shares it. `little`: the byte order of all elements.
    """
    tensors = [_info(name, tensor, storages) for name, tensor in found.tensors.items()]
    stretches = list(_stretches(storages, tensors, found))
    if not little:
        stretches = [_swapped(stretch) for stretch in stretches]
        tensors = [t._replace(dtype=f"{t.dtype} big-endian", view=None) for t in tensors]
    known = [tensor for tensor in tensors if tensor.plain]
    return Contents(known, stretches, [tensor for tensor in tensors if not tensor.plain])


def _stretches(
    storages: dict[str, Member], tensors: list[TensorInfo], found: Found
) -> Iterator[Stretch]:
    """The storages, in the shape of a tensor where one covers all of it."""
    whole = {(t.offset, t.size): t for t in tensors if t.view is None}
    dtypes = {t.key: t.dtype for t in found.tensors.values() if isinstance(t, Tensor)}
    for key, member in storages.items():
        tensor = whole.get((member.offset, member.size))
        dtype = tensor.dtype if tensor else found.storages.get(key) or dtypes.get(key)
        if dtype is not None and member.size % SIZES[dtype] == 0:
            shape = tensor.shape if tensor else (member.size // SIZES[dtype],)
            yield Stretch(member.offset, member.size, dtype, shape)


def _swapped(stretch: Stretch) -> Stretch:
    """The same elements as numbers of the other byte order, of which no more is known."""
    dtype, shape = coding_of(stretch.dtype, stretch.shape)
    if dtype[0] == "C":
        shape = (*shape, 2)
    size = stretch.size // max(1, math.prod(shape))
    return stretch._replace(dtype=f"U{8 * size}", shape=shape)


def _info(name: str, tensor: Tensor | Opaque, storages: dict[str, Member]) -> TensorInfo:
    """Where a tensor lies; without a place where it is not in one storage of this file."""
    if isinstance(tensor, Opaque):
        return TensorInfo(name, tensor.dtype, (), 0, 0)
    if 0 in tensor.shape:
        return TensorInfo(name, tensor.dtype, tensor.shape, 0, 0)
    storage, item = storages.get(tensor.key), SIZES[tensor.dtype]
    view = tensor.view
    begin, size = tensor.offset * item, span(tensor.shape, tensor.strides) * item
    if storage is None or begin + size > storage.size:
        return TensorInfo(name, f"{tensor.dtype} missing", tensor.shape, 0, 0)
    return TensorInfo(name, tensor.dtype, tensor.shape, storage.offset + begin, size, view)
