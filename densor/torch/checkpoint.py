"""Packed storage for `torch.distributed.checkpoint`, in place of its file-system classes.

Each rank writes one file, a row of objects as `densor.compress` makes them, one per shard of a
tensor; their places are in the checkpoint's own metadata. A checkpoint may be coded against the
one before it. As with other storage, PyTorch unpickles the metadata and whatever is no tensor: load
only what you trust.

>>> import torch.distributed.checkpoint as dcp
>>> dcp.save(state, storage_writer=PackedWriter("step2", base="step1"))  # doctest: +SKIP
>>> dcp.load(state, storage_reader=PackedReader("step2"))  # doctest: +SKIP
"""

import dataclasses
import io
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex
from torch.distributed.checkpoint.planner import (
    LoadItemType,
    LoadPlan,
    LoadPlanner,
    SavePlan,
    SavePlanner,
    WriteItem,
    WriteItemType,
)
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

import densor
from densor.errors import ArgumentError, DensorError, FileError, LimitError, TruncatedError
from densor.formats.io.outputs import errors_of, whole_file
from densor.formats.io.urls import plain
from densor.torch.adam.groups import BETAS, MOMENTS, is_next
from densor.torch.adam.packing import StepPacker
from densor.torch.adam.restoring import unpack_state
from densor.torch.adam.shards import betas_in, pairs_of, stem_of

_SUFFIX = ".densor"
_MAX_CHAIN = 64  # checkpoints against checkpoints

PathLike = str | os.PathLike[str]


@dataclass(frozen=True)
class Stored:
    """Where an item is: `length` bytes of a file, from `offset` on."""

    file: str
    offset: int
    length: int
    base: str | None = None  # the checkpoint it is coded against, relative to its own
    moment: str | None = None  # which one it is, where those of a step are packed together


@dataclass(frozen=True)
class _Prefix:
    """What the files of a rank begin with."""

    prefix: str


class PackedWriter(FileSystemWriter):
    """A storage writer that packs each shard.

    `path`: the folder of the checkpoint. `base`: that of an earlier one, which must stay: shards
    that it has too, of the same place and shape, are coded against it where that is smaller. Where
    it is one step of Adam earlier, both moments in FP32 of a shard are kept as the BF16 gradient
    that they follow from (`densor.torch.pack_state`), if all of them, or most, do, and the same
    rank writes both. `threads`: 0 for all processors.
    """

    def __init__(
        self,
        path: PathLike,
        level: int = 3,
        threads: int = 0,
        *,
        base: PathLike | None = None,
        sync_files: bool = True,
        overwrite: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(plain(path), sync_files=sync_files, overwrite=overwrite, **options)
        self._level = level
        self._threads = threads
        self._sync = sync_files
        self._base_path = None if base is None else Path(plain(base))

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        """Creates the folder of the checkpoint, on each rank."""
        if self._base_path is not None:
            if _same(self._base_path, Path(self.checkpoint_id)):
                raise ArgumentError(f"{self._base_path}: a checkpoint cannot be based on itself")
            _require_folder(self._base_path)
        return super().prepare_local_plan(plan)

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """Gives each rank a file of its own, once the metadata of a checkpoint before is gone.

        The coordinator does so when all ranks have planned and none of them writes yet: what is in
        the folder is no checkpoint until all have written.
        """
        folder = Path(self.checkpoint_id)
        with errors_of(folder):
            # Without collectives, each rank is its own coordinator and has metadata of its own
            for name in (".metadata", f"__{getattr(self, 'rank', None)}.metadata"):
                (folder / name).unlink(missing_ok=True)
        return [
            plan
            if plan.storage_data is not None
            else dataclasses.replace(plan, storage_data=_Prefix(f"__{rank}_"))
            for rank, plan in enumerate(plans)
        ]

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Packs and writes the items of this rank."""
        folder = Path(self.checkpoint_id)
        name = f"{plan.storage_data.prefix}0{_SUFFIX}"
        opened: AbstractContextManager[_Checkpoint | None] = nullcontext()
        if self._base_path is not None:
            opened = closing(_Checkpoint(self._base_path, self._threads))
        results = []
        with opened as base, errors_of(folder / name), (folder / name).open("wb") as file:
            left = plan.items
            if base is not None:
                left, made = self._write_steps(file, name, plan, planner, base)
                results += made
            for item in left:
                blob, based = self._pack(item, planner, base)
                stored = Stored(name, file.tell(), len(blob), based)
                results.append(WriteResult(item.index, len(blob), stored))
                file.write(blob)
            if self._sync:
                file.flush()
                os.fsync(file.fileno())
        future: Future[list[WriteResult]] = Future()
        future.set_result(results)
        return future

    def _write_steps(
        self, file: BinaryIO, name: str, plan: SavePlan, planner: SavePlanner, base: "_Checkpoint"
    ) -> tuple[list[WriteItem], list[WriteResult]]:
        """Writes moments that follow from those of the base; other items, and where those are."""
        packer = StepPacker(self._level, self._threads)
        state = getattr(planner, "state_dict", {})
        betas = betas_in(state)
        written, results = set(), []
        for stem, items in pairs_of(plan.items):
            before = base.moments_before(stem, items[0].index, state.get(f"{stem}.step"))
            if before is None:
                continue
            after = {name: _local(planner, item) for name, item in zip(MOMENTS, items, strict=True)}
            blob = packer.pack(after, before, betas.get(stem, BETAS))
            if blob is None:
                continue
            for moment, item in zip(MOMENTS, items, strict=True):
                stored = Stored(name, file.tell(), len(blob), self._relative_base(), moment)
                results.append(WriteResult(item.index, len(blob) // 2, stored))
                written.add(item.index)
            file.write(blob)
        return [item for item in plan.items if item.index not in written], results

    def _relative_base(self) -> str | None:
        """The base as it is named in the metadata."""
        if self._base_path is None:
            return None
        return os.path.relpath(self._base_path, Path(self.checkpoint_id))

    def _pack(
        self, item: WriteItem, planner: SavePlanner, base: "_Checkpoint | None"
    ) -> tuple[bytes, str | None]:
        """The packed item, and the base that it needs, if any."""
        if item.type == WriteItemType.BYTE_IO:
            saved = planner.resolve_data(item)
            assert isinstance(saved, io.BytesIO)
            return densor.compress(saved.getbuffer(), self._level, self._threads), None
        data = _local(planner, item)
        before = None if base is None else base.same_shard(item.index, data)
        try:
            blob = densor.compress(data, self._level, self._threads, base=before)
        except ArgumentError as error:
            raise ArgumentError(f"{item.index.fqn}: {error}") from error
        return blob, None if before is None else self._relative_base()


class PackedReader(FileSystemReader):
    """A storage reader of what `PackedWriter` wrote, and the checkpoints it is based on."""

    def __init__(self, path: PathLike, threads: int = 0) -> None:
        super().__init__(plain(path))
        self._threads = threads

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Reads the items that this rank wants."""
        checkpoint = _Checkpoint(Path(self.checkpoint_id), self._threads, self.storage_data)
        with closing(checkpoint):
            self._read_items(checkpoint, plan, planner)
        future: Future[None] = Future()
        future.set_result(None)
        return future

    def _read_items(self, checkpoint: "_Checkpoint", plan: LoadPlan, planner: LoadPlanner) -> None:
        held: tuple[MetadataIndex, Any] | None = None
        for item in sorted(plan.items, key=lambda item: checkpoint.place(item.storage_index)):
            if held is None or held[0] != item.storage_index:  # several ranks' parts of one shard
                held = item.storage_index, checkpoint.read(item.storage_index)
            value = held[1]
            if item.type == LoadItemType.BYTE_IO:
                planner.load_bytes(item, io.BytesIO(value))
                continue
            for dim, (begin, length) in enumerate(
                zip(item.storage_offsets, item.lengths, strict=True)
            ):
                value = value.narrow(dim, begin, length)
            target = planner.resolve_tensor(item).detach()
            if target.size() != value.size():
                shape, wanted = tuple(value.size()), tuple(target.size())
                raise ArgumentError(f"{item.storage_index.fqn}: is {shape}, wanted is {wanted}")
            target.copy_(value)
            planner.commit_tensor(item, target)


class _Checkpoint:
    """A packed checkpoint, read item by item; opens those it is based on when they are needed."""

    def __init__(
        self,
        path: Path,
        threads: int,
        storage: dict[MetadataIndex, Stored] | None = None,
        depth: int = 0,
    ) -> None:
        if depth > _MAX_CHAIN:
            raise LimitError(f"{path}: is based on too long a chain of checkpoints")
        self._path = path
        self._threads = threads
        self._depth = depth
        if storage is None:
            metadata = _metadata(path)
            storage = metadata.storage_data
        self._storage = storage
        self._bases: dict[str, _Checkpoint] = {}
        self._files: dict[str, BinaryIO] = {}
        self._kept: tuple[tuple[str, int], dict[str, torch.Tensor]] | None = None

    def place(self, index: MetadataIndex) -> tuple[str, int]:
        """The file of an item and the offset in it, in bytes."""
        stored = self._stored(index)
        return stored.file, stored.offset

    def read(self, index: MetadataIndex) -> Any:
        """An item, a tensor or bytes, as it was saved."""
        stored = self._stored(index)
        if stored.moment is not None:
            return self._moment(index, stored, stored.moment)
        blob = self._bytes(index, stored)
        base = None if stored.base is None else self._base(stored.base).read(index)
        try:
            return densor.decompress(blob, self._threads, base=base)
        except DensorError as error:
            raise type(error)(f"{self._path / stored.file}: {index.fqn}: {error}") from error

    def moments_before(
        self, stem: str, index: MetadataIndex, step: Any
    ) -> dict[str, torch.Tensor] | None:
        """Both moments of a shard, if they are in here, and not known to be of another step.

        `stem`: of the names of both, `index`: of one; `step`: how many steps come after this one.
        """
        if any(one not in self._storage for one in _both(stem, index).values()):
            return None
        before = MetadataIndex(f"{stem}.step", torch.Size([]))
        if before in self._storage and not is_next(self.read(before), step):
            return None
        return self._moments(stem, index)

    def _moments(self, stem: str, index: MetadataIndex) -> dict[str, torch.Tensor]:
        return {name: self.read(one) for name, one in _both(stem, index).items()}

    def _moment(self, index: MetadataIndex, stored: Stored, moment: str) -> Any:
        """One of two that are packed together; the other is kept, as it is mostly read next."""
        place = stored.file, stored.offset
        if self._kept is None or self._kept[0] != place or moment not in self._kept[1]:
            self._kept = place, self._unpacked_moments(index, stored)
        return self._kept[1].pop(moment)

    def _unpacked_moments(self, index: MetadataIndex, stored: Stored) -> dict[str, torch.Tensor]:
        blob, stem = self._bytes(index, stored), stem_of(index.fqn)
        before = None if stored.base is None else self._base(stored.base)._moments(stem, index)
        try:
            found = unpack_state(blob, {"state": {0: before}}, threads=self._threads)["state"][0]
            return {name: found[name] for name in MOMENTS}
        except ArgumentError as error:  # of what is in the checkpoints
            raise FileError(f"{self._path / stored.file}: {index.fqn}: {error}") from error
        except DensorError as error:
            raise type(error)(f"{self._path / stored.file}: {index.fqn}: {error}") from error
        except (KeyError, TypeError):
            raise FileError(f"{self._path / stored.file}: {index.fqn}: has no moments") from None

    def same_shard(self, index: MetadataIndex, like: torch.Tensor) -> torch.Tensor | None:
        """The same shard in here, if there is one of the same shape and dtype."""
        if index not in self._storage:
            return None
        tensor = self.read(index)
        if not isinstance(tensor, torch.Tensor) or tensor.dtype != like.dtype:
            return None
        return tensor if tensor.shape == like.shape and like.is_contiguous() else None

    def close(self) -> None:
        """Closes the files that were opened to read shards."""
        for file in self._files.values():
            file.close()
        for base in self._bases.values():
            base.close()

    def _stored(self, index: MetadataIndex) -> Stored:
        stored = self._storage.get(index)
        if not isinstance(stored, Stored):
            known = "was not written by densor" if stored is not None else "is not in there"
            raise FileError(f"{self._path}: {index.fqn}: {known}")
        return stored

    def _base(self, name: str) -> "_Checkpoint":
        if name not in self._bases:
            path = Path(os.path.normpath(self._path / name))
            self._bases[name] = _Checkpoint(path, self._threads, depth=self._depth + 1)
        return self._bases[name]

    def _bytes(self, index: MetadataIndex, stored: Stored) -> bytes:
        path = self._path / stored.file
        with errors_of(path):
            if stored.file not in self._files:
                self._files[stored.file] = path.open("rb")
            file = self._files[stored.file]
            file.seek(stored.offset)
            blob = file.read(stored.length)
        if len(blob) != stored.length:
            raise TruncatedError(f"{path}: ends within {index.fqn}")
        return blob


def _local(planner: SavePlanner, item: WriteItem) -> torch.Tensor:
    """A shard, on the CPU."""
    data = planner.resolve_data(item)
    assert isinstance(data, torch.Tensor)
    return data.detach().cpu()


def _both(stem: str, index: MetadataIndex) -> dict[str, MetadataIndex]:
    """Where the moments of a shard are."""
    return {name: MetadataIndex(f"{stem}.{name}", index.offset) for name in MOMENTS}


def _metadata(path: Path) -> Metadata:
    _require_folder(path)
    with errors_of(path):
        return FileSystemReader(path).read_metadata()


def _require_folder(path: Path) -> None:
    if not path.is_dir():
        raise FileError(f"{path}: no such checkpoint, which another one is based on")


def _same(one: Path, other: Path) -> bool:
    return os.path.abspath(one) == os.path.abspath(other)


def based_on(path: PathLike) -> Iterator[Path]:
    """The checkpoints that must stay for this one to be readable, nearest first."""
    seen = {Path(os.path.abspath(path))}
    waiting = [Path(path)]
    while waiting:
        at = waiting.pop(0)
        names = {stored.base for stored in _metadata(at).storage_data.values()}
        for name in sorted(name for name in names if name is not None):
            base = Path(os.path.normpath(at / name))
            if Path(os.path.abspath(base)) not in seen:
                seen.add(Path(os.path.abspath(base)))
                waiting.append(base)
                yield base


def dcp_to_torch_save(path: PathLike, target: PathLike, threads: int = 0) -> None:
    """One plain file of `torch.save` of a packed checkpoint, as torch's tool of that name makes.

    `path`: the folder of the checkpoint; those it is based on are read where they are. The whole
    state is held in memory. `target` appears whole or not at all, over one that is there. Whatever
    is no tensor is unpickled on the way, as torch's own tool does: for checkpoints of your own.
    """
    from torch.distributed.checkpoint.default_planner import _EmptyStateDictLoadPlanner
    from torch.distributed.checkpoint.state_dict_loader import _load_state_dict

    target = Path(plain(target))
    state: dict[str, Any] = {}
    _load_state_dict(
        state,
        storage_reader=PackedReader(path, threads),
        planner=_EmptyStateDictLoadPlanner(),  # type: ignore[no-untyped-call]
        no_dist=True,
    )
    with whole_file(target, overwrite=True) as file:
        torch.save(state, file)
