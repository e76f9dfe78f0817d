"""Packed tensors that are decoded where they are copied to, in memory that the copier has.

A loader of weights is handed `Undecoded` tensors. What it does with most of them is to copy them
into a parameter, or into the rows of one: such a copy decodes there, without memory or a copy in
between. Anything else that is done with one makes a tensor of it first. `Placing` decodes several
at a time, and has whoever touches such a destination wait for it.

How a tensor hears of what is done with it: pytorch.org/docs/stable/notes/extending.html, "Extending
torch native API".
"""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only

from densor import dtypes
from densor.formats.container.base import GivenBase
from densor.formats.container.tensor_blob import Tensor
from densor.formats.packed.reader import PackedFile
from densor.runtime.buffers import BufferPool
from densor.runtime.huge_pages import HUGE_PAGES
from densor.runtime.types import Bytes
from densor.runtime.workers import thread_count
from densor.torch.blob import read_tensor, threads_of

_ATEN = torch.ops.aten
_SAME = (_ATEN.detach.default, _ATEN.alias.default)
_SHAPED = (_ATEN.view.default, _ATEN.reshape.default)
_VIEWS = {  # operations that read and write no element
    *_SAME,
    _ATEN.view.default,
    _ATEN.slice.Tensor,
    _ATEN.narrow.default,
    _ATEN.select.int,
    _ATEN.transpose.int,
    _ATEN.t.default,
    _ATEN.permute.default,
    _ATEN.unsqueeze.default,
}
_MOST = 32  # that are being decoded, or wait for it
_WITHOUT_MEMORY = (  # methods that are no operations, and need a tensor's memory
    "__array__",
    "__deepcopy__",
    "__dlpack__",
    "__reduce_ex__",
    "data_ptr",
    "numpy",
    "share_memory_",
    "tolist",
    "untyped_storage",
)
_READS = {getattr(torch.Tensor, name) for name in _WITHOUT_MEMORY}
_SET_DATA = torch.Tensor.data.__set__  # type: ignore[attr-defined]


class Stored:
    """A blob of a file that somebody may want decoded. Safe to use from several threads."""

    def __init__(
        self,
        file: PackedFile,
        name: str,
        threads: int = 0,
        base_of: Callable[[Tensor], GivenBase] | None = None,
        pool: BufferPool | None = None,
    ) -> None:
        self.file, self.name, self.info = file, name, file.info(name)
        self._threads, self._base_of, self._pool = threads, base_of, pool
        self._lock = threading.Lock()
        self._whole: torch.Tensor | None = None
        self.placing: Placing | None = None

    def tensor(self) -> "Undecoded":
        """A tensor that stands for it."""
        return Undecoded(self)

    @property
    def whole(self) -> torch.Tensor:
        """The tensor in memory of its own, decoded by all threads unless it is there already."""
        with self._lock:
            if self._whole is None:
                self._whole = read_tensor(
                    self.file, self.name, self._threads, self._base_of, self._pool
                )
                if self.placing is not None:
                    self.placing.elsewhere += self.info.size
            return self._whole

    def decode_into(self, out: Bytes, around: Bytes, total: int = 0) -> None:
        """Decodes into `out`, which lies in memory `around` it that may be fresh.

        `total` as for `threads_of`.
        """
        HUGE_PAGES.fill(out, around)
        threads = threads_of(self.info.size, self._threads, total)
        self.file.read(self.name, threads, self._base_of, out)

    def copied(self, target: torch.Tensor) -> bool:
        """Has it decoded into a tensor; False where that has another form."""
        if self._whole is not None or not _takes(target, self.info):
            return False
        out, around = _bytes_of(target)
        if self.placing is None or not self.placing.take(self, out, around):
            self.decode_into(out, around)
        return True


class Undecoded(torch.Tensor):
    """Stands for the tensor in a blob, on the CPU, until it is known where that is to be."""

    stored: Stored
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, stored: Stored) -> "Undecoded":
        """Of the type and shape that the file gives."""
        dtype, shape = dtypes.for_torch(stored.info.dtype, stored.info.shape)
        made: Undecoded = torch.Tensor._make_wrapper_subclass(
            cls, shape, dtype=dtypes.to_torch(dtype), device=torch.device("cpu")
        )
        made.stored = stored
        return made

    def __init__(self, stored: Stored) -> None:
        """Nothing more."""

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"Undecoded({self.stored.name!r}, shape={tuple(self.shape)}, dtype={self.dtype})"

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> torch.Tensor:
        """Whatever is done with it, by torch's own operations."""
        first = args[0]
        if func is _ATEN.copy_.default and isinstance(args[1], cls):
            if first.device.type == "meta":  # where nothing is written
                return first  # type: ignore[no-any-return]
            if first.shape == args[1].shape and args[1].stored.copied(first):
                return first  # type: ignore[no-any-return]
        elif isinstance(first, cls) and _is_all_of(func, first, args):
            return first.stored.tensor()
        whole = tree_map_only(cls, lambda one: one.stored.whole, (args, kwargs or {}))
        done: torch.Tensor = func(*whole[0], **whole[1])
        return done


def _with_memory(name: str) -> Callable[..., Any]:
    def method(self: Undecoded, *args: Any, **kwargs: Any) -> Any:
        return getattr(self.stored.whole, name)(*args, **kwargs)

    return method


for _name in _WITHOUT_MEMORY:
    setattr(Undecoded, _name, _with_memory(_name))


def _is_all_of(func: Any, tensor: torch.Tensor, args: Any) -> bool:
    """Whether an operation gives all elements of a tensor in their order and shape."""
    if func in _SAME:
        return True
    if func in _SHAPED:
        return bool(tuple(args[1]) == tuple(tensor.shape))
    shape: tuple[int, ...] = tuple(tensor.shape)
    if func is _ATEN.narrow.default:
        return bool(args[2] == 0 and args[3] == shape[args[1]])
    if func is not _ATEN.slice.Tensor:
        return False
    return _slices_all(shape, *args[1:])


def _slices_all(
    shape: tuple[int, ...],
    dim: int = 0,
    begin: int | None = None,
    end: int | None = None,
    step: int = 1,
) -> bool:
    """Whether `aten.slice` gives everything; its arguments, with their defaults."""
    return begin in (None, 0) and (end is None or end >= shape[dim]) and step == 1


def _takes(target: torch.Tensor, info: Tensor) -> bool:
    """Whether the bytes of a tensor can be those of this one."""
    return (
        target.device.type == "cpu"
        and is_plain(target)
        and target.layout == torch.strided
        and target.dtype == dtypes.to_torch(dtypes.for_torch(info.dtype, info.shape)[0])
        and target.is_contiguous()
        and target.nbytes == info.size
        and not (target.is_conj() or target.is_neg())
    )


def is_plain(tensor: torch.Tensor) -> bool:
    """Whether a tensor has memory of its own, and no class that sees what is done with it."""
    return type(tensor).__torch_dispatch__ is torch.Tensor.__torch_dispatch__


def _bytes_of(tensor: torch.Tensor) -> tuple[Bytes, Bytes]:
    """Those of a contiguous tensor, and all of the memory in which it lies."""
    storage = tensor.untyped_storage()
    around = torch.empty(0, dtype=torch.uint8, device="cpu").set_(storage).numpy()
    begin = tensor.storage_offset() * tensor.itemsize
    return around[begin : begin + tensor.nbytes], around


class Placing(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Decodes tensors where they are copied to by `threads` threads (0: all processors), each one
    of its own, while the thread that made this goes on; what it does with memory that is not
    decoded yet waits for that. In its own thread, as a context; after `finish` all is decoded.

    `total`: bytes of what will be decoded; `placed` of these, and what is decoded `elsewhere`.
    """

    def __init__(self, threads: int = 0) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._owner = threading.get_ident()
        self._pool = ThreadPoolExecutor(thread_count(threads), "densor-placing")
        self._waiting: deque[tuple[int, int, Future[None]]] = deque()  # addresses; oldest first
        self.placed = self.elsewhere = self.total = 0

    def take(self, stored: Stored, out: Bytes, around: Bytes) -> bool:
        """Has a blob decoded; False for other threads, whose reading would not wait."""
        if threading.get_ident() != self._owner:
            return False
        self.check(_MOST - 1)
        self.placed += out.size
        begin = out.ctypes.data
        task = self._pool.submit(stored.decode_into, out, around, self.total)
        self._waiting.append((begin, begin + out.size, task))
        return True

    def check(self, most: int = _MOST) -> None:
        """Forgets what is done, and waits until no more than so many are left; raises what went
        wrong with them."""
        while self._waiting and (self._waiting[0][2].done() or len(self._waiting) > most):
            self._waiting.popleft()[2].result()

    def finish(self) -> None:
        """Waits for all that was begun; raises the first of what went wrong."""
        self.check(0)

    def close(self) -> None:
        """Drops what was not begun, and waits for the end of what was."""
        self._waiting.clear()
        self._pool.shutdown(cancel_futures=True)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Waits where an operation meets memory that is being written."""
        kwargs = kwargs or {}
        if self._waiting and func not in _VIEWS:
            for one in tree_flatten((args, kwargs))[0]:
                if isinstance(one, torch.Tensor) and not isinstance(one, Undecoded):
                    self._wait_for(one)
        return func(*args, **kwargs)

    def _wait_for(self, tensor: torch.Tensor) -> None:
        if not is_plain(tensor) or tensor.layout != torch.strided:
            self.finish()
        elif tensor.device.type == "cpu" and tensor.numel():
            last = sum(
                (n - 1) * step for n, step in zip(tensor.shape, tensor.stride(), strict=True)
            )
            begin = tensor.data_ptr()
            end = begin + (last + 1) * tensor.itemsize
            for other, other_end, task in self._waiting:
                if begin < other_end and other < end:
                    task.result()


class _Reads(TorchFunctionMode):
    """What is done with tensors without any operation, of which `Placing` does not hear: waits
    before their memory is read, and lets a tensor take over that of a decoded one."""

    def __init__(self, placing: Placing) -> None:
        super().__init__()
        self._placing = placing

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _READS:
            self._placing.finish()
        elif func == _SET_DATA and isinstance(args[1], Undecoded):
            args = args[0], args[1].stored.whole
        return func(*args, **(kwargs or {}))


@contextmanager
def placing(threads: int = 0) -> Iterator[Placing]:
    """Decodes while a block copies, all of it at its end; at an error nothing goes on."""
    mode = Placing(threads)
    try:
        with mode, _Reads(mode):
            yield mode
            mode.finish()
    finally:
        mode.close()
