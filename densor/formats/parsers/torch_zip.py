"""The tensors in a file of PyTorch (.pt, .pth, .bin): a zip of storages and a pickle.

Format: https://docs.pytorch.org/docs/main/notes/serialization.html. Members `NAME/data/KEY` are
storages; `NAME/data.pkl` tells the tensors in them. Nothing is unpickled, nothing inflated.
"""

import math
from collections.abc import Iterator

from densor.dtypes import SIZES
from densor.errors import FormatError
from densor.formats.parsers import torch_pickle
from densor.formats.parsers.contents import Contents, Head, Stretch
from densor.formats.parsers.torch_pickle import Found, Tensor
from densor.formats.parsers.zip_members import Member, stored_members
from densor.formats.tensors import TensorInfo


def find(head: Head) -> Contents | None:
    """What a zip file of PyTorch holds; None if it is none, or on a pipe.

    Tensors are listed that are contiguous; a storage is coded once, whoever shares it.
    """
    members = {member.name: member for member in stored_members(head)}
    root = next((name[: -len("data.pkl")] for name in members if name.endswith("/data.pkl")), None)
    if root is None or head.random is None:
        return None
    prefix = f"{root}data/"
    storages = {
        name.removeprefix(prefix): member
        for name, member in members.items()
        if name.startswith(prefix)
    }
    found = _scan(head, members[f"{root}data.pkl"])
    order = members.get(f"{root}byteorder")
    if order and head.random.read_at(order.offset, order.size & 15).tobytes() != b"little":
        return None
    tensors = [
        info
        for name, tensor in found.tensors.items()
        if tensor.key in storages
        and (info := _info(name, tensor, storages[tensor.key])) is not None
    ]
    return Contents(tensors, list(_stretches(storages, tensors, found)))


def _stretches(
    storages: dict[str, Member], tensors: list[TensorInfo], found: Found
) -> Iterator[Stretch]:
    """The storages, in the shape of a tensor where one covers all of it."""
    whole = {(tensor.offset, tensor.size): tensor for tensor in tensors}
    dtypes = {tensor.key: tensor.dtype for tensor in found.tensors.values()}
    for key, member in storages.items():
        tensor = whole.get((member.offset, member.size))
        dtype = tensor.dtype if tensor else found.storages.get(key) or dtypes.get(key)
        if dtype is not None and member.size % SIZES[dtype] == 0:
            shape = tensor.shape if tensor else (member.size // SIZES[dtype],)
            yield Stretch(member.offset, member.size, dtype, shape)


def _scan(head: Head, pickle: Member) -> Found:
    """What the pickle tells; nothing if it cannot be followed."""
    assert head.random is not None
    if pickle.size > torch_pickle.MAX_SIZE:
        return Found({}, {})
    try:
        return torch_pickle.scan(head.random.read_at(pickle.offset, pickle.size).tobytes())
    except FormatError:
        return Found({}, {})


def _info(name: str, tensor: Tensor, storage: Member) -> TensorInfo | None:
    """Where a tensor lies, None if not in one piece, in order."""
    wanted = 1
    for size, stride in zip(tensor.shape[::-1], tensor.strides[::-1], strict=True):
        if size > 1 and stride != wanted:
            return None
        wanted *= size
    item = SIZES[tensor.dtype]
    begin, size = tensor.offset * item, math.prod(tensor.shape) * item
    if not size or begin + size > storage.size:
        return None
    return TensorInfo(name, tensor.dtype, tensor.shape, storage.offset + begin, size)
