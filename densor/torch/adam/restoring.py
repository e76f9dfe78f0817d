"""Adam's state restored from what `pack_state` made of it."""

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

import densor
from densor.codec.adam import replay
from densor.codec.adam.replay import Words
from densor.codec.zstd import zstd_decompress
from densor.errors import ArgumentError, ChecksumError, DensorError, FormatError
from densor.formats.container import strictjson
from densor.torch.adam import layout, scales
from densor.torch.adam.groups import (
    Group,
    State,
    count_of,
    digest_of,
    flat,
    is_coded,
    put,
    shape_of,
    slots_of,
)
from densor.torch.adam.layout import CHANGES, RELATIVE, REPLAY
from densor.torch.sealed import opened

_MAX_EXPANSION = 1 << 14  # of what Zstandard makes smaller


def unpack_state(data: bytes, before: State | None = None, *, threads: int = 1) -> State:
    """What `pack_state` was given; a DensorError for bad data, or a `before` that is another."""
    body, table, at = opened(layout.KIND, data)
    lengths = table.get("rest")
    if not isinstance(lengths, list) or len(lengths) != 2:
        raise FormatError("table of an optimizer state is malformed")
    end = at + strictjson.integer(lengths[0], "length", len(body) - at)
    most = _MAX_EXPANSION * (end - at)
    state = _loaded_rest(body[at:end], strictjson.integer(lengths[1], "length", most))
    if not isinstance(table.get("groups"), list):
        raise FormatError("table of an optimizer state is malformed")
    for entry in table["groups"]:
        end = _restore(entry, body, end, state, before, threads)
    if end != len(body):
        raise FormatError("optimizer state is longer than its table says")
    return state


def _loaded_rest(packed: memoryview, size: int) -> State:
    """Nothing but tensors, numbers and strings is loaded, in structures of Python's own."""
    try:
        data = zstd_decompress(packed, size)
        state = torch.load(io.BytesIO(data), weights_only=True)
    except DensorError:
        raise
    except Exception as error:  # torch raises many kinds
        raise FormatError(f"rest of an optimizer state cannot be loaded: {error}") from error
    if not isinstance(state, dict) or not isinstance(state.get("state"), dict):
        raise FormatError("rest of an optimizer state has no `state`")
    return state


def _restore(
    entry: Any,
    body: memoryview,
    at: int,
    state: State,
    before: State | None,
    threads: int,
) -> int:
    """Puts the moments of a group into the state; where its pieces end."""
    group, way, lengths = layout.parse_entry(entry)
    pieces = []
    for length in lengths:
        if length > len(body) - at:
            raise FormatError("optimizer state ends within a group")
        pieces.append(body[at : at + length])
        at += length
    old = _found_before(entry, group, before) if way in (REPLAY, CHANGES) else None

    def decoded(piece: memoryview, dtype: Any, base: Words | None = None) -> Any:
        return _decoded(piece, group.shape, dtype, base, threads)

    if way == REPLAY:
        assert old is not None
        m, v = _replay(entry, pieces, old, decoded)
    elif way == RELATIVE:
        m = decoded(pieces[2], np.uint32)
        found = scales.split(_numbers(pieces[0], scales.count(group.shape), threads), group.shape)
        v = scales.absolute(decoded(pieces[1], np.uint32), m, found)
    else:
        bases = (None, None) if old is None else old
        m, v = (decoded(p, np.uint32, b) for p, b in zip(pieces, bases, strict=True))
    if digest_of(m, v) != entry.get("digest"):
        raise _other_moments(entry)
    put(state, group, m, v)
    return at


def _replay(
    entry: dict[str, Any],
    pieces: list[memoryview],
    old: tuple[Words, Words],
    decoded: Callable[..., Any],
) -> tuple[Words, Words]:
    gradient = decoded(pieces[0], np.uint16)
    step = layout.parse_step(entry.get("step"))

    def replayed(flush: bool) -> tuple[Words, Words]:
        bases = replay.predicted(*old, gradient, step, flush)
        m, v = (
            decoded(piece, np.uint32, base) if len(piece) else base
            for piece, base in zip(pieces[1:], bases, strict=True)
        )
        if digest_of(m, v) != entry.get("digest"):
            raise _other_moments(entry)
        return m, v

    try:
        return replayed(False)
    except DensorError as error:
        try:
            return replayed(True)  # earlier versions packed so where denormals were flushed
        except DensorError:
            raise error from None


def _other_moments(entry: dict[str, Any]) -> ChecksumError:
    return ChecksumError(f"moments of {entry['keys'][0]!r:.200} are not those that were packed")


def _numbers(piece: memoryview, count: int, threads: int) -> scales.Shorts:
    """Scales, int16[count]."""
    try:
        found = densor.decompress(piece, threads, max_output_size=2 * count)
    except ArgumentError as error:  # of the data, not of what the caller gave
        raise FormatError(str(error)) from error
    if not isinstance(found, np.ndarray) or found.dtype != np.int16 or found.shape != (count,):
        raise FormatError("piece of an optimizer state is of something else")
    return found


def _found_before(entry: dict[str, Any], group: Group, before: State | None) -> tuple[Words, Words]:
    if before is None:
        raise ArgumentError("optimizer state is coded against the one before, which it needs")
    slots = slots_of(before)
    for key, shape in zip(group.keys, group.shapes, strict=True):
        if not is_coded(slots.get(key)) or shape_of(slots[key]) != shape:
            raise ArgumentError(f"state before has no moments of {key!r:.200} of that shape")
    old = flat(before, group)
    if digest_of(*old) != entry.get("before"):
        raise ArgumentError("state before is another one than that it was coded against")
    return old


def _decoded(
    piece: memoryview, shape: tuple[int, ...], dtype: Any, base: Words | None, threads: int
) -> Any:
    """The bits that a piece holds, flat."""
    other = None if base is None else base.view(np.float32).reshape(shape)
    size = count_of(shape) * np.dtype(dtype).itemsize
    try:
        found = densor.decompress(piece, threads, base=other, max_output_size=size)
    except ArgumentError as error:  # of the data, not of what the caller gave
        raise FormatError(str(error)) from error
    wanted = np.uint16 if dtype is np.uint16 else np.float32
    if not isinstance(found, np.ndarray) or found.dtype != wanted or found.shape != shape:
        raise FormatError("piece of an optimizer state is of something else")
    return found.reshape(-1).view(dtype)
