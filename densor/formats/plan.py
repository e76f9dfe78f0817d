"""Cuts a file into segments: which stretch is coded as which kind of tensor, or as bytes."""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from densor.codec.kind import BYTES, FLOATS, Kind, kind_of, matrix_chunk, parts_of
from densor.codec.levels import DEFAULT_LEVEL, Level, level_settings
from densor.codec.planar.analyse import MAX_RUN
from densor.dtypes import SIZES, parse_dtype
from densor.formats import safetensors
from densor.formats.entry import TensorInfo
from densor.formats.source import ChainSource, Source
from densor.formats.writer import Segment

# Tensors up to so many bytes are joined with neighbours of the same type: matrices and vectors, of
# which rows make good runs, and others, whose content differs more. Floats that are coded by rows
# join up to a chunk.
_MEDIUM = 1 << 19
_SMALL = 1 << 17
_GROUP = 1 << 20  # bytes of a group at most, about a chunk
_LEAST_RUN = 64


class Plan(NamedTuple):
    """A file about to be packed. `source` stands again at the first byte."""

    format: str | None
    source: Source
    segments: list[Segment]
    tensors: list[TensorInfo]


def plan_file(
    source: Source, size: int | None, dtype: str | None = None, level: int = DEFAULT_LEVEL
) -> Plan:
    """Looks at the begin of a file. `size` in bytes, None if unknown; `dtype` as told by the user.

    With `dtype`, all bytes are elements of that type. Otherwise a safetensors file is taken
    apart, and everything else is bytes. Where `level` has one class per plane, only small tensors
    share chunks.
    """
    if dtype is not None:
        name = parse_dtype(dtype)
        whole = (size or 0) // SIZES[name] * SIZES[name]
        kind = kind_of(name, (whole,))
        segments = [Segment(kind, whole), Segment(BYTES, None)] if whole else [Segment(kind, None)]
        return Plan(None, source, segments, [])
    head = source.take(safetensors.LENGTH_SIZE)
    wanted = safetensors.header_size(head.tobytes())
    if wanted is not None and (size is None or wanted <= size):
        head = np.concatenate([head, source.take(1)])
        if head[-1:].tobytes() == b"{":
            head = np.concatenate([head, source.take(wanted - head.size)])
            tensors = safetensors.parse_header(head.tobytes()) if head.size == wanted else None
            if tensors is not None and _fits(tensors, size):
                segments = list(_segments(tensors, level_settings(level)))
                return Plan("safetensors", ChainSource(head, source), segments, tensors)
    return Plan(None, ChainSource(head, source), [Segment(BYTES, None)], [])


def _fits(tensors: list[TensorInfo], size: int | None) -> bool:
    return size is None or all(t.offset + t.size <= size for t in tensors)


def _segments(tensors: list[TensorInfo], level: Level) -> Iterator[Segment]:
    """Header, tensors and whatever lies between and behind them, in order."""
    at = 0
    group: list[TensorInfo] = []
    for tensor in [*tensors, None]:
        joins = tensor is not None and bool(group) and _joins(group, tensor, level)
        if group and not joins:
            end = group[-1].offset + group[-1].size
            yield Segment(_kind_of_group(group), end - at)
            at = end
            group = []
        if tensor is None:
            break
        if tensor.offset > at and not group:
            yield Segment(BYTES, tensor.offset - at)
            at = tensor.offset
        if tensor.size:
            group.append(tensor)
    yield Segment(BYTES, None)


def _joins(group: list[TensorInfo], tensor: TensorInfo, level: Level) -> bool:
    last = group[-1]
    most, whole = _limits(tensor, level)
    return (
        tensor.dtype == last.dtype
        and tensor.offset == last.offset + last.size
        and tensor.size <= most
        and tensor.offset + tensor.size - group[0].offset <= whole
    )


def _limits(tensor: TensorInfo, level: Level) -> tuple[int, int]:
    """Bytes of a tensor that may join a group, and of the group, at most."""
    chunk = matrix_chunk(level)
    if chunk and tensor.dtype in FLOATS:
        return chunk, chunk
    medium = _MEDIUM if level.classes > 1 else _SMALL
    return _SMALL if len(tensor.shape) > 2 else medium, _GROUP


def _kind_of_group(group: list[TensorInfo]) -> Kind:
    """One tensor's kind, or that of small ones in a row: runs that end where tensors end."""
    first = group[0]
    if len(group) == 1:
        return kind_of(first.dtype, first.shape)
    run = math.gcd(*(math.prod(tensor.shape) for tensor in group))
    if not _LEAST_RUN <= run <= MAX_RUN:
        run = 4 * _LEAST_RUN
    parts = tuple(part for tensor in group for part in parts_of(tensor.dtype, tensor.shape))
    return replace(kind_of(first.dtype, (2, run)), parts=parts)
