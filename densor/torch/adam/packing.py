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
from densor.codec.zstd import zstd_compress
from densor.torch.adam import layout, replay, scales
from densor.torch.adam.groups import (
    MOMENTS,
    Group,
    State,
    digest_of,
    flat,
    flat_gradients,
    groups_of,
    slots_of,
)
from densor.torch.adam.layout import ALONE, CHANGES, RELATIVE, REPLAY, is_matrix
from densor.torch.adam.replay import Moments, Step, Words
from densor.torch.scaled import Halves
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
    groups = groups_of(state, before)
    packer = _Packer(level, threads)
    entries, blobs = [], []
    for group in groups:
        new = flat(state, group)
        old = None if before is None else flat(before, group)
        given = None if gradients is None else flat_gradients(gradients, group)
        entry, pieces = packer.pack(group, new, old, given)
        entries.append(entry)
        blobs += pieces
    saved = _saved_rest(state, groups)
    rest = zstd_compress(saved, 9)
    table = {"rest": [len(rest), len(saved)], "groups": entries}
    return sealed(layout.KIND, table, [rest, *blobs])


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
    ) -> tuple[dict[str, Any], list[bytes]]:
        """The entry of the table, and the pieces that it speaks of."""
        entry: dict[str, Any] = {
            "keys": list(group.keys),
            "shapes": [list(shape) for shape in group.shapes],
            "digest": digest_of(*new),
        }
        best = None if old is None else self._replayed(group, Moments(*old, *new), given)
        plain = sum(part.nbytes for part in new)
        ways: list[tuple[dict[str, Any], list[bytes]]] = [] if best is None else [best]
        if best is None or sum(map(len, best[1])) > _GOOD * plain:
            alone = [self._coded(part, group.shape) for part in new]
            ways.append(({"way": ALONE}, alone))
            if is_matrix(group):
                ways.append(({"way": RELATIVE}, [*self._relative(new, group.shape), alone[0]]))
            if old is not None:
                pairs = zip(new, old, strict=True)
                pieces = [self._coded(a, group.shape, b) for a, b in pairs]
                ways.append(({"way": CHANGES}, pieces))
        more, pieces = min(ways, key=lambda way: sum(map(len, way[1])))
        if more["way"] in (REPLAY, CHANGES) and old is not None:
            entry["before"] = digest_of(*old)
        return {**entry, **more, "lengths": [len(piece) for piece in pieces]}, pieces

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
        group: Group,
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


def _saved_rest(state: State, groups: Sequence[Group]) -> bytes:
    """The state without what groups have, as torch.save writes it."""
    coded = {key for group in groups for key in group.keys}
    slots = {
        key: {name: value for name, value in slot.items() if name not in MOMENTS}
        if key in coded
        else slot
        for key, slot in slots_of(state).items()
    }
    buffer = io.BytesIO()
    torch.save({**state, "state": slots}, buffer)
    return buffer.getvalue()
