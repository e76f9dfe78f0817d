"""Adam's state, packed by itself or as what a step has made of the state before.

m and v after a step are functions of those before and of the gradient: where that is BF16, maybe
times one factor, it is all that has to be kept. It is taken from what is given, or derived from m.
What follows from it is computed and compared when the state is packed; what differs is coded as
changes, and where that takes more, m and v are coded by themselves. See docs/optimizer-format.md.
"""

import io
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xxhash

import densor
from densor.codec.zstd import zstd_compress, zstd_decompress
from densor.errors import (
    ArgumentError,
    ChecksumError,
    DensorError,
    FormatError,
    TruncatedError,
    UnsupportedError,
)
from densor.formats.container import strictjson
from densor.torch import replay, scaled
from densor.torch.replay import Halves, Moments, Step, Words

MAGIC = b"\x89DADAM\r\n"
VERSION = 1
REPLAY, CHANGES, ALONE = "replay", "changes", "alone"  # ways
DEFAULT_LEVEL = 6
_HEAD = struct.Struct("<8sHHII")  # magic, version, reserved, lengths of the table
_DIGEST = 16
_MAX_TABLE = 1 << 26
_MAX_EXPANSION = 1 << 14  # of what Zstandard makes smaller
_JOINED = 1 << 15  # elements below which parameters are coded together
_GOOD = 0.3  # share of m and v from which on nothing else is tried
_TRIED = 0.5  # share of a sample that must follow for replay to be tried
_M, _V = "exp_avg", "exp_avg_sq"

State = dict[str, Any]


@dataclass(frozen=True)
class _Group:
    """Parameters that are coded together: their keys, shapes and betas."""

    keys: tuple[Any, ...]
    shapes: tuple[tuple[int, ...], ...]
    betas: tuple[float, float]

    @property
    def size(self) -> int:
        """Elements."""
        return sum(_count(shape) for shape in self.shapes)

    @property
    def shape(self) -> tuple[int, ...]:
        """By which they are coded."""
        return self.shapes[0] if len(self.shapes) == 1 else (self.size,)


def _count(shape: Sequence[int]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count


def pack_state(
    state: State,
    before: State | None = None,
    gradients: Mapping[Any, torch.Tensor] | None = None,
    *,
    level: int = DEFAULT_LEVEL,
    threads: int = 1,
) -> bytes:
    """The state of an Adam or AdamW optimizer in as few bytes as possible.

    `state`: as `optimizer.state_dict()` or `get_optimizer_state_dict` of
    torch.distributed.checkpoint give it; FP32 moments are coded as said above, all else as
    torch.save writes it. `before`: the state one step earlier, which `unpack_state` then needs too;
    any earlier one helps a little. `gradients`: those that the step was taken with, by key in
    `state["state"]`: BF16, or FP32 after clipping; without them they are derived.
    """
    groups = _groups(state, before)
    packer = _Packer(level, threads)
    entries, blobs = [], []
    for group in groups:
        new = _flat(state, group)
        old = None if before is None else _flat(before, group)
        given = None if gradients is None else _flat_gradients(gradients, group)
        entry, pieces = packer.pack(group, new, old, given)
        entries.append(entry)
        blobs += pieces
    saved = _saved_rest(state, groups)
    rest = zstd_compress(saved, 9)
    table = strictjson.dumps({"rest": [len(rest), len(saved)], "groups": entries})
    packed = zstd_compress(table, 9)
    head = _HEAD.pack(MAGIC, VERSION, 0, len(packed), len(table))
    body = b"".join((head, packed, rest, *blobs))
    return body + xxhash.xxh3_128(body).digest()


def unpack_state(data: bytes, before: State | None = None, *, threads: int = 1) -> State:
    """What `pack_state` was given; a DensorError for bad data, or a `before` that is another."""
    body, table, at = _opened(data)
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


def table_of(data: bytes) -> dict[str, Any]:
    """The table of a packed state: its groups, and how each is coded."""
    return _opened(data)[1]


def _opened(data: bytes) -> tuple[memoryview, dict[str, Any], int]:
    """All but the checksum, which is right; the table, and where it ends."""
    view = memoryview(data)
    if len(view) < _HEAD.size + _DIGEST:
        raise TruncatedError("optimizer state is too short")
    magic, version, reserved, stored, size = _HEAD.unpack_from(view)
    if magic != MAGIC:
        raise FormatError("is no packed optimizer state")
    if xxhash.xxh3_128(view[:-_DIGEST]).digest() != bytes(view[-_DIGEST:]):
        raise ChecksumError("optimizer state was damaged")
    if version != VERSION:
        raise UnsupportedError(f"optimizer state has version {version}; a newer densor may read it")
    body, at = view[:-_DIGEST], _HEAD.size + stored
    if reserved or at > len(body) or size > _MAX_TABLE:
        raise FormatError("optimizer state has an impossible table")
    table = strictjson.loads(zstd_decompress(body[_HEAD.size : at], size), "table")
    return body, table, at


# What there is in a state


def _slots(state: State) -> Mapping[Any, Any]:
    slots = state.get("state") if isinstance(state, dict) else None
    if not isinstance(slots, dict):
        raise ArgumentError("is no state of an optimizer: has no `state`")
    return slots


def _is_coded(slot: Any) -> bool:
    """Whether a parameter's state has moments that are coded here."""
    if not isinstance(slot, dict):
        return False
    m, v = slot.get(_M), slot.get(_V)
    if type(m) is not torch.Tensor or type(v) is not torch.Tensor or m.shape != v.shape:
        return False
    return all(
        t.dtype == torch.float32 and t.device.type == "cpu" and t.is_contiguous() for t in (m, v)
    )


def _groups(state: State, before: State | None) -> list[_Group]:
    """Parameters with moments, small ones of the same betas together."""
    betas = _betas(state)
    slots = _slots(state)
    groups: list[_Group] = []
    small: dict[tuple[float, float], list[Any]] = {}
    for key, slot in slots.items():
        if not isinstance(key, int | str) or not _is_coded(slot):
            continue
        if before is not None:
            other: Any = _slots(before).get(key)
            if not _is_coded(other) or other[_M].shape != slot[_M].shape:
                raise ArgumentError(f"state before has no moments like those of {key!r:.200}")
        own = betas.get(key, (0.9, 0.999))
        if slot[_M].numel() < _JOINED:
            small.setdefault(own, []).append(key)
        else:
            groups.append(_Group((key,), (tuple(slot[_M].shape),), own))
    for own, keys in small.items():
        shapes = tuple(tuple(slots[key][_M].shape) for key in keys)
        groups.append(_Group(tuple(keys), shapes, own))
    return groups


def _betas(state: State) -> dict[Any, tuple[float, float]]:
    found: dict[Any, tuple[float, float]] = {}
    for group in state.get("param_groups") or ():
        betas = group.get("betas") if isinstance(group, dict) else None
        if isinstance(betas, tuple | list) and len(betas) == 2:
            own = float(betas[0]), float(betas[1])
            found.update(dict.fromkeys(group.get("params", ()), own))
    return found


def _flat(state: State, group: _Group) -> tuple[Words, Words]:
    """Bits of m and v of a group."""
    slots = _slots(state)

    def joined(which: str) -> Words:
        parts = [slots[key][which].detach().reshape(-1).numpy() for key in group.keys]
        whole = parts[0] if len(parts) == 1 else np.concatenate(parts)
        found: Words = whole.view(np.uint32)
        return found

    return joined(_M), joined(_V)


def _flat_gradients(
    gradients: Mapping[Any, torch.Tensor], group: _Group
) -> tuple[Halves, np.float32 | None] | None:
    """Gradients in BF16 and their factor, None where it is not known; None if there are none."""
    parts = []
    for key, shape in zip(group.keys, group.shapes, strict=True):
        part = gradients.get(key)
        if part is None or tuple(part.shape) != shape:
            return None
        parts.append(part.detach().cpu().reshape(-1))
    if len({part.dtype for part in parts}) > 1:
        return None
    whole = torch.cat(parts)
    if whole.dtype == torch.bfloat16:
        return whole.view(torch.int16).numpy().view(np.uint16), None
    return scaled.split(whole.numpy()) if whole.dtype == torch.float32 else None


# Packing


class _Packer:
    """Packs groups; remembers the step that the last one was made by."""

    def __init__(self, level: int, threads: int) -> None:
        self._level, self._threads = level, threads
        self._last: Step | None = None

    def pack(
        self,
        group: _Group,
        new: tuple[Words, Words],
        old: tuple[Words, Words] | None,
        given: tuple[Halves, np.float32 | None] | None,
    ) -> tuple[dict[str, Any], list[bytes]]:
        """The entry of the table, and the pieces that it speaks of."""
        entry: dict[str, Any] = {
            "keys": list(group.keys),
            "shapes": [list(shape) for shape in group.shapes],
            "digest": _digest(*new),
        }
        best = None if old is None else self._replayed(group, Moments(*old, *new), given)
        plain = sum(part.nbytes for part in new)
        ways: list[tuple[dict[str, Any], list[bytes]]] = [] if best is None else [best]
        if best is None or sum(map(len, best[1])) > _GOOD * plain:
            ways.append(({"way": ALONE}, [self._coded(part, group.shape) for part in new]))
            if old is not None:
                pairs = zip(new, old, strict=True)
                pieces = [self._coded(a, group.shape, b) for a, b in pairs]
                ways.append(({"way": CHANGES}, pieces))
        more, pieces = min(ways, key=lambda way: sum(map(len, way[1])))
        if more["way"] != ALONE and old is not None:
            entry["before"] = _digest(*old)
        return {**entry, **more, "lengths": [len(piece) for piece in pieces]}, pieces

    def _coded(self, bits: Words, shape: tuple[int, ...], base: Words | None = None) -> bytes:
        array = bits.view(np.float32).reshape(shape)
        other = None if base is None else base.view(np.float32).reshape(shape)
        return densor.compress(array, self._level, self._threads, base=other)

    def _replayed(
        self,
        group: _Group,
        moments: Moments,
        given: tuple[Halves, np.float32 | None] | None,
    ) -> tuple[dict[str, Any], list[bytes]] | None:
        """The gradient, and where m and v do not follow from it; None where few of them do."""
        if not moments.m.size:
            return None
        gradient, factor = given if given is not None else (None, None)
        step = self._step(group, moments, gradient, factor)
        if gradient is None:
            few = moments.sample()
            if few.m.size and not _follow(few, replay.derived(few, step), step):
                return None
            gradient = replay.derived(moments, step)
        m, v = replay.predicted(moments.m, moments.v, gradient, step)
        if np.count_nonzero(m != moments.next_m) > _TRIED * m.size:
            return None
        self._last = step
        halves = gradient.reshape(group.shape)
        pieces = [densor.compress(halves, self._level, self._threads, dtype="bf16")]
        for made, right in ((m, moments.next_m), (v, moments.next_v)):
            same = np.array_equal(made, right)
            pieces.append(b"" if same else self._coded(right, group.shape, made))
        numbers = [int(np.float32(x).view(np.uint32)) for x in step[:4]]
        return {"way": REPLAY, "step": [*numbers, step.m_form, step.v_form]}, pieces

    def _step(
        self,
        group: _Group,
        moments: Moments,
        gradient: Halves | None,
        factor: np.float32 | None,
    ) -> Step:
        """How the group was made: as the last one, if most of a sample follows from that."""
        step = replay.step_of(*group.betas)
        few = moments.sample()
        if factor is not None and gradient is not None:
            return replay.with_forms(moments, gradient, step._replace(factor=factor))
        last = self._last
        known = last is not None and last[:3] == step[:3] and few.m.size
        if last is not None and known and _follow(few, replay.derived(few, last), last, 0.99):
            return last
        return replay.found_step(moments, step)


def _follow(few: Moments, gradient: Halves, step: Step, share: float = _TRIED) -> bool:
    """Whether m follows in that share of a sample."""
    m, _ = replay.predicted(few.m, few.v, gradient, step)
    return bool(np.count_nonzero(m == few.next_m) >= share * m.size)


def _digest(m: Words, v: Words) -> str:
    hasher = xxhash.xxh3_128(m)
    hasher.update(v)
    return hasher.hexdigest()


# All else


def _saved_rest(state: State, groups: Sequence[_Group]) -> bytes:
    """The state without what groups have, as torch.save writes it."""
    coded = {key for group in groups for key in group.keys}
    slots = {
        key: {name: value for name, value in slot.items() if name not in (_M, _V)}
        if key in coded
        else slot
        for key, slot in _slots(state).items()
    }
    buffer = io.BytesIO()
    torch.save({**state, "state": slots}, buffer)
    return buffer.getvalue()


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


# Restoring


def _restore(
    entry: Any,
    body: memoryview,
    at: int,
    state: State,
    before: State | None,
    threads: int,
) -> int:
    """Puts the moments of a group into the state; where its pieces end."""
    group, way, lengths = _parse_entry(entry)
    pieces = []
    for length in lengths:
        if length > len(body) - at:
            raise FormatError("optimizer state ends within a group")
        pieces.append(body[at : at + length])
        at += length
    old = None if way == ALONE else _found_before(entry, group, before)

    def decoded(piece: memoryview, dtype: Any, base: Words | None = None) -> Any:
        return _decoded(piece, group.shape, dtype, base, threads)

    if way == REPLAY:
        assert old is not None
        m, v = _replay(entry, pieces, old, decoded)
    else:
        bases = (None, None) if old is None else old
        m, v = (decoded(p, np.uint32, b) for p, b in zip(pieces, bases, strict=True))
    if _digest(m, v) != entry.get("digest"):
        raise ChecksumError(f"moments of {group.keys[0]!r:.200} are not those that were packed")
    _put(state, group, m, v)
    return at


def _replay(
    entry: dict[str, Any],
    pieces: list[memoryview],
    old: tuple[Words, Words],
    decoded: Callable[..., Any],
) -> tuple[Words, Words]:
    gradient = decoded(pieces[0], np.uint16)
    m, v = replay.predicted(*old, gradient, _parse_step(entry.get("step")))
    if len(pieces[1]):
        m = decoded(pieces[1], np.uint32, m)
    if len(pieces[2]):
        v = decoded(pieces[2], np.uint32, v)
    return m, v


def _parse_entry(entry: Any) -> tuple[_Group, str, list[int]]:
    if not isinstance(entry, dict):
        raise FormatError("table of an optimizer state is malformed")
    keys, shapes, way = entry.get("keys"), entry.get("shapes"), entry.get("way")
    lengths = entry.get("lengths")
    if not isinstance(keys, list) or not isinstance(shapes, list) or len(keys) != len(shapes):
        raise FormatError("group of an optimizer state is malformed")
    if not keys or any(type(key) not in (int, str) for key in keys):
        raise FormatError("group of an optimizer state has impossible keys")
    if way not in (REPLAY, CHANGES, ALONE):
        raise UnsupportedError("group is coded in an unknown way; a newer densor may read it")
    if not isinstance(lengths, list) or len(lengths) != (3 if way == REPLAY else 2):
        raise FormatError("group of an optimizer state has impossible lengths")
    found = tuple(strictjson.shape(shape, "shape") for shape in shapes)
    group = _Group(tuple(keys), found, (0.0, 0.0))
    if group.size > 1 << 40:
        raise FormatError("group of an optimizer state has an impossible shape")
    return group, way, [strictjson.integer(length, "length") for length in lengths]


def _parse_step(numbers: Any) -> Step:
    if not isinstance(numbers, list) or len(numbers) != 6:
        raise FormatError("step of an optimizer state is malformed")
    limits = (*[0xFFFFFFFF] * 4, replay.M_FORMS - 1, replay.V_FORMS - 1)
    for number, most in zip(numbers, limits, strict=True):
        strictjson.integer(number, "number of a step", most)
    w, b2, a, factor = (np.uint32(number).view(np.float32) for number in numbers[:4])
    return Step(w, b2, a, factor, numbers[4], numbers[5])


def _found_before(
    entry: dict[str, Any], group: _Group, before: State | None
) -> tuple[Words, Words]:
    if before is None:
        raise ArgumentError("optimizer state is coded against the one before, which it needs")
    slots = _slots(before)
    for key, shape in zip(group.keys, group.shapes, strict=True):
        if not _is_coded(slots.get(key)) or tuple(slots[key][_M].shape) != shape:
            raise ArgumentError(f"state before has no moments of {key!r:.200} of that shape")
    old = _flat(before, group)
    if _digest(*old) != entry.get("before"):
        raise ArgumentError("state before is another one than that it was coded against")
    return old


def _decoded(
    piece: memoryview, shape: tuple[int, ...], dtype: Any, base: Words | None, threads: int
) -> Any:
    """The bits that a piece holds, flat."""
    other = None if base is None else base.view(np.float32).reshape(shape)
    size = _count(shape) * np.dtype(dtype).itemsize
    try:
        found = densor.decompress(piece, threads, base=other, max_output_size=size)
    except ArgumentError as error:  # of the data, not of what the caller gave
        raise FormatError(str(error)) from error
    wanted = np.uint16 if dtype is np.uint16 else np.float32
    if not isinstance(found, np.ndarray) or found.dtype != wanted or found.shape != shape:
        raise FormatError("piece of an optimizer state is of something else")
    return found.reshape(-1).view(dtype)


def _put(state: State, group: _Group, m: Words, v: Words) -> None:
    at = 0
    for key, shape in zip(group.keys, group.shapes, strict=True):
        slot = state["state"].get(key)
        if not isinstance(slot, dict):
            raise FormatError(f"optimizer state has no place for {key!r:.200}")
        size = _count(shape)
        for name, bits in ((_M, m), (_V, v)):
            part = bits[at : at + size].view(np.float32).reshape(shape)
            slot[name] = torch.from_numpy(part.copy())
        at += size
