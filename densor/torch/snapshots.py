"""The last states of a training in memory, for going back without reading a checkpoint.

The newest is kept as it is; each older one as what differs from the next newer one, so that the
oldest can go at any time. Across ranks, `RankParity` keeps what brings back the state of one that
was lost.

>>> snapshots = Snapshots(last=4)  # doctest: +SKIP
>>> snapshots.take({"model": model.state_dict()}, step)  # copies, and returns  # doctest: +SKIP
>>> state = snapshots.load()  # after a spike of the loss, say  # doctest: +SKIP
"""

import copy
import itertools
from typing import Any, NamedTuple, Self

import torch
from torch.utils._pytree import tree_flatten, tree_unflatten

import densor
from densor.errors import ArgumentError
from densor.runtime.arguments import need_whole
from densor.runtime.beside import Beside
from densor.torch.saving import Stage
from densor.torch.snapshot_bytes import is_codable


class _Newest(NamedTuple):
    number: int  # of all that were taken
    step: int
    leaves: list[Any]  # copies of tensors, and what else there is
    structure: Any


class _Coded(NamedTuple):
    """A tensor; `against`: relative to that of the next newer state."""

    blob: bytes
    against: bool


class _Older(NamedTuple):
    number: int
    newer: int  # the number of the state that it is relative to
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
        self._numbers = itertools.count()
        self._beside = Beside("densor-snapshots")

    def take(self, state: Any, step: int) -> None:
        """Copies a state, tensors in dicts, lists and tuples, and returns."""
        self.wait()
        if step in self.steps():
            raise ArgumentError(f"step {step} is there already")
        leaves, structure = tree_flatten(self._stages[1].copy(state))
        tensor = torch.Tensor
        kept = [leaf if isinstance(leaf, tensor) else copy.deepcopy(leaf) for leaf in leaves]
        before, taken = self._newest, _Newest(next(self._numbers), step, kept, structure)
        stages = self._stages[::-1]
        # Not before: where copying fails, or is interrupted, the newest stays as it is
        self._newest, self._stages = taken, stages
        if before is not None and self._last > 1:
            self._beside.submit(self._code, before, taken)

    def steps(self) -> list[int]:
        """Of the states that can be had, in the order in which they were taken."""
        self.wait()
        newest = [] if self._newest is None else [self._newest.step]
        return [older.step for older in reversed(self._chain())] + newest

    def load(self, step: int | None = None) -> Any:
        """A state, the newest by default, in memory of its own."""
        wanted = self.steps()[-1:] if step is None else [step]
        if self._newest is None or wanted[0] not in self.steps():
            raise ArgumentError(f"there is no state of step {step}")
        newest = self._newest
        found, structure = [_own(leaf) for leaf in newest.leaves], newest.structure
        if newest.step != wanted[0]:
            for older in self._chain():
                found, structure = self._restored(older, found), older.structure
                if older.step == wanted[0]:
                    break
        return tree_unflatten(found, structure)

    @property
    def packed_bytes(self) -> int:
        """Of the older states; the newest is not packed."""
        self.wait()
        leaves = (leaf for older in self._chain() for leaf in older.leaves)
        return sum(len(leaf.blob) for leaf in leaves if isinstance(leaf, _Coded))

    def wait(self) -> None:
        """Until the one before is coded; raises what failed."""
        self._beside.wait()

    def close(self) -> None:
        """Waits, and ends the thread."""
        self._beside.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _chain(self) -> list[_Older]:
        """The older states that lead on from the newest; none where one was not coded."""
        newer = None if self._newest is None else self._newest.number
        chain = []
        for older in self._older:
            if older.newer != newer:
                break
            chain.append(older)
            newer = older.number
        return chain

    def _code(self, before: _Newest, after: _Newest) -> None:
        try:
            coded = self._against(before, after)
        except BaseException:
            self._older = []
            raise
        self._older = [coded, *self._older][: self._last - 1]

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
        return _Older(before.number, after.number, before.step, leaves, before.structure)

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
