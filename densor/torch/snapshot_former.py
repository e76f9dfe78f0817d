"""Snapshots as version 0.7.0 wrote them: read, no longer written. See docs/format/snapshot.md."""

import io
from collections import OrderedDict
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import xxhash

from densor.errors import ChecksumError, FormatError, TruncatedError
from densor.torch.sealed import Room

_MARK = "densor:packed"
_DIGEST = 16
_DICTS = (dict, OrderedDict)
_SCALARS = (int, float, complex, bool, str, bytes, type(None))


def unpack_former(data: bytes, threads: int, room: Room) -> tuple[Any, int]:
    """State and step; a DensorError for anything else."""
    if len(data) < _DIGEST:
        raise TruncatedError("snapshot is too short")
    if xxhash.xxh3_128_digest(data[:-_DIGEST]) != data[-_DIGEST:]:
        raise ChecksumError("snapshot was damaged")
    try:
        found = torch.load(io.BytesIO(data[:-_DIGEST]), weights_only=True)
    except Exception as error:  # torch raises many kinds
        raise FormatError(f"snapshot cannot be loaded: {error}") from error
    if not isinstance(found, dict) or found.keys() != {"step", "state"}:
        raise FormatError("is no snapshot")
    if type(found["step"]) is not int:
        raise FormatError("snapshot has no step")
    try:
        return _Unpacker(threads, room).value(found["state"]), found["step"]
    except RecursionError:
        raise FormatError("snapshot is nested too deep") from None


class _Unpacker:
    """Values with their tensors unpacked; what occurs several times is one thing, as it was."""

    def __init__(self, threads: int, room: Room) -> None:
        self._threads, self._room = threads, room
        self._made: dict[int, Any] = {}  # by the addresses of what is held by the caller

    def value(self, part: Any) -> Any:
        kind = type(part)
        if kind not in (list, tuple, *_DICTS):
            if kind not in _SCALARS:
                raise FormatError("snapshot holds something else than states do")
            return part
        if id(part) not in self._made:
            self._made[id(part)] = self._container(kind, part)
        return self._made[id(part)]

    def _container(self, kind: type, part: Any) -> Any:
        if kind not in _DICTS:
            return kind([self.value(value) for value in part])
        if part.keys() != {_MARK}:
            return kind([(key, self.value(value)) for key, value in part.items()])
        tensor = self._room.decoded(_bytes_of(part[_MARK]), self._threads)
        if not isinstance(tensor, torch.Tensor):
            raise FormatError("tensor of a snapshot is none")
        return tensor


def _bytes_of(blob: Any) -> npt.NDArray[np.uint8]:
    """A tensor that is what it was made of: bytes, one behind the other."""
    if type(blob) is not torch.Tensor or blob.layout != torch.strided or blob.is_meta:
        raise FormatError("tensor of a snapshot is none")
    if blob.dtype != torch.uint8 or blob.ndim != 1 or not blob.is_contiguous():
        raise FormatError("tensor of a snapshot is none")
    found: npt.NDArray[np.uint8] = blob.numpy()
    return found
