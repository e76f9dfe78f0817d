"""The last states of a training in memory, for going back without reading a checkpoint.

The newest is kept as it is; each older one as what differs from the next newer one, so that the
oldest can go at any time. Across ranks, `RankParity` keeps what brings back the state of one that
was lost.

>>> snapshots = Snapshots(last=4)  # doctest: +SKIP
>>> snapshots.take({"model": model.state_dict()}, step)  # copies, and returns  # doctest: +SKIP
>>> state = snapshots.load()  # after a spike of the loss, say  # doctest: +SKIP
"""

import copy
import io
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, Self

import torch
import xxhash
from torch.utils._pytree import tree_flatten, tree_unflatten

import densor
from densor.errors import ArgumentError, ChecksumError, FormatError, TruncatedError
from densor.torch.saving import Stage, is_plain

_MARK = "densor:packed"
_DIGEST = 16
_DICTS = (dict, OrderedDict)
_SCALARS = (int, float, complex, bool, str, bytes, type(None))


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
            if not _codable(leaf):
                leaves.append(leaf)
                continue
            alike = _codable(other) and (leaf.dtype, leaf.shape) == (other.dtype, other.shape)
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


def _codable(leaf: Any) -> bool:
    return isinstance(leaf, torch.Tensor) and is_plain(leaf) and leaf.device.type == "cpu"


def _own(leaf: Any) -> Any:
    return leaf.clone() if isinstance(leaf, torch.Tensor) else copy.deepcopy(leaf)


def pack_snapshot(state: Any, step: int, level: int = 1, threads: int = 1) -> bytes:
    """A state by itself, as bytes that another process may keep; its tensors are on CPUs.

    It is what torch.save writes of the state, each tensor a dict of the archive that it is packed
    to, as uint8, and XXH3-128 of that. ArgumentError for what is no tensor, dict, list, tuple,
    number, string, bytes or None.
    """
    file = io.BytesIO()
    torch.save({"step": step, "state": _packed(state, level, threads)}, file)
    return file.getvalue() + xxhash.xxh3_128_digest(file.getvalue())


def _packed(part: Any, level: int, threads: int) -> Any:
    if isinstance(part, torch.Tensor):
        if not _codable(part):
            raise ArgumentError("tensors of a snapshot that is sent must be plain, on a CPU")
        blob = bytearray(densor.compress(part.detach(), level, threads))
        return {_MARK: torch.frombuffer(blob, dtype=torch.uint8)}
    kind = type(part)
    if kind in _DICTS and part.keys() != {_MARK}:
        return kind((key, _packed(value, level, threads)) for key, value in part.items())
    if kind in (list, tuple):
        return kind(_packed(value, level, threads) for value in part)
    if kind not in _SCALARS:
        raise ArgumentError(f"snapshots that are sent take no {kind.__name__}")
    return part


def unpack_snapshot(data: bytes, threads: int = 1) -> tuple[Any, int]:
    """The state and step that `pack_snapshot` was given; a DensorError for anything else."""
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
