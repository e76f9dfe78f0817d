"""The last states of a training in memory, for going back without reading a checkpoint.

The newest is kept as it is; each older one as what differs from the next newer one, so that the
oldest can go at any time. Across ranks, `RankParity` keeps what brings back the state of one that
was lost.

>>> snapshots = Snapshots(last=4)  # doctest: +SKIP
>>> snapshots.take({"model": model.state_dict()}, step)  # copies, and returns  # doctest: +SKIP
>>> state = snapshots.load()  # after a spike of the loss, say  # doctest: +SKIP
"""

import copy
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, Self

import torch
from torch.utils._pytree import tree_flatten, tree_unflatten

import densor
from densor.errors import ArgumentError
from densor.runtime.arguments import need_whole
from densor.torch.saving import Stage
from densor.torch.snapshot_bytes import is_codable


class _Newest(NamedTuple):
    step: int
    leaves: list[Any]  # copies of tensors, and what else there is
    structure: Any


class _Coded(NamedTuple):
    """A tensor; `against`: relative to that of the next newer state."""

    blob: bytes
    against: bool


class _Older(NamedTuple):
    step: int
    leaves: list[Any]  # `_Coded` for tensors that can be coded
    structure: Any


class Snapshots:
    """The last `last` states that were taken, in memory.

    Two copies of a state are held, in memory that is used again (pinned where it is on a GPU), and
    what the older ones differ by. `take` waits for the coding of the one before, which `threads`
    threads do beside the training. What fails there is raised by the next `take`, `wait` or
    `load`; the older states are gone then. Sharded tensors are copied, not coded.
    """

    def __init__(self, last: int = 4, level: int = 1, threads: int = 1) -> None:
        need_whole(last=last)
        if last < 1:
            raise ArgumentError("at least one state must be kept")
        self._last, self._level, self._threads = last, level, threads
        self._stages = [Stage(), Stage()]
        self._newest: _Newest | None = None
        self._older: list[_Older] = []  # from new to old
        self._pool = ThreadPoolExecutor(1, "densor-snapshots")
        self._pending: Future[_Older] | None = None

    def take(self, state: Any, step: int) -> None:
        """Copies a state, tensors in dicts, lists and tuples, and returns."""
        self.wait()
        if step in self.steps():
            raise ArgumentError(f"step {step} is there already")
        leaves, structure = tree_flatten(self._stages[1].copy(state))
        tensor = torch.Tensor
        kept = [leaf if isinstance(leaf, tensor) else copy.deepcopy(leaf) for leaf in leaves]
        self._stages.reverse()  # not before: where copying fails, the newest stays as it is
        before, self._newest = self._newest, _Newest(step, kept, structure)
        if before is not None and self._last > 1:
            self._pending = self._pool.submit(self._against, before, self._newest)

    def steps(self) -> list[int]:
        """Of the states that can be had, in the order in which they were taken."""
        self.wait()
        newest = [] if self._newest is None else [self._newest.step]
        return [older.step for older in reversed(self._older)] + newest

    def load(self, step: int | None = None) -> Any:
        """A state, the newest by default, in memory of its own."""
        wanted = self.steps()[-1:] if step is None else [step]
        if self._newest is None or wanted[0] not in self.steps():
            raise ArgumentError(f"there is no state of step {step}")
        newest = self._newest
        found, structure = [_own(leaf) for leaf in newest.leaves], newest.structure
        if newest.step != wanted[0]:
            for older in self._older:
                found, structure = self._restored(older, found), older.structure
                if older.step == wanted[0]:
                    break
        return tree_unflatten(found, structure)

    @property
    def packed_bytes(self) -> int:
        """Of the older states; the newest is not packed."""
        self.wait()
        leaves = (leaf for older in self._older for leaf in older.leaves)
        return sum(len(leaf.blob) for leaf in leaves if isinstance(leaf, _Coded))

    def wait(self) -> None:
        """Until the one before is coded; raises what failed."""
        pending, self._pending = self._pending, None
        if pending is None:
            return
        try:
            self._older = [pending.result(), *self._older][: self._last - 1]
        except BaseException:
            self._older = []
            raise

    def close(self) -> None:
        """Waits, and ends the thread."""
        try:
            self.wait()
        finally:
            self._pool.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _against(self, before: _Newest, after: _Newest) -> _Older:
        same = before.structure == after.structure
        others = after.leaves if same else [None] * len(before.leaves)
        leaves: list[Any] = []
        for leaf, other in zip(before.leaves, others, strict=True):
            if not is_codable(leaf):
                leaves.append(leaf)
                continue
            alike = is_codable(other) and (leaf.dtype, leaf.shape) == (other.dtype, other.shape)
            base = other if alike else None
            blob = densor.compress(leaf, self._level, self._threads, base=base)
            leaves.append(_Coded(blob, alike))
        return _Older(before.step, leaves, before.structure)

    def _restored(self, older: _Older, newer: list[Any]) -> list[Any]:
        found = []
        for i, leaf in enumerate(older.leaves):
            if isinstance(leaf, _Coded):
                base = newer[i] if leaf.against else None
                found.append(densor.decompress(leaf.blob, self._threads, base=base))
            else:
                found.append(_own(leaf))
        return found


def _own(leaf: Any) -> Any:
    return leaf.clone() if isinstance(leaf, torch.Tensor) else copy.deepcopy(leaf)
