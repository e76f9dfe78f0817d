"""Snapshots as version 0.7.0 wrote them: read, no longer written. See docs/format/snapshot.md."""

import io
from collections import OrderedDict
from typing import Any

import torch
import xxhash

import densor
from densor.errors import ArgumentError, ChecksumError, FormatError, TruncatedError

_MARK = "densor:packed"
_DIGEST = 16
_DICTS = (dict, OrderedDict)
_SCALARS = (int, float, complex, bool, str, bytes, type(None))


def unpack_former(data: bytes, threads: int) -> tuple[Any, int]:
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
        return _unpacked(found["state"], threads), found["step"]
    except RecursionError:
        raise FormatError("snapshot is nested too deep") from None


def _unpacked(part: Any, threads: int) -> Any:
    kind = type(part)
    if kind in (list, tuple):
        return kind(_unpacked(value, threads) for value in part)
    if kind not in _DICTS:
        if kind not in _SCALARS:
            raise FormatError("snapshot holds something else than states do")
        return part
    if part.keys() != {_MARK}:
        return kind((key, _unpacked(value, threads)) for key, value in part.items())
    blob = part[_MARK]
    if not isinstance(blob, torch.Tensor) or blob.dtype != torch.uint8 or blob.ndim != 1:
        raise FormatError("tensor of a snapshot is none")
    try:
        tensor = densor.decompress(blob.contiguous().numpy(), threads)
    except ArgumentError as error:  # of the data
        raise FormatError(str(error)) from error
    if not isinstance(tensor, torch.Tensor):
        raise FormatError("tensor of a snapshot is none")
    return tensor
