"""Checkpoints that are coded and written while the training goes on.

`save` copies the state to memory of its own and returns; a thread beside codes and writes it by
`PackedWriter`, each checkpoint against the one before.

>>> checkpoints = AsyncCheckpoints("checkpoints")  # doctest: +SKIP
>>> checkpoints.save({"model": model.state_dict()}, step)  # doctest: +SKIP
>>> checkpoints.load({"model": model.state_dict()})  # the latest that is whole  # doctest: +SKIP
"""

import contextlib
import os
import re
import shutil
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import torch
import torch.distributed as dist
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.planner import SavePlan
from torch.utils._pytree import tree_flatten, tree_unflatten

from densor import arrays
from densor.errors import ArgumentError, DensorError, FileError
from densor.formats.io.outputs import errors_of
from densor.formats.io.urls import plain
from densor.runtime.arguments import need, need_whole
from densor.runtime.beside import Beside
from densor.torch.checkpoint import PackedReader, PackedWriter, PathLike, based_on

_NAME = re.compile(r"step-([0-9]{1,18})")
_METADATA = ".metadata"  # written last: what has none was never finished
_GIVEN_UP = ".given-up"  # its name once what it makes whole is to count no more; or yet


class Stage:
    """Copies of the tensors of a state, in memory that is used again; pinned for those of a GPU."""

    def __init__(self) -> None:
        self._kept: list[torch.Tensor] = []

    def copy(self, state: Any) -> Any:
        """The same structure with copies in it; what is no tensor stays."""
        leaves, structure = tree_flatten(state)
        copies: list[Any] = []
        kept: list[torch.Tensor] = []
        waits = False
        before: dict[tuple[Any, ...], list[torch.Tensor]] = {}
        for copy in self._kept:
            before.setdefault(_form(copy), []).append(copy)
        for leaf in leaves:
            if not isinstance(leaf, torch.Tensor):
                copies.append(leaf)
                continue
            local = leaf.detach()
            if not is_plain(local):  # sharded: of a class of its own
                copies.append(local.clone())
                continue
            arrays.check_memory(local)
            free = before.get(_form(local))
            target = free.pop() if free else _memory_like(local)
            target.copy_(local, non_blocking=True)
            waits = waits or local.device.type == "cuda"
            kept.append(target)
            copies.append(target)
        if waits:
            torch.cuda.synchronize()
        self._kept = kept
        return tree_unflatten(copies, structure)


def is_plain(tensor: torch.Tensor) -> bool:
    """Whether a tensor has elements in memory, and is no sharded one, or of another class."""
    own = type(tensor) in (torch.Tensor, torch.nn.Parameter) and not tensor.is_nested
    return own and tensor.layout == torch.strided and not tensor.is_meta


def _form(tensor: torch.Tensor) -> tuple[Any, ...]:
    return tensor.dtype, tuple(tensor.shape), tuple(tensor.stride())


def _memory_like(tensor: torch.Tensor) -> torch.Tensor:
    pinned = tensor.device.type == "cuda"
    return torch.empty_like(tensor, device="cpu", pin_memory=pinned)


class _Writer(PackedWriter):
    """A writer that tells all ranks, as they plan, what has failed on this one."""

    error: Exception | None = None

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        """As before, or raises the error."""
        if self.error is not None:
            raise self.error
        return super().prepare_local_plan(plan)


class _Lock:
    """An open folder, closed with this object at the latest, which ends its lock.

    In the child of a fork it is closed at once, else the lock would live as long as that.
    """

    def __init__(self, handle: int) -> None:
        self.handle = handle
        self.close = weakref.finalize(self, _unlock, handle)
        _held.add(self)


_held: "weakref.WeakSet[_Lock]" = weakref.WeakSet()


def _unlock(handle: int) -> None:
    import fcntl

    with contextlib.suppress(OSError):  # said first: a child may be about to close its own
        fcntl.flock(handle, fcntl.LOCK_UN)
    os.close(handle)


def _leave_to_parent() -> None:
    for lock in list(_held):
        if lock.close.detach() is not None:
            os.close(lock.handle)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_parent)


def _locked(folder: Path) -> _Lock | None:
    """Locks a folder against other writers; None where the system cannot, FileError where one has.

    No file is made for it, and it ends with the process, however that ends.
    """
    try:
        import fcntl

        lock = _Lock(os.open(folder, os.O_RDONLY | os.O_CLOEXEC))
        fcntl.flock(lock.handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise FileError(f"{folder}: another writer saves checkpoints there") from None
    except (ImportError, OSError):  # no such locks, or no right to open it
        return None
    return lock


class AsyncCheckpoints:
    """Checkpoints `step-N` in a folder, written by a thread while the training goes on.

    `chain`: so many checkpoints in a row are coded against the one before; 0 codes each by itself.
    `keep`: so many of the latest stay, with those that they are based on; None: all. `threads`: of
    which the training is deprived meanwhile. `process_group`: of a training on several processes,
    one of gloo that nothing else uses.

    One copy of the state is held, in memory that is used again. A `save` waits for the one before.
    What fails is raised by the next `save`, by `wait` or `close`. A checkpoint counts only once its
    metadata is there, which is written last: whatever breaks off leaves the one before whole, and
    what it has written is removed, at the latest once a later save is whole. Where an earlier step
    is saved again, the checkpoints that are based on the former one count no more; they are removed
    likewise. One writer saves to a folder at a time, from its first `save` to `close`.
    """

    def __init__(
        self,
        folder: PathLike,
        level: int = 3,
        threads: int = 1,
        *,
        chain: int = 7,
        keep: int | None = None,
        process_group: Any = None,
    ) -> None:
        need_whole(chain=chain, keep=1 if keep is None else keep)
        if chain < 0 or (keep is not None and keep < 1):
            raise ArgumentError("chain must be 0 or more, keep 1 or more")
        self._folder = Path(plain(folder))
        self._level, self._threads = level, threads
        self._chain, self._keep = chain, keep
        self._group = process_group
        self._stage = Stage()
        self._beside = Beside("densor-saving")
        self._links = 0  # of the latest that was saved here
        self._last: Path | None = None
        self._held: _Lock | None = None  # of the folder, from the first save on
        with errors_of(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)

    def save(self, state: dict[str, Any], step: int) -> None:
        """Copies `state`, as `torch.distributed.checkpoint.save` takes it, and returns."""
        need(state, dict, "state")
        need_whole(step=step)
        if step < 0:
            raise ArgumentError(f"step must be 0 or more, not {step}")
        self.wait()
        try:
            copied = self._stage.copy(state)
        except Exception as error:
            if _distributed():  # others wait for this rank, and are told
                self._beside.submit(self._write, {}, step, error)
            raise
        self._beside.submit(self._write, copied, step)

    def load(self, state: dict[str, Any], step: int | None = None) -> int:
        """Fills `state` from a checkpoint, the latest that is whole by default; its step."""
        need(state, dict, "state")
        if step is not None:
            need_whole(step=step)
        self.wait()
        steps = self.steps()
        if step is None and not steps:
            raise FileError(f"{self._folder}: has no checkpoint that is whole")
        chosen = steps[-1] if step is None else step
        if [chosen] != steps[-1:]:  # what is saved next does not go on from the latest
            self._last = None
        reader = PackedReader(self._path(chosen), self._threads)
        with _errors_of_ranks():
            state_dict_loader.load(
                state, storage_reader=reader, process_group=self._group, no_dist=not _distributed()
            )
        return chosen

    def steps(self) -> list[int]:
        """Of the checkpoints that are whole, in rising order."""
        with errors_of(self._folder):
            found = [_NAME.fullmatch(path.name) for path in self._folder.iterdir()]
        steps = [int(match[1]) for match in found if match]
        return sorted(step for step in steps if (self._path(step) / _METADATA).exists())

    def wait(self) -> None:
        """Until what was saved is on the disk; raises what failed."""
        self._beside.wait()

    def close(self) -> None:
        """Waits, and ends the thread."""
        try:
            self._beside.close()
        finally:
            if self._held is not None:
                self._held.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _path(self, step: int) -> Path:
        return self._folder / f"step-{step}"

    def _write(self, state: dict[str, Any], step: int, failed: Exception | None = None) -> None:
        """Saves with all ranks; `failed`: what this one has raised already."""
        path = self._path(step)
        last = self._last
        going_on = last is not None and step > _step_of(last)
        base = last if self._links < self._chain and going_on else None
        self._last = None  # until this one is whole
        error, held = failed, False
        if error is None and _first_rank():
            try:
                self._lock()
                held = True
                self._give_up(path)
                _mark(path)
            except Exception as other:  # which all ranks are told by the writer
                error = other
        writer = _Writer(path, self._level, self._threads, base=base)
        writer.error = error
        try:
            with _errors_of_ranks():
                state_dict_saver.save(
                    state,
                    storage_writer=writer,
                    process_group=self._group,
                    no_dist=not _distributed(),
                )
        except Exception:
            self._last = last if going_on else None  # else it may have been given up
            if held:  # the disk may be full; what stays is removed by a later save
                with contextlib.suppress(OSError, DensorError):
                    self._remove_given_up()
            if failed is not None:
                return
            raise
        self._links = 0 if base is None else self._links + 1
        self._last = path
        if _first_rank():
            with errors_of(path):
                (path / _GIVEN_UP).unlink(missing_ok=True)
            self._remove_given_up()
            if self._keep is not None:
                self._remove_old(self._keep, path)

    def _lock(self) -> None:
        """Keeps other writers out of the folder while this one lives; FileError if one has it."""
        if self._held is None or not self._held.close.alive:  # which it is not after a fork
            self._held = _locked(self._folder)

    def _give_up(self, path: Path) -> None:
        """Of a checkpoint that is saved again, and of those that need it: what makes them whole.

        Farthest first, so that what has metadata is whole whenever this breaks off.
        """
        if not path.exists():
            return
        needed = {one: self._needed_by(one) for one in map(self._path, self.steps())}
        dependent = [one for one in needed if path in needed[one]]
        dependent.sort(key=lambda one: len(needed[one]), reverse=True)
        for one in [*dependent, path]:
            with errors_of(one), contextlib.suppress(FileNotFoundError):
                (one / _METADATA).replace(one / _GIVEN_UP)

    def _remove_given_up(self) -> None:
        """Checkpoints that were given up, or never finished, which a mark shows.

        Nothing that is whole needs them: what did was given up before them.
        """
        with errors_of(self._folder):
            marked = [path for path in self._folder.iterdir() if (path / _GIVEN_UP).is_file()]
        for path in marked:
            ours = _NAME.fullmatch(path.name) and not path.is_symlink()
            if ours and not (path / _METADATA).exists():
                with errors_of(path):
                    _remove(path)

    def _needed_by(self, path: Path) -> set[Path]:
        """The checkpoints that one is based on; as many as can be found where some are damaged."""
        found: set[Path] = set()
        with contextlib.suppress(DensorError):
            for base in based_on(path):
                found.add(self._folder / base.name)
        return found

    def _remove_old(self, keep: int, saved: Path) -> None:
        """Leaves the latest checkpoints, the one just saved, and those that they need."""
        steps = self.steps()
        needed = {saved, *(self._path(step) for step in steps[-keep:])}
        for path in list(needed):
            needed |= self._needed_by(path)
        for step in steps:
            path = self._path(step)
            if path not in needed and not path.is_symlink():  # behind which lies somebody's folder
                with errors_of(path):
                    (path / _METADATA).replace(path / _GIVEN_UP)  # what is left is no checkpoint
                    _remove(path)


def _remove(path: Path) -> None:
    """A folder with a mark, which goes last, so that what is left when this breaks off has it."""
    for one in path.iterdir():
        if one.name != _GIVEN_UP:
            shutil.rmtree(one) if one.is_dir() and not one.is_symlink() else one.unlink()
    shutil.rmtree(path)


@contextlib.contextmanager
def _errors_of_ranks() -> Iterator[None]:
    """Raises what a rank raised, rather than what PyTorch, on all ranks, has made of it."""
    try:
        yield
    except CheckpointException as error:  # no Exception, to which nobody would look
        rank, (cause, _) = min(error.failures.items())
        where = f"rank {rank}: " if _distributed() else ""
        if isinstance(cause, DensorError):
            raise type(cause)(f"{where}{cause}") from cause
        if isinstance(cause, OSError):
            raise FileError(f"{where}{cause}") from cause
        raise cause from None


def _mark(path: Path) -> None:
    """Has a checkpoint count as given up until it is whole, where nothing of others is there.

    What cannot be written now cannot be written by the save either, which tells all ranks.
    """
    with contextlib.suppress(OSError):
        path.mkdir(parents=True, exist_ok=True)
        if not any(path.iterdir()):
            (path / _GIVEN_UP).touch()


def _step_of(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def _distributed() -> bool:
    return dist.is_available() and dist.is_initialized()


def _first_rank() -> bool:
    return not _distributed() or dist.get_rank() == 0
