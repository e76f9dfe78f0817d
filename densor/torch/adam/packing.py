"""Adam's state, packed by itself or as what a step has made of the state before.

m and v after a step are functions of those before and of the gradient: where that is BF16, maybe
times one factor, it is all that has to be kept. It is taken from what is given, or derived from m.
What follows from it is computed and compared when the state is packed; what differs is coded as
changes, and where that takes more, m and v are coded by themselves. See docs/optimizer-format.md.
"""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

import densor
from densor.codec.adam import replay
from densor.codec.adam.replay import Moments, Step, Words
from densor.codec.adam.scaled import Halves
from densor.codec.zstd import zstd_compress
from densor.errors import ArgumentError
from densor.runtime.arguments import need
from densor.torch.adam import layout, scales
from densor.torch.adam.groups import (
    MOMENTS,
    Group,
    State,
    digest_of,
    flat,
    flat_gradients,
    groups_of,
    is_coded,
    is_one_step,
    shape_of,
    slots_of,
)
from densor.torch.adam.layout import ALONE, CHANGES, RELATIVE, REPLAY, is_matrix
from densor.torch.sealed import sealed

DEFAULT_LEVEL = 6
_GOOD = 0.3  # share of m and v from which on nothing else is tried
_TRIED = 0.5  # share of a sample that must follow for replay to be tried


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
    need(state, dict, "state")
    if before is not None:
        need(before, dict, "before")
    if gradients is not None:
        need(gradients, Mapping, "gradients")
    groups = groups_of(state, before)
    packer = _Packer(level, threads)
    entries, blobs = [], []
    for group in groups:
        new = flat(state, group)
        old = None if before is None else flat(before, group)
        given = None if gradients is None else flat_gradients(gradients, group)
        step = before is not None and is_one_step(state, before, group)
        entry, pieces = packer.pack(group, new, old, given, step)
        entries.append(entry)
        blobs += pieces
    return _whole(_saved_rest(state, groups), entries, blobs)


def _whole(saved: bytes, entries: list[dict[str, Any]], pieces: list[bytes]) -> bytes:
    rest = zstd_compress(saved, 9)
    table = {"rest": [len(rest), len(saved)], "groups": entries}
    return sealed(layout.KIND, table, [rest, *pieces])


class StepPacker:
    """Packs m and v of parameters, one by one, as what one and the same step has made of them."""

    def __init__(self, level: int = DEFAULT_LEVEL, threads: int = 1) -> None:
        self._packer = _Packer(level, threads)

    def pack(self, after: State, before: State, betas: tuple[float, float]) -> bytes | None:
        """What `pack_state` makes of the state of one parameter; None where it does not follow.

        `after`, `before`: dicts of `exp_avg` and `exp_avg_sq`, one step apart. What `unpack_state`
        gives back has these alone, under the key 0.
        """
        if not (is_coded(after) and is_coded(before) and shape_of(after) == shape_of(before)):
            return None
        group = Group((0,), (shape_of(after),), betas)
        new, old = (flat({"state": {0: slot}}, group) for slot in (after, before))
        found = self._packer.replayed(group, new, old)
        if found is None:
            return None
        return _whole(_saved_rest({"state": {0: {}}}, []), [found[0]], found[1])


class _Packer:
    """Packs groups; remembers the step that the last one was made by."""

    def __init__(self, level: int, threads: int) -> None:
        self._level, self._threads = level, threads
        self._last: Step | None = None

    def pack(
        self,
        group: Group,
        new: tuple[Words, Words],
        old: tuple[Words, Words] | None,
        given: tuple[Halves, np.float32 | None] | None,
        step: bool,
    ) -> tuple[dict[str, Any], list[bytes]]:
        """The entry of the table, and the pieces that it speaks of; `step`: may be one after."""
        best = None
        if old is not None and step:
            best = self._replayed(group, Moments(*old, *new), given)
        ways: list[tuple[dict[str, Any], list[bytes]]] = [] if best is None else [best]
        if best is None or not _is_good(best[1], new):
            alone = [self._coded(part, group.shape) for part in new]
            ways.append(({"way": ALONE}, alone))
            if is_matrix(group):
                ways.append(({"way": RELATIVE}, [*self._relative(new, group.shape), alone[0]]))
            if old is not None:
                pairs = zip(new, old, strict=True)
                pieces = [self._coded(a, group.shape, b) for a, b in pairs]
                ways.append(({"way": CHANGES}, pieces))
        return _entry(group, new, old, *min(ways, key=lambda way: sum(map(len, way[1]))))

    def replayed(
        self, group: Group, new: tuple[Words, Words], old: tuple[Words, Words]
    ) -> tuple[dict[str, Any], list[bytes]] | None:
        """Entry and pieces of what a step made of a group; None where little follows."""
        best = self._replayed(group, Moments(*old, *new), None)
        if best is None or not _is_good(best[1], new):
            return None
        return _entry(group, new, old, *best)

    def _relative(self, new: tuple[Words, Words], shape: tuple[int, ...]) -> list[bytes]:
        """Scales, and v relative to these and to m."""
        m, v = new
        found = scales.fitted(m, v, shape)
        numbers = densor.compress(found.joined(), self._level, self._threads)
        return [numbers, self._coded(scales.relative(v, m, found), shape)]

    def _coded(self, bits: Words, shape: tuple[int, ...], base: Words | None = None) -> bytes:
        array = bits.view(np.float32).reshape(shape)
        other = None if base is None else base.view(np.float32).reshape(shape)
        return densor.compress(array, self._level, self._threads, base=other)

    def _replayed(
        self,
        group: Group,
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
            if few.m.size and not replay.follows(few, replay.derived(few, step), step, _TRIED):
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
        group: Group,
        moments: Moments,
        gradient: Halves | None,
        factor: np.float32 | None,
    ) -> Step:
        """How the group was made: as the last one, if most of a sample follows from that."""
        step = replay.step_of(*group.betas)
        if factor is not None and gradient is not None:
            return replay.with_forms(moments, gradient, step._replace(factor=factor))
        return replay.likely_step(moments, step, self._last)


def _is_good(pieces: list[bytes], moments: tuple[Words, Words]) -> bool:
    return sum(map(len, pieces)) <= _GOOD * sum(part.nbytes for part in moments)


def _entry(
    group: Group,
    new: tuple[Words, Words],
    old: tuple[Words, Words] | None,
    way: dict[str, Any],
    pieces: list[bytes],
) -> tuple[dict[str, Any], list[bytes]]:
    """The entry of the table for a way and its pieces, and these."""
    entry: dict[str, Any] = {
        "keys": list(group.keys),
        "shapes": [list(shape) for shape in group.shapes],
        "digest": digest_of(*new),
    }
    if way["way"] in (REPLAY, CHANGES) and old is not None:
        entry["before"] = digest_of(*old)
    return {**entry, **way, "lengths": [len(piece) for piece in pieces]}, pieces


def _saved_rest(state: State, groups: Sequence[Group]) -> bytes:
    """The state without what groups have, as torch.save writes it; ArgumentError for what torch
    cannot save, or does not load again as mere numbers."""
    coded = {key for group in groups for key in group.keys}
    slots = {
        key: {name: value for name, value in slot.items() if name not in MOMENTS}
        if key in coded
        else slot
        for key, slot in slots_of(state).items()
    }
    buffer = io.BytesIO()
    try:
        torch.save({**state, "state": slots}, buffer)
    except Exception as error:  # what values raise as they are pickled may be anything
        raise ArgumentError(f"state of an optimizer cannot be saved: {error}") from error
    buffer.seek(0)
    odd = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(buffer))
    if odd:
        raise ArgumentError(f"state of an optimizer holds what is not loaded again: {odd[0]}")
    return buffer.getvalue()
