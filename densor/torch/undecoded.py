"""Packed tensors that are decoded once it is known where they, or rows of them, are to be.

A loader of weights is handed `Undecoded` tensors. What it does with most of them is to copy them,
or the rows that a rank of tensor parallelism needs, into a parameter, or into the rows of one: such
a copy decodes just that, there, without memory or a copy in between. Anything else that is done
with one makes a tensor of it first.

How a tensor hears of what is done with it: pytorch.org/docs/stable/notes/extending.html, "Extending
torch native API".
"""

import math
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch.utils._pytree import tree_map_only

from densor import dtypes
from densor.errors import UnsupportedError
from densor.files.tensor_bytes import threads_of
from densor.formats.container.base import GivenBase
from densor.formats.container.packed_array import PackedArray
from densor.formats.container.tensor_blob import Tensor
from densor.formats.packed.reader import PackedFile
from densor.runtime.buffers import BufferPool
from densor.runtime.huge_pages import HUGE_PAGES
from densor.runtime.locks import Lock
from densor.runtime.types import Bytes
from densor.torch.blob import read_tensor

_ATEN = torch.ops.aten
_DEVICE = torch.ops.prim.device.default
_FOR_ALL = 1 << 23  # bytes of a part that all threads decode while the one that copies waits
_SAME = (_ATEN.detach.default, _ATEN.alias.default)
_SHAPED = (_ATEN.view.default, _ATEN.reshape.default)
WITHOUT_MEMORY = (  # methods that are no operations, and need a tensor's memory
    "__array__",
    "__deepcopy__",
    "__dlpack__",
    "__reduce_ex__",
    "data_ptr",
    "new_tensor",  # would be of no device
    "numpy",
    "share_memory_",
    "tolist",
    "untyped_storage",
)


class Taker(Protocol):
    """What decodes parts later, in other threads.

    `elsewhere`: bytes that were decoded to memory of their own; `spared`: of tensors of which only
    parts were wanted; `total`: of all tensors, where they are known.
    """

    elsewhere: int
    spared: int
    total: int

    def take(self, part: "Part", out: Bytes, around: Bytes) -> bool:
        """Has a part decoded into `out`, in memory `around` it; False where the caller is to."""

    def check(self) -> None:
        """Raises what went wrong with what is done."""

    def finish(self) -> None:
        """Waits for all that was begun for the thread that asks."""


class AtOnce:
    """A `Taker` for those who hear of nothing but copies: each of these decodes before it ends.

    `placed`: bytes that were.
    """

    def __init__(self) -> None:
        self.placed = self.elsewhere = self.spared = self.total = 0

    def take(self, part: "Part", out: Bytes, around: Bytes) -> bool:
        """False: the caller is to decode."""
        self.placed += out.size
        return False

    def check(self) -> None:
        """Nothing is begun here."""

    def finish(self) -> None:
        """Nothing is begun here."""


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
        self.threads = threads
        self._base_of, self._pool = base_of, pool
        self._lock = Lock()
        self._whole: torch.Tensor | None = None
        self._array: PackedArray | None = None
        self._in_parts = 0  # bytes decoded for parts
        self.placing: Taker | None = None

    def tensor(self) -> "Undecoded":
        """A tensor that stands for it."""
        dtype, shape = dtypes.for_torch(self.info.dtype, self.info.shape)
        return Undecoded(Part(self, dtypes.to_torch(dtype), tuple(shape), 0))

    @property
    def whole(self) -> torch.Tensor:
        """The tensor in memory of its own, decoded by all threads unless it is there already."""
        with self._lock:
            if self._whole is None:
                self._whole = read_tensor(
                    self.file, self.name, self.threads, self._base_of, self._pool
                )
                if self.placing is not None:
                    self.placing.elsewhere += self.info.size
            return self._whole

    @property
    def is_there(self) -> bool:
        """Whether it has been decoded as a whole."""
        return self._whole is not None

    def read(self, out: Bytes, threads: int) -> None:
        """Decodes all of it into `out`."""
        self.file.read(self.name, threads, self._base_of, out)

    def read_part(self, out: Bytes, begin: int, threads: int) -> bool:
        """Decodes its bytes from `begin` on into `out`.

        False where all of it had better be decoded: it was already, it has a base, or so many parts
        were wanted that another one would take more in all. Hashes of what is stored are checked;
        the one of the whole tensor cannot be.
        """
        with self._lock:
            if self._whole is not None:
                return False
            first = self._array is None
            try:
                array = self._array or self.file.array(self.name)
            except UnsupportedError:
                return False
            cost = array.cost(begin, begin + out.size)
            if not first and self._in_parts + cost > self.info.size:
                return False
            self._array, self._in_parts = array, self._in_parts + cost
            if self.placing is not None:
                self.placing.spared += first * self.info.size - out.size
        self.file.read_part(self.name, array, begin, out, threads)
        return True

    def memory(self, size: int) -> torch.Tensor:
        """Bytes for a part of it."""
        if self._pool is None:
            return torch.empty(size, dtype=torch.uint8, device="cpu")
        return torch.from_numpy(self._pool.take_until_dropped(size))


class Part:
    """Elements of a `Stored` that follow one another: all of them, or rows; `begin` in bytes."""

    def __init__(
        self, stored: Stored, dtype: torch.dtype, shape: tuple[int, ...], begin: int
    ) -> None:
        self.stored, self.dtype, self.shape, self.begin = stored, dtype, shape, begin
        self.count = math.prod(shape)
        self.size = self.count * dtype.itemsize

    @property
    def _is_all(self) -> bool:
        return self.size == self.stored.info.size

    @property
    def view(self) -> torch.Tensor:
        """These elements of the whole tensor, which is decoded for it."""
        begin = self.begin // self.dtype.itemsize
        return self.stored.whole.reshape(-1)[begin : begin + self.count].view(self.shape)

    @property
    def tensor(self) -> torch.Tensor:
        """These elements, which are to be read only."""
        if self._is_all or not self.size:
            return self.view
        memory, stored = self.stored.memory(self.size), self.stored
        if not stored.read_part(memory.numpy(), self.begin, stored.threads):
            return self.view
        if stored.placing is not None:
            stored.placing.elsewhere += self.size
        return memory.view(self.dtype).reshape(self.shape)

    def decode_beside(self, out: Bytes, around: Bytes, total: int) -> None:
        """As `decode_into`, beside other parts; `total` as for `threads_of`."""
        self.decode_into(out, around, threads_of(self.size, self.stored.threads, total))

    def decode_into(self, out: Bytes, around: Bytes, threads: int) -> None:
        """Decodes into `out`, which lies in memory `around` it that may be fresh."""
        HUGE_PAGES.fill(out, around)
        if self._is_all:
            self.stored.read(out, threads)
        elif not self.stored.read_part(out, self.begin, threads):
            out[:] = self.view.reshape(-1).view(torch.uint8).numpy()

    def copied(self, target: torch.Tensor) -> bool:
        """Has it decoded into a tensor; False where that has another form."""
        if self.stored.is_there or not self._fits(target):
            return False
        out, around = _bytes_of(target)
        placing = self.stored.placing
        if placing is None or not placing.take(self, out, around):
            self.decode_into(out, around, self.stored.threads if self.size >= _FOR_ALL else 1)
        return True

    def _fits(self, target: torch.Tensor) -> bool:
        """Whether the bytes of a tensor can be these."""
        return (
            target.device.type == "cpu"
            and is_plain(target)
            and target.layout == torch.strided
            and target.dtype == self.dtype
            and target.is_contiguous()
            and target.nbytes == self.size
            and not (target.is_conj() or target.is_neg())
        )

    def after(self, func: Any, args: Any) -> "Part | None":
        """What an operation with arguments behind the tensor gives, if that is such a part."""
        if func in _SAME:
            return self
        if func in _SHAPED:
            return self._shaped(tuple(args[0]))
        if func is _ATEN.slice.Tensor:
            return self._sliced(*args)
        if func is _ATEN.narrow.default:
            dim, begin, count = args
            length = self.shape[dim] if -len(self.shape) <= dim < len(self.shape) else -1
            fits = begin >= 0 and 0 <= count <= length - begin
            return self._sliced(dim, begin, begin + count) if fits else None
        if func is _ATEN.select.int and self.shape and args[0] == 0:
            row = args[1] + self.shape[0] * (args[1] < 0)
            if 0 <= row < self.shape[0]:
                size = self.size // self.shape[0]
                return Part(self.stored, self.dtype, self.shape[1:], self.begin + row * size)
        return None

    def _shaped(self, shape: tuple[int, ...]) -> "Part | None":
        """The same elements in another shape, in which one number may be -1."""
        if -1 in shape:
            known = -math.prod(shape)
            if known <= 0 or self.count % known:
                return None
            shape = tuple(self.count // known if n == -1 else n for n in shape)
        if math.prod(shape) != self.count or any(n < 0 for n in shape):
            return None
        return Part(self.stored, self.dtype, shape, self.begin)

    def _sliced(
        self, dim: int = 0, begin: int | None = None, end: int | None = None, step: int = 1
    ) -> "Part | None":
        """What `aten.slice` gives, if its elements follow one another."""
        shape = self.shape
        if not -len(shape) <= dim < len(shape) or step != 1:
            return None
        dim %= len(shape)
        begin, end, _ = slice(begin, end).indices(shape[dim])
        count = max(0, end - begin)
        if count != shape[dim] and math.prod(shape[:dim]) != 1:
            return None
        row = math.prod(shape[dim + 1 :]) * self.dtype.itemsize
        made = (*shape[:dim], count, *shape[dim + 1 :])
        return Part(self.stored, self.dtype, made, self.begin + begin * row)


class Undecoded(torch.Tensor):
    """Stands for a tensor in a blob, or rows of it, until it is known where that is to be.

    On the CPU.
    """

    part: Part
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, part: Part) -> "Undecoded":
        """Of the type and shape of these elements.

        For torch it is of no device, whatever it says: `parameter.data = tensor` would otherwise
        take over memory that is not there, of which nobody hears.
        """
        made: Undecoded = torch.Tensor._make_wrapper_subclass(
            cls, part.shape, dtype=part.dtype, device=torch.device("meta"), dispatch_device=True
        )
        made.part = part
        return made

    def __init__(self, part: Part) -> None:
        """Nothing more."""

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        name = self.part.stored.name
        return f"Undecoded({name!r}, shape={tuple(self.shape)}, dtype={self.dtype})"

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Whatever is done with it, by torch's own operations."""
        first = args[0]
        if func is _DEVICE:
            return torch.device("cpu")
        if func is _ATEN.copy_.default and isinstance(args[1], cls):
            if first.device.type == "meta":  # where nothing is written
                return first
            if first.shape == args[1].shape and args[1].part.copied(first):
                return first
        elif isinstance(first, cls) and not kwargs:
            found = first.part.after(func, args[1:])
            if found is not None:
                return cls(found)
        taken = _view_of if _shares_memory(func, args, kwargs) else _tensor_of
        made = tree_map_only(cls, taken, (args, kwargs or {}))
        done: torch.Tensor = func(*made[0], **made[1])
        return done


def _tensor_of(tensor: Undecoded) -> torch.Tensor:
    return tensor.part.tensor


def _view_of(tensor: Undecoded) -> torch.Tensor:
    """That of the whole tensor, which may be written to; what was decoded from it is done then."""
    if tensor.part.stored.placing is not None:
        tensor.part.stored.placing.finish()
    return tensor.part.view


def _shares_memory(func: Any, args: Any, kwargs: Any) -> bool:
    """Whether an operation writes to an `Undecoded`, or gives another tensor over its memory."""
    given = {id(value) for value in (*args, *(kwargs or {}).values()) if _holds(value)}
    names = [argument.name for argument in func._schema.arguments]
    values = {**dict(zip(names, args, strict=False)), **(kwargs or {})}
    return any(
        argument.alias_info is not None and id(values.get(argument.name)) in given
        for argument in func._schema.arguments
    )


def _holds(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return any(map(_holds, value))
    return isinstance(value, Undecoded)


def _with_memory(name: str) -> Callable[..., Any]:
    def method(self: Undecoded, *args: Any, **kwargs: Any) -> Any:
        return getattr(_view_of(self), name)(*args, **kwargs)

    return method


for _name in WITHOUT_MEMORY:
    setattr(Undecoded, _name, _with_memory(_name))


def is_plain(tensor: torch.Tensor) -> bool:
    """Whether a tensor has memory of its own, and no class that sees what is done with it."""
    return type(tensor).__torch_dispatch__ is torch.Tensor.__torch_dispatch__


def _bytes_of(tensor: torch.Tensor) -> tuple[Bytes, Bytes]:
    """Those of a contiguous tensor, and all of the memory in which it lies."""
    storage = tensor.untyped_storage()
    around = torch.empty(0, dtype=torch.uint8, device="cpu").set_(storage).numpy()
    begin = tensor.storage_offset() * tensor.itemsize
    return around[begin : begin + tensor.nbytes], around
