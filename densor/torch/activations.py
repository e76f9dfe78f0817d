"""What autograd saves for the backward pass, packed while it waits.

By `torch.autograd.graph.saved_tensors_hooks`, as eDKM (arXiv 2309.00964) and others use them: each
tensor is packed once, in the way that suits it, and decoded where the backward pass wants it. The
gradients are the same bits.
"""

import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.multiprocessing.reductions import StorageWeakRef

import densor
from densor.errors import ArgumentError
from densor.runtime.arguments import need, need_whole
from densor.torch.again import Key, Recorder, key_of
from densor.torch.packed import PackedTensor

KINDS = ("same", "again", "mask", "zeros", "upcast", "floats")
DEFAULT_LEVEL = 1
_MIN_BYTES = 1 << 14  # of a tensor that is worth packing
_SAMPLE = 1 << 12  # elements of a tensor that are looked at
_MIN_ZEROS = 0.25  # share of zeros from which a bitmap is worth it
_RECENT = 3  # tensors that stay decoded a while, as several functions want them in turn
_MAX_SIZE = 0.9  # share that packing must leave, or the tensor is kept


@dataclass
class Saved:
    """What was saved for backward, in bytes: now, at most at a time, in all, and by kind.

    `plain`: as PyTorch would have held it, storages counted once; `held`: as it is held. `packing`,
    `unpacking`: seconds. What is kept as it is does not count.
    """

    plain: int = 0
    held: int = 0
    peak_plain: int = 0
    peak_held: int = 0
    packing: float = 0.0
    unpacking: float = 0.0
    kinds: dict[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def ratio(self) -> float:
        """Held at most, as a share of what would have been."""
        return self.peak_held / self.peak_plain if self.peak_plain else 1.0

    def add(self, kind: str, plain: int, held: int) -> None:
        """Counts a tensor that is saved."""
        self.plain += plain
        self.held += held
        self.peak_plain = max(self.peak_plain, self.plain)
        self.peak_held = max(self.peak_held, self.held)
        before = self.kinds.get(kind, (0, 0))
        self.kinds[kind] = before[0] + plain, before[1] + held

    def drop(self, plain: int, held: int) -> None:
        """Counts one that is not needed any more."""
        self.plain -= plain
        self.held -= held


class _Memory:
    """The elements of a storage, packed. `restore`: all of them, in memory order."""

    def __init__(
        self,
        restore: Callable[[], torch.Tensor],
        plain: int,
        held: int,
        saved: Saved,
        recent: deque[torch.Tensor],
    ) -> None:
        self._restore = restore
        self.saved = saved
        self._recent = recent
        self.plain, self.held = plain, held
        self._decoded: weakref.ref[torch.Tensor] | None = None
        self._lock = threading.Lock()

    def tensor(self) -> torch.Tensor:
        """The elements; while some backward function has them, they are not decoded again."""
        with self._lock:
            found = None if self._decoded is None else self._decoded()
            if found is None:
                found = self._restore()
                self._decoded = weakref.ref(found)
                self._recent.append(found)
            return found


@dataclass
class _View:
    """A saved tensor: packed elements, and how it looks at them."""

    memory: _Memory
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int

    def tensor(self) -> torch.Tensor:
        whole = self.memory.tensor()
        return whole.as_strided(self.shape, self.strides, self.offset)


@contextmanager
def pack_activations(
    model: torch.nn.Module | None = None,
    *,
    kinds: Collection[str] = KINDS,
    level: int = DEFAULT_LEVEL,
    threads: int = 0,
    min_bytes: int = _MIN_BYTES,
) -> Iterator[Saved]:
    """Within the block, what is saved for the backward pass is packed; yields a count of it.

    `model`: whose parameters and buffers are not packed, since they are there anyway. `kinds`:
    what is done: `same`: tensors that are saved several times are packed once; `again`: what SiLU,
    products, norms and casts have made of what is kept is computed again; `mask`: two values, as
    those of dropout, in a bit each or less; `zeros`: where many are zero, as after ReLU, a bitmap
    and the others; `upcast`: FP32 numbers that are BF16 in truth are held as such; `floats`: all
    others as `densor.compress` does. `level`, `threads`: for these. Smaller tensors than
    `min_bytes`, and those that do not become a tenth smaller, are kept.

    The backward pass may run after the block. Works with CPU tensors; others are kept.

    >>> with pack_activations(model) as saved:  # doctest: +SKIP
    ...     loss = model(batch).loss
    >>> loss.backward()  # doctest: +SKIP
    """
    if model is not None:
        need(model, torch.nn.Module, "model")
    need_whole(min_bytes=min_bytes)
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown:
        raise ArgumentError(f"unknown kind {unknown[0]!r}; known are {', '.join(KINDS)}")
    packer = _Packer(model, frozenset(kinds), level, threads, min_bytes)
    with torch.autograd.graph.saved_tensors_hooks(packer.pack, _unpack), packer.noting():
        yield packer.saved


def _unpack(saved: Any) -> torch.Tensor:
    if not isinstance(saved, _View):
        tensor: torch.Tensor = saved
        return tensor
    begin = time.perf_counter()
    found = saved.tensor()
    saved.memory.saved.unpacking += time.perf_counter() - begin
    return found


class _Packer:
    """The hooks of one block."""

    def __init__(
        self,
        model: torch.nn.Module | None,
        kinds: frozenset[str],
        level: int,
        threads: int,
        min_bytes: int,
    ) -> None:
        self.saved = Saved()
        self._kinds, self._level, self._threads = kinds, level, threads
        self._min_bytes = min_bytes
        held = [] if model is None else [*model.parameters(), *model.buffers()]
        self._own = {
            t.untyped_storage().data_ptr() for t in held if not isinstance(t, PackedTensor)
        }
        self._known: dict[Key, tuple[StorageWeakRef, weakref.ref[_Memory]]] = {}
        self._recent: deque[torch.Tensor] = deque(maxlen=_RECENT)
        self._recorder = Recorder(self._kept, min_bytes)

    @contextmanager
    def noting(self) -> Iterator[None]:
        """Within the block, what makes tensors is noted."""
        if "again" not in self._kinds:
            yield
            return
        with self._recorder:
            try:
                yield
            finally:
                self._recorder.forget()

    def _kept(self, tensor: torch.Tensor) -> Callable[[], torch.Tensor] | None:
        """What gives the storage of a tensor that is packed."""
        memory = self._memory_of(key_of(tensor))
        return None if memory is None else memory.tensor

    def pack(self, tensor: torch.Tensor) -> Any:
        """What is held in place of a tensor: itself where packing is not worth it."""
        if not self._may_be_packed(tensor):
            return tensor
        storage = tensor.untyped_storage()
        key = key_of(tensor)
        memory = self._memory_of(key)
        if memory is None:
            memory = self._made_again(tensor) or self._packed(tensor)
            if memory is None:
                return tensor
            if not self._kinds.isdisjoint(("same", "again")):
                of = StorageWeakRef(storage)  # type: ignore[no-untyped-call]
                self._known[key] = of, weakref.ref(memory)
        return _View(memory, tuple(tensor.shape), tensor.stride(), int(tensor.storage_offset()))

    def _may_be_packed(self, tensor: torch.Tensor) -> bool:
        plain = type(tensor) is torch.Tensor and tensor.layout == torch.strided
        if not plain or tensor.device.type != "cpu" or tensor.is_complex():
            return False
        if tensor.is_conj() or tensor.is_neg() or tensor.is_quantized or tensor.is_nested:
            return False
        storage = tensor.untyped_storage()
        if storage.data_ptr() in self._own or storage.nbytes() < self._min_bytes:
            return False
        # A few rows of a large storage are kept as they are: they would hold all of it, packed
        return 2 * tensor.nbytes >= storage.nbytes() and storage.nbytes() % tensor.itemsize == 0

    def _memory_of(self, key: Key) -> _Memory | None:
        """What this memory was packed to, unless it was freed or changed since."""
        found = self._known.get(key)
        if found is None:
            return None
        memory = found[1]()
        expired: bool = found[0].expired()  # type: ignore[no-untyped-call]
        if expired or memory is None:  # the address is another one's now
            del self._known[key]
            return None
        return memory

    def _made_again(self, tensor: torch.Tensor) -> _Memory | None:
        recipe = self._recorder.recipe_of(tensor)
        if recipe is None:
            return None
        return self._counted("again", tensor.untyped_storage().nbytes(), 0, recipe.made)

    def _counted(
        self, kind: str, plain: int, held: int, restore: Callable[[], torch.Tensor]
    ) -> _Memory:
        memory = _Memory(restore, plain, held, self.saved, self._recent)
        self.saved.add(kind, plain, held)
        weakref.finalize(memory, self.saved.drop, plain, held)
        return memory

    def _packed(self, tensor: torch.Tensor) -> _Memory | None:
        storage = tensor.untyped_storage()
        flat = torch.empty(0, dtype=tensor.dtype).set_(storage)
        begin = time.perf_counter()
        found = self._by_kind(flat)
        self.saved.packing += time.perf_counter() - begin
        if found is None:
            return None
        kind, held, restore = found
        if held > _MAX_SIZE * storage.nbytes():
            return None
        return self._counted(kind, storage.nbytes(), held, restore)

    def _by_kind(self, flat: torch.Tensor) -> tuple[str, int, Callable[[], torch.Tensor]] | None:
        """The first way that suits: its name, bytes that it holds, and what undoes it."""
        bits = _bits(flat)
        look = bits[:: max(1, bits.numel() // _SAMPLE)]
        if "mask" in self._kinds and torch.unique(look).numel() <= 2:
            found = self._as_mask(flat, bits)
            if found is not None:
                return "mask", *found
        zeros = 1 - torch.count_nonzero(look).item() / max(1, look.numel())
        if "zeros" in self._kinds and zeros >= _MIN_ZEROS and flat.is_floating_point():
            return "zeros", *self._with_zeros(flat, bits)
        if "upcast" in self._kinds and flat.dtype == torch.float32:
            narrow = _narrow(bits)
            if narrow is not None:
                blob = self._compressed(narrow)
                shift = 32 - 8 * narrow.itemsize
                return "upcast", len(blob), lambda: _widened(self._restored(blob), shift)
        if "floats" not in self._kinds:
            return None
        blob = self._compressed(flat)
        return "floats", len(blob), lambda: self._restored(blob)

    def _compressed(self, tensor: torch.Tensor) -> bytes:
        return densor.compress(tensor, self._level, self._threads)

    def _restored(self, blob: bytes) -> torch.Tensor:
        tensor: torch.Tensor = densor.decompress(blob, self._threads)
        return tensor

    def _as_mask(
        self, flat: torch.Tensor, bits: torch.Tensor
    ) -> tuple[int, Callable[[], torch.Tensor]] | None:
        """A bit for each element, packed, where there are no more than two values."""
        first = bits[:1]
        others = bits != first
        at = int(torch.argmax(others.to(torch.uint8)))
        second = bits[at : at + 1]
        if not bool(((bits == second) == others).all()) and bool(others.any()):
            return None
        values = torch.cat([first, second]).clone()
        size, dtype = flat.numel(), flat.dtype
        blob = densor.compress(np.packbits(others.numpy()), self._level, self._threads)

        def restore() -> torch.Tensor:
            bitmap = densor.decompress(blob, self._threads)
            which = torch.from_numpy(np.unpackbits(bitmap, count=size))
            return values[which.to(torch.int32)].view(dtype)

        return len(blob) + 16, restore

    def _with_zeros(
        self, flat: torch.Tensor, bits: torch.Tensor
    ) -> tuple[int, Callable[[], torch.Tensor]]:
        """A bitmap of what is not +0, and the others, packed."""
        others = bits != 0
        bitmap = np.packbits(others.numpy())
        blob = self._compressed(flat[others])
        size = flat.numel()

        def restore() -> torch.Tensor:
            whole = torch.zeros(size, dtype=flat_dtype)
            where = torch.from_numpy(np.unpackbits(bitmap, count=size).view(np.bool_))
            _bits(whole)[where] = _bits(self._restored(blob))
            return whole

        flat_dtype = flat.dtype
        return len(blob) + bitmap.nbytes, restore


_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    """The elements as integers."""
    return tensor.view(_INTEGERS[tensor.itemsize])


def _narrow(bits: torch.Tensor) -> torch.Tensor | None:
    """The upper halves of FP32 numbers as BF16, where all lower halves are zero."""
    halves = bits.view(torch.int16)
    if torch.count_nonzero(halves[:: 2 * max(1, bits.numel() // _SAMPLE)]) or bool(
        torch.count_nonzero(halves[::2])
    ):
        return None
    return halves[1::2].contiguous().view(torch.bfloat16)


def _widened(narrow: torch.Tensor, shift: int) -> torch.Tensor:
    """FP32 numbers from their upper halves."""
    wide = narrow.view(torch.int16).to(torch.int32) << shift
    return wide.view(torch.float32)
