"""Packed tensors that are decoded where they are copied to, while the copier goes on.

`Placing` decodes several `densor.torch.undecoded.Undecoded` tensors at a time, and has whoever
touches the memory that one goes to wait for it.
"""

import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from densor.runtime.types import Bytes
from densor.runtime.workers import thread_count
from densor.torch.undecoded import WITHOUT_MEMORY, Part, Undecoded, is_plain

_ATEN = torch.ops.aten
_VIEWS = {  # operations that read and write no element
    _ATEN.detach.default,
    _ATEN.alias.default,
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
_READS = {getattr(torch.Tensor, name) for name in WITHOUT_MEMORY}
_SET_DATA = torch.Tensor.data.__set__  # type: ignore[attr-defined]


class Placing(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Decodes tensors where they are copied to by `threads` threads (0: all processors), each one
    of its own, while the thread that made this goes on; what it does with memory that is not
    decoded yet waits for that. In its own thread, as a context; after `finish` all is decoded, and
    after `close` whoever copies decodes.

    `total`: bytes of what will be decoded; `placed` of these, what is decoded `elsewhere`, and what
    is `spared`, since only rows of a tensor are wanted.
    """

    def __init__(self, threads: int = 0) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._owner = threading.get_ident()
        self._closed = False
        self._pool = ThreadPoolExecutor(thread_count(threads), "densor-placing")
        self._waiting: deque[tuple[int, int, Future[None]]] = deque()  # addresses; oldest first
        self.placed = self.elsewhere = self.spared = self.total = 0

    def take(self, part: Part, out: Bytes, around: Bytes) -> bool:
        """Has it decoded; False for other threads, whose reading would not wait, and at the end."""
        if self._closed or threading.get_ident() != self._owner:
            return False
        self.check(_MOST - 1)
        self.placed += out.size
        begin = out.ctypes.data
        task = self._pool.submit(part.decode_beside, out, around, self.total)
        self._waiting.append((begin, begin + out.size, task))
        return True

    def check(self, most: int = _MOST) -> None:
        """Forgets what is done, and waits until no more than so many are left; raises what went
        wrong with them."""
        while self._waiting and (self._waiting[0][2].done() or len(self._waiting) > most):
            self._waiting.popleft()[2].result()

    def finish(self) -> None:
        """Waits for all that was begun; raises the first of what went wrong.

        Does nothing in other threads, for which nothing is begun.
        """
        if threading.get_ident() == self._owner:
            self.check(0)

    def close(self) -> None:
        """Drops what was not begun, and waits for the end of what was."""
        self._closed = True
        self._waiting.clear()
        self._pool.shutdown(cancel_futures=True)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Waits where an operation meets memory that is being written."""
        kwargs = kwargs or {}
        if self._waiting and func not in _VIEWS:
            with torch._C.DisableTorchFunction():  # or `_Reads` would wait for all of them
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
            args = args[0], args[1].part.view
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
